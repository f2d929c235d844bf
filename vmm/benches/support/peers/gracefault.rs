//! Gracefault's map, by a thread's own handle, as a vCPU has it: native, and with
//! each of the strategies that it can be compared with.

use std::sync::atomic::{AtomicBool, Ordering};

use gracefault::mm::{AddrRange, AddressSpace, Payload, Reader, Strategy, VmFlags};

use super::super::LEN;
use super::super::contender::Map;
use super::{Region, regions};

#[derive(Clone, Debug)]
pub(crate) struct Number(u64);

impl Payload for Number {}

pub(crate) struct Gracefault(AddressSpace<Number>);

impl Gracefault {
    pub(crate) fn new(count: usize) -> Self {
        Self::by(Strategy::Native, count)
    }

    /// With another strategy.
    pub(crate) fn by(strategy: Strategy, count: usize) -> Self {
        let range = AddrRange::new(0, 1 << 48).expect("not empty");
        let space = AddressSpace::with_strategy("bench", range, strategy);
        let mut section = space.mmap_write_lock().expect("nobody else is here");
        for region in regions(count) {
            let (range, number) = (range_of(&region), Number(region.number));
            section
                .map(range, VmFlags::READ, 0, number)
                .expect("regions are disjoint");
        }
        section.lock().expect("nobody holds a guard").publish();
        Self(space)
    }
}

fn range_of(region: &Region) -> AddrRange {
    AddrRange::new(region.start, region.end - region.start).expect("not empty")
}

impl Map for Gracefault {
    type Handle<'a> = Reader<'a, Number>;

    fn name(&self) -> &'static str {
        match self.0.strategy() {
            Strategy::Native => "gracefault",
            other => other.name(),
        }
    }

    fn handle(&self) -> Reader<'_, Number> {
        self.0.reader()
    }

    #[inline]
    fn lookup(handle: &mut Reader<'_, Number>, addr: u64) -> Option<u64> {
        let vma = handle.lock_vma_under_rcu_wait(addr).ok()??;
        Some(vma.payload().0)
    }

    fn replace(&self, index: usize) {
        self.replace_range(index, 1);
    }

    fn unmap_map(&self, index: usize) {
        let region = Region::new(index);
        self.0.unmap(range_of(&region), None).expect("it is mapped");
        self.0
            .map(range_of(&region), VmFlags::READ, 0, Number(region.number))
            .expect("it was unmapped");
    }

    fn replace_many(&self, first: usize) {
        self.replace_range(first, 64);
    }
}

impl Gracefault {
    /// Makes the lower half of a region writable, which splits it, and takes that
    /// back, in two sections.
    pub(crate) fn protect_half(&self, index: usize) {
        let region = Region::new(index);
        let half = AddrRange::new(region.start, LEN / 2).expect("not empty");
        for flags in [VmFlags::READ | VmFlags::WRITE, VmFlags::READ] {
            let mut section = self.0.mmap_write_lock().expect("this thread holds nothing");
            section.protect(half, flags).expect("it is mapped");
            section.lock().expect("this thread holds nothing").publish();
        }
    }

    /// Looks a region up, holds it while the others run, and lets go of it, until
    /// `stop`.
    pub(crate) fn hold_again_and_again(&self, index: usize, stop: &AtomicBool) {
        let (reader, addr) = (self.0.reader(), Region::new(index).start);
        while !stop.load(Ordering::Relaxed) {
            let guard = reader
                .lock_vma_under_rcu_wait(addr)
                .expect("no section of its own");
            std::thread::yield_now();
            drop(guard);
        }
    }

    fn replace_range(&self, first: usize, count: usize) {
        let mut section = self.0.mmap_write_lock().expect("this thread holds nothing");
        for index in first..first + count {
            let region = Region::new(index);
            section.unmap(range_of(&region)).expect("it is mapped");
            section
                .map(range_of(&region), VmFlags::READ, 0, Number(region.number))
                .expect("it was unmapped");
        }
        section.lock().expect("this thread holds nothing").publish();
    }
}
