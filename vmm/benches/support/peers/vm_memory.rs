//! vm-memory's `GuestMemoryAtomic`: what Rust VMMs hold today. All regions share
//! one host mapping, so that their number is not bounded by the host's.

use std::sync::Arc;

use vm_memory::{
    Address, GuestAddress, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryBackend,
    GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap, MmapRegion,
};

use super::super::contender::Map;
use super::super::{LEN, start};

pub(crate) struct Atomic {
    memory: GuestMemoryAtomic<GuestMemoryMmap>,
    /// Keeps what every region maps.
    backing: MmapRegion,
}

impl Atomic {
    pub(crate) fn new(count: usize) -> Self {
        let backing = MmapRegion::new(LEN as usize).expect("the host has 8 KiB");
        let regions = (0..count)
            .map(|index| Arc::new(region(&backing, index)))
            .collect();
        let memory = GuestMemoryMmap::from_arc_regions(regions).expect("regions are disjoint");
        Self {
            memory: GuestMemoryAtomic::new(memory),
            backing,
        }
    }

    fn remove(&self, memory: &GuestMemoryMmap, index: usize) -> GuestMemoryMmap {
        memory
            .remove_region(GuestAddress(start(index)), LEN)
            .expect("it is there")
            .0
    }

    fn insert(&self, memory: &GuestMemoryMmap, index: usize) -> GuestMemoryMmap {
        memory
            .insert_region(Arc::new(region(&self.backing, index)))
            .expect("there is room")
    }
}

fn region(backing: &MmapRegion, index: usize) -> GuestRegionMmap {
    let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE);
    // SAFETY: the address and length are those of a mapping that lives as long as
    // the regions, in `Atomic::backing`; a raw region does not unmap it.
    let mapping = unsafe { MmapRegion::build_raw(backing.as_ptr(), LEN as usize, prot, flags) };
    let mapping = mapping.expect("page-aligned");
    GuestRegionMmap::new(mapping, GuestAddress(start(index))).expect("below 2^64")
}

impl Map for Atomic {
    type Handle<'a> = &'a Self;

    fn name(&self) -> &'static str {
        "vm-memory"
    }

    fn handle(&self) -> &Self {
        self
    }

    #[inline]
    fn lookup(handle: &mut &Self, addr: u64) -> Option<u64> {
        let memory = handle.memory.memory();
        let region = memory.find_region(GuestAddress(addr))?;
        Some(region.start_addr().raw_value())
    }

    fn replace(&self, index: usize) {
        let alone = self.memory.lock().unwrap();
        let without = self.remove(&self.memory.memory(), index);
        alone.replace(self.insert(&without, index));
    }

    fn unmap_map(&self, index: usize) {
        let alone = self.memory.lock().unwrap();
        let without = self.remove(&self.memory.memory(), index);
        alone.replace(without);
        let alone = self.memory.lock().unwrap();
        let with = self.insert(&self.memory.memory(), index);
        alone.replace(with);
    }
}
