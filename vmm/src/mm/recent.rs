//! What a thread looked up lately.

use std::cell::Cell;
use std::ptr::{self, NonNull};

use super::Payload;
use super::slot::Slot;
use super::sync::{MODEL, mutant};

/// See [`Recent`]. Odd, so that the samples of a thread that goes to a few VMAs in turn
/// are not always of the same one.
pub(super) const SAMPLE: u64 = if MODEL { 1 } else { 61 };

/// What `seq` is while nothing is to be expected.
const NOTHING: u64 = 1;

/// A slot that the owner of a record is expected to find again, and the section
/// number of the moment when it did last. While `mm_lock_seq` is still that even
/// number, no section has begun, let alone published anything, so the slot is what a
/// walk would find: exits that come from the same region again and again need no walk.
///
/// One find in [`SAMPLE`] is looked at, and its slot expected from then on if the
/// sample before was the same. So whoever comes from one region is soon known; and
/// whoever does not pays for one comparison, always with the same outcome: neither for
/// stores, which the next full fence has to wait for, nor for wrong guesses, which in
/// a map of few regions would be right just often enough to be made.
///
/// The number has to be loaded after the full fence that publishes the walk: a
/// section that begins later then sees the entry, and frees nothing under it.
#[derive(Debug)]
pub(super) struct Recent {
    seq: Cell<u64>,
    start: Cell<u64>,
    /// From the first address to the last.
    span: Cell<u64>,
    slot: Cell<*mut ()>,
}

// SAFETY: only the thread that has claimed the record uses it, and a claim acquires
// what the claim before it has released.
unsafe impl Sync for Recent {}
// SAFETY: as above; the pointer is followed only where `get` says so.
unsafe impl Send for Recent {}

impl Recent {
    pub(super) fn new() -> Self {
        Self {
            seq: Cell::new(NOTHING),
            start: Cell::new(0),
            span: Cell::new(0),
            // Nothing yet.
            slot: Cell::new(ptr::null_mut()),
        }
    }

    /// The slot, if it is expected, covers `addr`, and is in force while `mm_lock_seq`
    /// is `seq`, which is even.
    #[inline(always)]
    pub(super) fn get<T: Payload>(&self, seq: u64, addr: u64) -> Option<NonNull<Slot<T>>> {
        if self.seq.get() != seq && !mutant("recent") {
            return None;
        }
        // One comparison and one branch: a branch on either end would be taken half
        // of the time.
        let known = addr.wrapping_sub(self.start.get()) <= self.span.get();
        known
            .then(|| NonNull::new(self.slot.get().cast()))
            .flatten()
    }

    /// Where the slot is, as a mere address.
    #[inline(always)]
    pub(super) fn guess(&self) -> usize {
        self.slot.get().addr()
    }

    /// Looks at a find: a slot that is in force while `mm_lock_seq` is `seq`, which is
    /// even.
    #[cold]
    pub(super) fn sample<T: Payload>(&self, seq: u64, slot: &Slot<T>) {
        let found = ptr::from_ref(slot).cast_mut().cast();
        // Another slot may have come to where one was: a guess, no more.
        let again = MODEL || self.slot.get() == found;
        let range = slot.range();
        self.seq.set(if again { seq } else { NOTHING });
        self.start.set(range.start());
        self.span.set(range.last() - range.start());
        self.slot.set(found);
    }
}
