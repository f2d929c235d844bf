//! The exits of all vCPUs, as rows of tables.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::Machine;
use super::report::{ExitGroup, ExitRow};
use crate::memory::Served;
use crate::trace::{ExitKey, ExitKind, ExitTable, Times};

/// A row per kind and address, the most frequent first.
pub(super) fn rows(machine: &Machine, exits: &ExitTable) -> Vec<ExitRow> {
    let all = total(exits);
    let mut rows: Vec<_> = exits.iter().collect();
    rows.sort_by_key(|(key, times)| (Reverse(times.count()), **key));
    let row = |(key, times): (&ExitKey, &Times)| ExitRow {
        key: key.to_string(),
        target: target(machine, key),
        share: times.count() as f64 / all,
        times: times.summary(),
    };
    rows.into_iter().map(row).collect()
}

/// A row per kind and who answered, the most frequent first.
pub(super) fn groups(machine: &Machine, exits: &ExitTable) -> Vec<ExitGroup> {
    let all = total(exits);
    let mut groups: BTreeMap<(ExitKind, String), (usize, Times)> = BTreeMap::new();
    for (key, times) in exits.iter() {
        let group = groups.entry((key.kind, target(machine, key))).or_default();
        group.0 += 1;
        group.1.add(times);
    }
    let mut rows: Vec<_> = groups
        .into_iter()
        .map(|((kind, target), (addresses, times))| {
            let share = times.count() as f64 / all;
            ExitGroup {
                kind,
                target,
                addresses,
                share,
                times: times.summary(),
            }
        })
        .collect();
    rows.sort_by_key(|row| Reverse(row.times.count));
    rows
}

fn total(exits: &ExitTable) -> f64 {
    exits.count() as f64
}

/// Who answers there.
fn target(machine: &Machine, key: &ExitKey) -> String {
    let space = match key.kind {
        ExitKind::PioIn | ExitKind::PioOut => &machine.shared.ports,
        _ => &machine.shared.memory,
    };
    match key.served {
        None => String::new(),
        Some(Served::Unmapped) => "unmapped".to_owned(),
        Some(Served::RomWrite) => "rom".to_owned(),
        Some(Served::Memory) => "ram".to_owned(),
        Some(Served::Device | Served::DeviceFailed) => {
            let map = space
                .mm()
                .mmap_read_lock()
                .expect("no section of this thread's");
            let name = map
                .vma_lookup(key.addr)
                .map(|vma| vma.payload().name().to_owned());
            let failed = if key.served == Some(Served::DeviceFailed) {
                " (failed)"
            } else {
                ""
            };
            name.unwrap_or_default() + failed
        }
    }
}
