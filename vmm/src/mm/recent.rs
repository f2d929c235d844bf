//! What a thread looked up last.

use std::cell::Cell;
use std::ptr;

use super::slot::Slot;
use super::sync::mutant;
use super::{AddrRange, Payload};

/// The slot that the owner of a record found last, and the section number of that
/// moment. While `mm_lock_seq` is still that even number, no section has begun,
/// let alone published anything, so the slot is what a walk would find: exits that
/// come from the same region again and again need no walk.
///
/// The number has to be loaded after the full fence that publishes the walk: a
/// section that begins later then sees the entry, and frees nothing under it.
#[derive(Debug)]
pub(super) struct Recent {
    seq: Cell<u64>,
    start: Cell<u64>,
    last: Cell<u64>,
    slot: Cell<*const ()>,
}

// SAFETY: only the thread that has claimed the record uses it, and a claim acquires
// what the claim before it has released.
unsafe impl Sync for Recent {}
// SAFETY: as above; the pointer is followed only where `get` says so.
unsafe impl Send for Recent {}

impl Recent {
    pub(super) fn new() -> Self {
        Self {
            seq: Cell::new(0),
            // Nothing is in there.
            start: Cell::new(u64::MAX),
            last: Cell::new(0),
            slot: Cell::new(ptr::null()),
        }
    }

    /// The slot, if it covers `addr` and is in force while `mm_lock_seq` is `seq`.
    #[inline(always)]
    pub(super) fn get<T: Payload>(&self, seq: u64, addr: u64) -> Option<*const Slot<T>> {
        let known = self.start.get() <= addr && addr <= self.last.get();
        let current = self.seq.get() == seq || mutant("recent");
        (known && current).then(|| self.slot.get().cast())
    }

    /// Remembers a slot of `range` that is in force while `mm_lock_seq` is `seq`,
    /// which is even.
    #[inline(always)]
    pub(super) fn set<T: Payload>(&self, seq: u64, range: AddrRange, slot: &Slot<T>) {
        self.seq.set(seq);
        self.start.set(range.start());
        self.last.set(range.last());
        self.slot.set(ptr::from_ref(slot).cast());
    }
}
