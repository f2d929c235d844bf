//! Where a writer sleeps until readers leave.

use std::time::Duration;

use super::AddrRange;
use super::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use super::sync::{self, Condvar, Mutex, lock, mutant};

/// What readers ring when they leave and a writer sleeps.
///
/// A reader looks, relaxed, whether a writer sleeps, and stores its leaving: a guard
/// in this order, since what it held may be gone afterwards, and others in the other
/// one, but without a fence between, which every lookup would pay for. So it may look
/// before the writer falls asleep, and leave after the writer's last scan, with nobody
/// left to ring. Hence the writer sleeps in slices, and scans again after each: a lost
/// ring costs at most one slice. A ring that is made is not lost: the writer takes the
/// lock before it says that it sleeps, and gives it up only by sleeping.
#[derive(Debug)]
pub(super) struct Bell {
    sleeping: AtomicBool,
    /// Readers are to come by in any case; see [`strategy`](super::strategy).
    always: bool,
    /// The addresses from the first to the last in the write set: readers
    /// elsewhere do not ring.
    low: AtomicU64,
    high: AtomicU64,
    bed: Mutex<()>,
    rung: Condvar,
}

impl Bell {
    /// With `always`, [`is_wanted`](Self::is_wanted) at all times.
    pub(super) fn new(always: bool) -> Self {
        Self {
            sleeping: AtomicBool::new(always),
            always,
            low: AtomicU64::new(u64::MAX),
            high: AtomicU64::new(0),
            bed: Mutex::new(()),
            rung: Condvar::new(),
        }
    }

    /// A reader of `addr` has stored that it leaves, or that it waits.
    #[inline]
    pub(super) fn ring(&self, addr: u64) {
        if self.is_wanted() {
            self.wake(addr);
        }
    }

    /// Whether who leaves has to do more than that.
    #[inline]
    pub(super) fn is_wanted(&self) -> bool {
        self.sleeping.load(Ordering::Relaxed)
    }

    #[cold]
    fn wake(&self, addr: u64) {
        let low = self.low.load(Ordering::Relaxed);
        let high = self.high.load(Ordering::Relaxed);
        if (low..=high).contains(&addr) && !mutant("wake-writer") {
            drop(lock(&self.bed));
            self.rung.notify_all();
        }
    }

    /// Sleeps until rung for `span`, or until the slice is over, unless `clear`
    /// says that there is nothing to sleep for. Returns whether it was rung, and
    /// so did not have to find out by itself.
    pub(super) fn sleep(
        &self,
        span: AddrRange,
        slice: Duration,
        mut clear: impl FnMut() -> bool,
    ) -> bool {
        if sync::MODEL {
            // A slice may end at any moment, so that the models need none of this.
            sync::thread::yield_now();
            return false;
        }
        let bed = lock(&self.bed);
        self.low.store(span.start(), Ordering::Relaxed);
        self.high.store(span.last(), Ordering::Relaxed);
        self.sleeping.store(true, Ordering::Relaxed);
        sync::full_fence();
        let (bed, rung) = if clear() {
            (bed, false)
        } else {
            sync::sleep_slice(&self.rung, bed, slice)
        };
        self.sleeping.store(self.always, Ordering::Relaxed);
        // Nobody sleeps at any address.
        self.low.store(u64::MAX, Ordering::Relaxed);
        self.high.store(0, Ordering::Relaxed);
        drop(bed);
        rung
    }

    /// Whether a writer is asleep, or about to be.
    #[cfg(all(test, not(any(loom, shuttle))))]
    pub(super) fn is_sleeping(&self) -> bool {
        self.low.load(Ordering::Relaxed) <= self.high.load(Ordering::Relaxed)
    }
}
