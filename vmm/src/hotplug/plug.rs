//! Plugging blocks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::claim::Claim;
use super::region::{Plugged, State};
use super::{BlockKind, HotplugError, HotplugRegion, PlugReport};
use crate::kvm::{MemSlot, SlotAccess};
use crate::memory::faults::{self, Step};
use crate::memory::{Backing, Mapping};
use crate::mm::VmFlags;

impl HotplugRegion {
    /// Plugs a block of fresh, zeroed memory and offers it to the guest: memory,
    /// then memslot, then map, then guest. Blocks while another write section is
    /// open, and while KVM changes its slots. On an error all is as before.
    pub fn plug(&self, block: u32, kind: BlockKind) -> Result<PlugReport, HotplugError> {
        self.plug_all(&[block], kind)
    }

    /// As [`plug`](Self::plug), for several blocks in one write section: a lookup
    /// sees all of them or none, and if one cannot be plugged, none is. (The guest
    /// reaches each as soon as its memslot is in, but hears of them at the end.)
    pub fn plug_all(&self, blocks: &[u32], kind: BlockKind) -> Result<PlugReport, HotplugError> {
        let claim = Claim::of(self, blocks)?;
        let (slots, report) = self.bring_in(blocks, kind)?;
        for (block, slot) in slots {
            // Offered before it can be found and unplugged: the other order
            // would ask the guest back for what it was never offered.
            self.controller.offer(block, kind == BlockKind::Volatile);
            self.states()
                .insert(block, State::Plugged(Plugged { slot, kind }));
        }
        drop(claim);
        Ok(report)
    }

    fn bring_in(
        &self,
        blocks: &[u32],
        kind: BlockKind,
    ) -> Result<(Vec<(u32, MemSlot)>, PlugReport), HotplugError> {
        let start = Instant::now();
        let memory = |&block| Ok((block, Arc::new(self.block_memory(block, kind)?)));
        let memory: Vec<(u32, Arc<Mapping>)> = blocks
            .iter()
            .map(memory)
            .collect::<Result<_, HotplugError>>()?;
        let mmap = start.elapsed();

        let flags = VmFlags::READ | VmFlags::WRITE | VmFlags::EXEC | VmFlags::NOMERGE;
        let mut section = self.space.mm().mmap_write_lock()?;
        for (block, ram) in &memory {
            section.map(
                self.block_range(*block),
                flags,
                0,
                Backing::Ram(ram.clone()),
            )?;
        }
        let drained = section.lock()?;
        let (slots, kvm) = self.add_slots(memory)?;
        drained.publish();

        let total = start.elapsed();
        let map = total - mmap - kvm;
        let report = PlugReport {
            blocks: blocks.len(),
            total,
            mmap,
            kvm,
            map,
        };
        Ok((slots, report))
    }

    /// A memslot for each block, or none at all.
    fn add_slots(
        &self,
        memory: Vec<(u32, Arc<Mapping>)>,
    ) -> Result<(Vec<(u32, MemSlot)>, Duration), HotplugError> {
        let start = Instant::now();
        let mut slots = Vec::with_capacity(memory.len());
        for (block, ram) in memory {
            let gpa = self.block_range(block).start();
            match self.vm.add_slot(gpa, ram, SlotAccess::ReadWrite) {
                Ok(slot) => slots.push((block, slot)),
                Err(error) => {
                    self.remove_slots(slots);
                    return Err(error.into());
                }
            }
        }
        Ok((slots, start.elapsed()))
    }

    /// Takes slots out again, the last one first. Those that KVM does not let go
    /// stay with their blocks, which cannot be plugged before they are out.
    fn remove_slots(&self, slots: Vec<(u32, MemSlot)>) {
        for (block, slot) in slots.into_iter().rev() {
            if let Err((slot, error)) = slot.remove() {
                log::error!("undoing a plug of block {block}: {error}");
                self.states().insert(block, State::Stuck(slot));
            }
        }
    }

    fn block_memory(&self, block: u32, kind: BlockKind) -> Result<Mapping, HotplugError> {
        let len = self.block_size();
        let no_memory = |source| HotplugError::NoMemory { len, source };
        let ram = Mapping::anonymous(len).map_err(no_memory)?;
        if kind == BlockKind::Volatile {
            faults::check(Step::FillBlock).map_err(no_memory)?;
            for (offset, pattern) in self.volatile_patterns(block) {
                ram.write(offset, &pattern.to_le_bytes())
                    .map_err(|fault| no_memory(std::io::Error::other(fault)))?;
            }
        }
        Ok(ram)
    }
}
