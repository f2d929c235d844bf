//! The floor: a branch-free binary search of a static sorted array, and one load
//! of the region's end. No lock, no protection; cannot change.

use std::sync::atomic::{AtomicU64, Ordering};

use super::super::contender::Map;
use super::regions;

pub(crate) struct Floor {
    starts: Vec<u64>,
    ends: Vec<u64>,
    busy: AtomicU64,
}

impl Floor {
    pub(crate) fn new(count: usize) -> Self {
        let (starts, ends) = regions(count)
            .map(|region| (region.start, region.end))
            .unzip();
        Self {
            starts,
            ends,
            busy: AtomicU64::new(0),
        }
    }
}

impl Map for Floor {
    type Handle<'a> = &'a Self;

    fn name(&self) -> &'static str {
        "floor"
    }

    fn handle(&self) -> &Self {
        self
    }

    #[inline]
    fn lookup(handle: &mut &Self, addr: u64) -> Option<u64> {
        let starts = &handle.starts[..];
        let (mut base, mut size) = (0, starts.len());
        while size > 1 {
            let half = size / 2;
            let middle = base + half;
            base = std::hint::select_unpredictable(starts[middle] <= addr, middle, base);
            size -= half;
        }
        (addr < handle.ends[base]).then_some(base as u64)
    }

    /// Nothing can change; a writer beside it only takes the time.
    fn replace(&self, _index: usize) {
        self.busy.fetch_add(1, Ordering::Relaxed);
    }

    fn unmap_map(&self, index: usize) {
        self.replace(index);
    }
}
