//! Plugging a block.

use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::Instant;

use super::region::{Plugged, State};
use super::{BlockKind, HotplugError, HotplugRegion, PlugReport};
use crate::devices::BlockPhase;
use crate::kvm::{BlockSlot, LazyMemSlot, SlotAccess};
use crate::memory::{Backing, GuestSpace, LazyRam, Mapping};
use crate::mm::VmFlags;

impl HotplugRegion {
    /// Plugs a block of fresh, zeroed memory and offers it to the guest: memory,
    /// then memslot, then map, then guest. Blocks while another write section is
    /// open, and while KVM changes its slots. On an error all is as before.
    pub fn plug(&self, block: u32, kind: BlockKind) -> Result<PlugReport, HotplugError> {
        self.check(block)?;
        match self.states().entry(block) {
            Entry::Occupied(_) => return Err(HotplugError::Plugged { block }),
            Entry::Vacant(entry) => entry.insert(State::Busy),
        };
        // Ours now, so no other thread can offer the block between this look and
        // the offer below.
        let brought_in = match self.controller.phase(block) {
            BlockPhase::Released => self.bring_in(block, kind),
            _ => Err(HotplugError::Resting { block }),
        };
        match brought_in {
            Ok((slot, report)) => {
                // Offered before it can be found and unplugged: the other order
                // would ask the guest back for what it was never offered.
                self.controller.offer(block, kind == BlockKind::Volatile);
                self.states()
                    .insert(block, State::Plugged(Plugged { slot, kind }));
                Ok(report)
            }
            Err(error) => {
                self.states().remove(&block);
                Err(error)
            }
        }
    }

    fn bring_in(
        &self,
        block: u32,
        kind: BlockKind,
    ) -> Result<(BlockSlot, PlugReport), HotplugError> {
        let start = Instant::now();
        let ram = Arc::new(self.block_memory(block, kind)?);
        let mmap = start.elapsed();

        let range = self.block_range(block);
        let lazy = match self.lazy {
            true => Some(Arc::new(self.vm.lazy_slot(range.start(), ram.clone())?)),
            false => None,
        };
        let (flags, backing) = block_vma(ram.clone(), &lazy);
        let mut section = self.space.mm().mmap_write_lock()?;
        section.map(range, flags, 0, backing)?;
        let drained = section.lock()?;
        let before_kvm = Instant::now();
        let slot = match lazy {
            Some(slot) => BlockSlot::Lazy(slot),
            None => BlockSlot::Eager(self.vm.add_slot(
                range.start(),
                ram,
                SlotAccess::ReadWrite,
            )?),
        };
        let kvm = before_kvm.elapsed();
        drained.publish();

        let total = start.elapsed();
        let map = total - mmap - kvm;
        Ok((
            slot,
            PlugReport {
                total,
                mmap,
                kvm,
                map,
            },
        ))
    }

    fn block_memory(&self, block: u32, kind: BlockKind) -> Result<Mapping, HotplugError> {
        let len = self.block_size();
        let no_memory = |source| HotplugError::NoMemory { len, source };
        let ram = self.ram.map_block(block).map_err(no_memory)?;
        if kind == BlockKind::Volatile {
            for (offset, pattern) in self.volatile_patterns(block) {
                ram.write(offset, &pattern.to_le_bytes())
                    .map_err(|fault| no_memory(std::io::Error::other(fault)))?;
            }
        }
        Ok(ram)
    }
}

/// What a block's VMA is to be.
fn block_vma(memory: Arc<Mapping>, lazy: &Option<Arc<LazyMemSlot>>) -> (VmFlags, Backing) {
    match lazy {
        Some(slot) => {
            let slot = slot.clone();
            (
                GuestSpace::LAZY_RAM,
                Backing::Lazy(LazyRam { memory, slot }),
            )
        }
        None => {
            let flags = VmFlags::READ | VmFlags::WRITE | VmFlags::EXEC | VmFlags::NOMERGE;
            (flags, Backing::Ram(memory))
        }
    }
}
