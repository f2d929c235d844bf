//! All reader records of one address space.

use std::ptr;

use super::MmStats;
use super::lease::Orphans;
use super::record::Record;
use super::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use super::sync::unless;

/// The records of one address space: a list that only grows, as long as the
/// largest number of threads that ever used the space at the same time (plus
/// what pins and forgotten guards keep). Kept alive by the space and by every
/// thread that has a record in it.
#[derive(Debug)]
pub(super) struct Registry {
    /// Never used twice, so that a thread-local cache cannot take a new space for
    /// one that is gone.
    pub(super) id: u64,
    /// The space's, for messages.
    pub(super) name: String,
    /// The space's place in the order in which several are looked up; see
    /// [`SpaceOptions`](super::SpaceOptions).
    pub(super) rank: Option<u32>,
    head: AtomicPtr<Record>,
    closed: AtomicBool,
    pub(super) orphans: Orphans,
    /// Whether lookups are to leave the usual way: since they keep their holds
    /// elsewhere than in records, or linger at [windows](super::window).
    pub(super) aside: bool,
}

impl Registry {
    pub(super) fn new(name: String, rank: Option<u32>, aside: bool) -> Self {
        // Not part of any model: only told apart, never ordered.
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
            name,
            rank,
            head: AtomicPtr::new(ptr::null_mut()),
            closed: AtomicBool::new(false),
            orphans: Orphans::new(),
            aside,
        }
    }

    /// A record for the calling thread, claimed once: an empty one that nobody
    /// has, or a new one.
    pub(super) fn claim(&self) -> &Record {
        if let Some(record) = self.records().find(|record| record.claim()) {
            return record;
        }
        let record = Record::new(self.id);
        if self.aside {
            record.reserve_first();
        }
        let record = Box::into_raw(record);
        // SAFETY: just allocated; it is freed by the registry's drop only.
        let this = unsafe { &*record };
        // Who sees a later record acquires this one too, since it is an exchange that
        // made the later one the first.
        let release = unless("registry-release", Ordering::Release);
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            this.next().store(head, Ordering::Relaxed);
            match self
                .head
                .compare_exchange_weak(head, record, release, Ordering::Relaxed)
            {
                Ok(_) => return this,
                Err(now) => head = now,
            }
        }
    }

    /// All records there have been so far. A writer that makes a full fence first
    /// gets every record in which a reader has published with one before.
    pub(super) fn records(&self) -> impl Iterator<Item = &Record> {
        let acquire = unless("registry-acquire", Ordering::Acquire);
        let mut record = self.head.load(acquire);
        std::iter::from_fn(move || {
            // SAFETY: null or a record published by the exchange above after it
            // was filled in; it lives as long as the registry.
            let this: &Record = unsafe { record.as_ref() }?;
            record = this.next().load(Ordering::Relaxed);
            Some(this)
        })
    }

    /// The space is gone: threads may forget their records in it.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Adds the counters of all records to `sum`.
    pub(super) fn count_into(&self, sum: &mut MmStats) {
        self.records().for_each(|record| record.count_into(sum));
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let mut record = self.head.load(Ordering::Acquire);
        while !record.is_null() {
            // SAFETY: made by `Box::into_raw`, in this list once; nobody borrows
            // from a registry that is being dropped.
            let this = unsafe { Box::from_raw(record) };
            record = this.next().load(Ordering::Relaxed);
        }
    }
}
