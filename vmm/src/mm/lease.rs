//! Who keeps a space without counting on it together.
//!
//! Sets of pins come and go with every access of a device. A count of them that all
//! threads share would cost more than the access. So each record has two numbers that
//! only grow, and are written by its owner: *leases* begun there and ended there. A
//! lease that ends on another thread is counted in a third, of those. While the
//! [`AddressSpace`](super::AddressSpace) is there, that is all.
//!
//! When it is dropped and there are leases, it leaves its count of the core to them
//! ([`Orphans`]), and from then on each lease that ends looks whether it was the last.
//!
//! **Whether there are any.** All that ended are added up first, then all that began.
//! If the two are equal, there was a moment between with none, and nobody can begin one
//! any more. (A lease begins by the space, or by another lease, which it borrows. So of
//! a lease that is still there, or else of one that it goes back to, the beginning is
//! seen where the end is not: by who was told of the orphans, or has seen the end of the
//! one it began by, which came after.)
//!
//! **The last one.** A lease that ends says so and then looks whether there are orphans,
//! with no fence between. So it may look before the space is dropped, and be seen only
//! after the space has looked: both would leave it to the other. The one who drops the
//! space therefore looks again a moment later, when the store has long been seen. What
//! would otherwise happen is a leak.

use std::sync::Arc;
use std::sync::atomic::compiler_fence;
use std::time::Duration;

use super::Payload;
use super::core::Core;
use super::record::Record;
use super::registry::Registry;
use super::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use super::sync::{MODEL, Mutex, full_fence, lock, mutant, pause};

/// The leases of one record.
#[derive(Debug)]
pub(super) struct Leases {
    /// Written by the owner.
    begun: AtomicU64,
    /// The same.
    ended: AtomicU64,
    ended_elsewhere: AtomicU64,
}

impl Leases {
    pub(super) fn new() -> Self {
        Self {
            begun: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            ended_elsewhere: AtomicU64::new(0),
        }
    }

    /// By the owner, who borrows the space or another lease.
    #[inline(always)]
    pub(super) fn begin(&self) {
        let begun = self.begun.load(Ordering::Relaxed);
        self.begun.store(begun + 1, Ordering::Relaxed);
    }

    /// By the owner. What it did under the lease happens before the end of the space.
    #[inline(always)]
    fn end(&self) {
        let ended = self.ended.load(Ordering::Relaxed);
        self.ended.store(ended + 1, Ordering::Release);
    }

    #[cold]
    fn end_elsewhere(&self) {
        self.ended_elsewhere.fetch_add(1, Ordering::Release);
    }
}

/// Counts of the core that were the space's.
#[derive(Debug)]
pub(super) struct Orphans {
    are_there: AtomicBool,
    counts: Mutex<usize>,
}

impl Orphans {
    pub(super) fn new() -> Self {
        Self {
            are_there: AtomicBool::new(false),
            counts: Mutex::new(0),
        }
    }
}

impl Registry {
    /// Whether no lease is there, if none can be begun but by one that is.
    fn is_unleased(&self) -> bool {
        let ended = |record: &Record| {
            let leases = &record.leases;
            leases.ended.load(Ordering::Acquire) + leases.ended_elsewhere.load(Ordering::Acquire)
        };
        let begun = |record: &Record| record.leases.begun.load(Ordering::Relaxed);
        let sum = |of: &dyn Fn(&Record) -> u64| self.records().map(of).sum::<u64>();
        if mutant("begun-first") {
            let begun = sum(&begun);
            return begun == sum(&ended);
        }
        let ended = sum(&ended);
        ended == sum(&begun)
    }

    /// Takes the orphans, if there are any and no lease is.
    fn take_orphans(&self) -> usize {
        let mut counts = lock(&self.orphans.counts);
        if *counts == 0 || !self.is_unleased() {
            return 0;
        }
        self.orphans.are_there.store(false, Ordering::Relaxed);
        std::mem::take(&mut *counts)
    }
}

impl<T: Payload> Core<T> {
    /// Gives a count of the core up: now, or when the last lease ends.
    pub(super) fn give_up(self: Arc<Self>) {
        // All that the space itself has begun is seen by who drops it.
        let begun = |record: &Record| record.leases.begun.load(Ordering::Relaxed);
        if self.registry.records().all(|record| begun(record) == 0) || self.registry.is_unleased() {
            return;
        }
        let registry = self.registry.clone();
        *lock(&registry.orphans.counts) += 1;
        registry.orphans.are_there.store(true, Ordering::Release);
        let this = Arc::into_raw(self);
        full_fence();
        // SAFETY: made of an `Arc`; others that are left in these orphans are of the same.
        let drop_orphans = || unsafe { Self::drop_orphans(this, &registry) };
        if drop_orphans() == 0 && !MODEL {
            pause(Duration::from_millis(1));
            drop_orphans();
        }
    }

    /// Gives up what is left to the leases, if none is there. Returns how many counts
    /// that was.
    ///
    /// # Safety
    ///
    /// Orphans of this registry are counts of `this`.
    #[cold]
    unsafe fn drop_orphans(this: *const Self, registry: &Arc<Registry>) -> usize {
        let counts = registry.take_orphans();
        for _ in 0..counts {
            // SAFETY: a count that was left there; with the first of them the core is
            // there, and it is not used after the last.
            drop(unsafe { Arc::from_raw(this) });
        }
        counts
    }

    /// Ends a lease that was begun in `record`; the core may be gone afterwards.
    /// `is_mine`: this thread has claimed the record by its thread-local.
    ///
    /// # Safety
    ///
    /// The lease is there, and so are the core and the record; it is not used any more.
    #[inline(always)]
    pub(super) unsafe fn end_lease(this: *const Self, record: *const Record, is_mine: bool) {
        // SAFETY: the core is there, by the lease.
        let registry: *const Arc<Registry> = unsafe { &raw const (*this).registry };
        if !is_mine {
            // SAFETY: the same.
            return unsafe { Self::end_lease_elsewhere(this, record, (*registry).clone()) };
        }
        // SAFETY: the registry, and the record with it, is kept by the claim of this
        // thread, whatever happens to the core.
        let (registry, record) = unsafe { (Arc::as_ptr(&*registry), &*record) };
        record.leases.end();
        if MODEL {
            // No time passes in a model.
            full_fence();
        } else {
            // What the argument at the top is about is what the processor does: its
            // stores are seen after a moment. The compiler could put them off for ever.
            compiler_fence(Ordering::SeqCst);
        }
        // SAFETY: there, as above.
        let are_there = unsafe { &(*registry).orphans.are_there };
        if are_there.load(Ordering::Relaxed) {
            // A payload that is dropped may have this thread forget the spaces that are
            // gone, and its claim of this one.
            //
            // SAFETY: made of an `Arc`, and there, as above.
            let registry = unsafe {
                Arc::increment_strong_count(registry);
                Arc::from_raw(registry)
            };
            // SAFETY: the space of this core has left its count there.
            unsafe { Self::drop_orphans(this, &registry) };
        }
    }

    /// # Safety
    ///
    /// As [`end_lease`](Self::end_lease).
    #[cold]
    unsafe fn end_lease_elsewhere(
        this: *const Self,
        record: *const Record,
        registry: Arc<Registry>,
    ) {
        // SAFETY: the registry keeps its records.
        unsafe { &*record }.leases.end_elsewhere();
        full_fence();
        if registry.orphans.are_there.load(Ordering::Relaxed) {
            // SAFETY: as in `end_lease`.
            unsafe { Self::drop_orphans(this, &registry) };
        }
    }
}
