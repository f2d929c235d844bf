//! The contenders: the floor, Gracefault, and what it could be replaced with.
//! Where a crate has the peer's own code that is used; the other shapes are those
//! of the VMMs named beside them.

mod arcs;
mod floor;
mod gracefault;
mod locked;
mod trees;
mod vm_memory;

use ::gracefault::mm::Strategy;

use super::contender::Contender;

/// All contenders, each with `regions` regions.
pub(crate) fn all(regions: usize) -> Vec<Box<dyn Contender>> {
    vec![
        Box::new(floor::Floor::new(regions)),
        Box::new(Gracefault::new(regions)),
        Box::new(Gracefault::by(Strategy::Retry, regions)),
        Box::new(Gracefault::by(Strategy::Pin, regions)),
        Box::new(Gracefault::by(Strategy::Refcount, regions)),
        Box::new(Gracefault::by(Strategy::Rwlock, regions)),
        Box::new(locked::StdValues::new(regions)),
        Box::new(locked::StdArcs::new(regions)),
        Box::new(locked::ParkingLot::new(regions)),
        Box::new(arcs::ArcSwapVec::new(regions)),
        Box::new(vm_memory::Atomic::new(regions)),
        Box::new(trees::Epoch::new(regions)),
        Box::new(trees::Scc::new(regions)),
    ]
}

pub(crate) use gracefault::Gracefault;

/// Gracefault's map alone.
pub(crate) fn native(regions: usize) -> Gracefault {
    Gracefault::new(regions)
}

/// A region as most peers keep it.
#[derive(Clone, Copy, Debug)]
struct Region {
    start: u64,
    end: u64,
    number: u64,
}

impl Region {
    fn new(index: usize) -> Self {
        let start = super::start(index);
        Self {
            start,
            end: start + super::LEN,
            number: index as u64,
        }
    }

    fn number_at(&self, addr: u64) -> Option<u64> {
        (self.start <= addr && addr < self.end).then_some(self.number)
    }
}

fn regions(count: usize) -> impl Iterator<Item = Region> {
    (0..count).map(Region::new)
}

/// The region of a sorted slice that covers `addr`.
fn search(sorted: &[Region], addr: u64) -> Option<&Region> {
    let after = sorted.partition_point(|region| region.start <= addr);
    sorted
        .get(after.checked_sub(1)?)
        .filter(|region| addr < region.end)
}
