//! The map of a machine.

use std::collections::HashMap;

use super::super::model::MapEntry;
use super::super::of_map;
use super::MachineVm;

impl MachineVm {
    pub(super) fn map_entries(&self, from: u64, limit: usize) -> Vec<MapEntry> {
        let (memory, monitor) = (self.machine.memory(), self.machine.sections());
        let mut entries = of_map::entries(memory.mm(), Some(monitor), self.rate, from, limit);
        let slots: HashMap<u64, u32> = self.machine.slots().into_iter().collect();
        let (ids, hits) = (self.hotplug.ids(), self.hits());
        for entry in &mut entries {
            // A block that was split has several VMAs, and one slot.
            entry.slot = match self.hotplug.block_start(entry.start) {
                Some(start) => slots.get(&start).copied(),
                None => slots.get(&entry.start).copied(),
            };
            let id = ids.get(&self.hotplug.block_start(entry.start).unwrap_or(entry.start));
            entry.id = id.cloned();
            let first = hits.partition_point(|(addr, _)| *addr < entry.start);
            let inside = hits[first..]
                .iter()
                .take_while(|(addr, _)| addr - entry.start < entry.size);
            entry.hits = Some(inside.map(|(_, count)| count).sum());
            if entry.backing == super::super::model::Backing::Mmio
                && let Some(name) = self.machine.device_at(false, entry.start)
            {
                name.clone_into(&mut entry.name);
            }
        }
        entries
    }
}
