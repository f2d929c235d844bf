//! Counters.

use std::collections::BTreeMap;

/// `GET /vm.counters`: counters by name, in groups: `map` (lookups, waits, sections),
/// `exits`, `hotplug`, `dma`, `guest`, `trace`; in a storm also `stress`. All but
/// `blocks_plugged_now` only grow. A group may gain counters in a later version.
pub type Counters = BTreeMap<String, BTreeMap<String, u64>>;
