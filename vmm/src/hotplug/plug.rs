//! Plugging blocks.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::claim::Claim;
use super::region::{Plugged, State};
use super::{BlockKind, HotplugError, HotplugRegion, PlugReport};
use crate::kvm::{LazyMemSlot, SlotAccess, SlotError};
use crate::memory::{Backend, Backing, GuestSpace, HostMemory, LazyRam, Mapping};
use crate::mm::VmFlags;

/// The slots of blocks.
type Slots = Vec<(u32, Arc<LazyMemSlot>)>;

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
        let plug = report.plug;
        for (block, slot) in slots {
            // Offered before it can be found and unplugged: the other order
            // would ask the guest back for what it was never offered.
            self.controller.offer(block, kind == BlockKind::Volatile);
            let plugged = Plugged {
                slot,
                kind,
                plug,
                is_looked_at: false,
            };
            self.states().insert(block, State::Plugged(plugged));
        }
        drop(claim);
        Ok(report)
    }

    fn bring_in(
        &self,
        blocks: &[u32],
        kind: BlockKind,
    ) -> Result<(Slots, PlugReport), HotplugError> {
        let start = Instant::now();
        let memory = |&block| Ok((block, Arc::new(self.block_memory(block)?)));
        let memory: Vec<(u32, Arc<Mapping>)> = blocks
            .iter()
            .map(memory)
            .collect::<Result<_, HotplugError>>()?;
        let no_memory = |source| HotplugError::NoMemory {
            len: self.block_size(),
            source,
        };
        let is_filled = kind == BlockKind::Volatile;
        let is_kept = matches!(self.ram.options().backend, Backend::File(_));
        if is_filled && !is_kept {
            self.fill_fresh(&memory).map_err(no_memory)?;
        }
        let mut mmap = start.elapsed();

        let arriving = memory
            .iter()
            .map(|(block, ram)| self.arriving(*block, ram.clone()))
            .collect::<Result<Vec<_>, HotplugError>>()?;
        let mut section = self.space.mm().mmap_write_lock()?;
        for block in &arriving {
            let (flags, backing) = block.vma(self.lazy);
            section.map(self.block_range(block.number), flags, 0, backing)?;
        }
        let drained = section.lock()?;
        let (slots, kvm) = self.add_slots(arriving)?;
        if is_filled && is_kept {
            // Last of all that can fail: it is the user's data that it overwrites.
            let before = Instant::now();
            if let Err(error) = self.fill_file(&memory) {
                self.remove_slots(slots);
                return Err(no_memory(error));
            }
            mmap += before.elapsed();
        }
        let waking = drained.publish().waking;

        let total = start.elapsed();
        let map = (total - mmap - kvm).saturating_sub(waking);
        let report = PlugReport {
            blocks: blocks.len(),
            plug: self.plugs.fetch_add(1, Ordering::Relaxed),
            total,
            mmap,
            kvm,
            map,
            waking,
        };
        Ok((slots, report))
    }

    /// A block with its memory, and its slot's number.
    fn arriving(&self, number: u32, ram: Arc<Mapping>) -> Result<Arriving, HotplugError> {
        let gpa = self.block_range(number).start();
        if self.lazy && self.dirty_log && ram.guest_memfd().is_some() {
            // Now, and not when the guest first touches it.
            let len = self.block_size();
            return Err(SlotError::NoDirtyLog { gpa, len }.into());
        }
        let slot = self.vm.lazy_slot(gpa, ram.clone())?;
        let slot = Arc::new(slot.with_access(self.access()));
        Ok(Arriving { number, ram, slot })
    }

    /// What the guest may do with a block's slot.
    fn access(&self) -> SlotAccess {
        match self.dirty_log {
            true => SlotAccess::Logged,
            false => SlotAccess::ReadWrite,
        }
    }

    /// A memslot for each block, or none at all. One that is lazy goes in later.
    fn add_slots(&self, blocks: Vec<Arriving>) -> Result<(Slots, Duration), HotplugError> {
        let start = Instant::now();
        let mut slots = Vec::with_capacity(blocks.len());
        for Arriving { number, slot, .. } in blocks {
            if !self.lazy
                && let Err(error) = slot.insert()
            {
                self.remove_slots(slots);
                return Err(error.into());
            }
            slots.push((number, slot));
        }
        Ok((slots, start.elapsed()))
    }

    /// Takes slots out again, the last one first. Those that KVM does not let go
    /// stay with their blocks, which cannot be plugged before they are out.
    fn remove_slots(&self, slots: Slots) {
        for (block, slot) in slots.into_iter().rev() {
            if let Err(error) = slot.take_out() {
                log::error!("undoing a plug of block {block}: {error}");
                self.states().insert(block, State::Stuck(slot));
            }
        }
    }

    fn block_memory(&self, block: u32) -> Result<Mapping, HotplugError> {
        let len = self.block_size();
        let no_memory = |source| HotplugError::NoMemory { len, source };
        let ram = self.ram.map_block(block).map_err(no_memory)?;
        Ok(match self.dirty_log {
            true => ram.with_dirty_pages(),
            false => ram,
        })
    }
}

/// A block on its way in.
struct Arriving {
    number: u32,
    ram: Arc<Mapping>,
    slot: Arc<LazyMemSlot>,
}

impl Arriving {
    /// What its VMA is to be.
    fn vma(&self, lazy: bool) -> (VmFlags, Backing) {
        let memory = self.ram.clone();
        if lazy {
            let slot = self.slot.clone();
            let lazy = LazyRam { memory, slot };
            return (GuestSpace::LAZY_RAM, Backing::Lazy(lazy));
        }
        let flags = VmFlags::READ | VmFlags::WRITE | VmFlags::EXEC | VmFlags::NOMERGE;
        (flags, Backing::Ram(memory))
    }
}
