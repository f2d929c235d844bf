//! arc-swap over a sorted vector: readers take a version, writers copy it. A
//! removed region stays readable until the last guard of its version is dropped.

use arc_swap::ArcSwap;

use super::super::contender::Map;
use super::{Region, regions, search};

pub(crate) struct ArcSwapVec(ArcSwap<Vec<Region>>);

impl ArcSwapVec {
    pub(crate) fn new(count: usize) -> Self {
        Self(ArcSwap::from_pointee(regions(count).collect()))
    }

    fn change(&self, change: impl Fn(&mut Vec<Region>)) {
        self.0.rcu(|current| {
            let mut next = Vec::clone(current);
            change(&mut next);
            next
        });
    }
}

fn remove(regions: &mut Vec<Region>, index: usize) {
    let start = Region::new(index).start;
    if let Ok(at) = regions.binary_search_by_key(&start, |region| region.start) {
        regions.remove(at);
    }
}

fn insert(regions: &mut Vec<Region>, index: usize) {
    let region = Region::new(index);
    if let Err(at) = regions.binary_search_by_key(&region.start, |region| region.start) {
        regions.insert(at, region);
    }
}

impl Map for ArcSwapVec {
    type Handle<'a> = &'a Self;

    fn name(&self) -> &'static str {
        "arc-swap"
    }

    fn handle(&self) -> &Self {
        self
    }

    #[inline]
    fn lookup(handle: &mut &Self, addr: u64) -> Option<u64> {
        let version = handle.0.load();
        search(&version, addr).map(|region| region.number)
    }

    fn replace(&self, index: usize) {
        self.change(|regions| {
            remove(regions, index);
            insert(regions, index);
        });
    }

    fn unmap_map(&self, index: usize) {
        self.change(|regions| remove(regions, index));
        self.change(|regions| insert(regions, index));
    }

    fn replace_many(&self, first: usize) {
        self.change(|regions| {
            for index in first..first + 64 {
                remove(regions, index);
                insert(regions, index);
            }
        });
    }
}
