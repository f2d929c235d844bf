//! Concurrent structures that crates offer: a sorted vector behind an epoch, and
//! scc's tree.

use std::sync::atomic::Ordering;

use crossbeam_epoch::{self as epoch, Atomic, Owned};
use scc::TreeIndex;

use super::super::contender::Map;
use super::{Region, regions, search};

/// A sorted vector that is read under an epoch and copied by writers, of whom
/// there is one at a time.
pub(crate) struct Epoch {
    regions: Atomic<Vec<Region>>,
    writer: std::sync::Mutex<()>,
}

impl Epoch {
    pub(crate) fn new(count: usize) -> Self {
        let regions = Atomic::new(regions(count).collect());
        Self {
            regions,
            writer: std::sync::Mutex::new(()),
        }
    }

    fn change(&self, change: impl Fn(&mut Vec<Region>)) {
        let _alone = self.writer.lock().unwrap();
        let guard = epoch::pin();
        let current = self.regions.load(Ordering::Acquire, &guard);
        // SAFETY: loaded under the guard, and never null: `new` and `change` store
        // vectors only.
        let mut next = unsafe { current.deref() }.clone();
        change(&mut next);
        self.regions.store(Owned::new(next), Ordering::Release);
        // SAFETY: no longer reachable, by the store above; readers that have it are
        // pinned.
        unsafe { guard.defer_destroy(current) };
    }
}

impl Drop for Epoch {
    fn drop(&mut self) {
        // SAFETY: `self` is owned alone.
        drop(unsafe { std::mem::take(&mut self.regions).into_owned() });
    }
}

impl Map for Epoch {
    type Handle<'a> = &'a Self;

    fn name(&self) -> &'static str {
        "crossbeam-epoch"
    }

    fn handle(&self) -> &Self {
        self
    }

    #[inline]
    fn lookup(handle: &mut &Self, addr: u64) -> Option<u64> {
        let guard = epoch::pin();
        // SAFETY: loaded under the guard, and never null.
        let regions = unsafe { handle.regions.load(Ordering::Acquire, &guard).deref() };
        search(regions, addr).map(|region| region.number)
    }

    fn replace(&self, index: usize) {
        let region = Region::new(index);
        self.change(|regions| {
            let at = regions.partition_point(|other| other.start < region.start);
            regions[at] = region;
        });
    }

    fn unmap_map(&self, index: usize) {
        let region = Region::new(index);
        let at = |regions: &Vec<Region>| regions.partition_point(|r| r.start < region.start);
        self.change(|regions| {
            regions.remove(at(regions));
        });
        self.change(|regions| regions.insert(at(regions), region));
    }
}

/// scc's tree. It has no way to replace an entry in one step: readers may miss it.
pub(crate) struct Scc(TreeIndex<u64, Region>);

impl Scc {
    pub(crate) fn new(count: usize) -> Self {
        let tree = TreeIndex::new();
        for region in regions(count) {
            tree.insert_sync(region.start, region)
                .expect("regions are disjoint");
        }
        Self(tree)
    }
}

impl Map for Scc {
    type Handle<'a> = &'a Self;

    fn name(&self) -> &'static str {
        "scc-treeindex"
    }

    fn handle(&self) -> &Self {
        self
    }

    #[inline]
    fn lookup(handle: &mut &Self, addr: u64) -> Option<u64> {
        let guard = scc::Guard::new();
        let (_, region) = handle.0.range(..=addr, &guard).next_back()?;
        region.number_at(addr)
    }

    fn replace(&self, index: usize) {
        self.unmap_map(index);
    }

    fn unmap_map(&self, index: usize) {
        let region = Region::new(index);
        self.0.remove_sync(&region.start);
        self.0.insert_sync(region.start, region).ok();
    }
}
