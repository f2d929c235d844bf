//! Entries of a record that are lent to one set of pins.
//!
//! A set may pin thousands of VMAs, for one operation. Were their entries the record's
//! own, every later scan of every writer would go through the room that the largest
//! set ever took. So what a set pins beyond the first few is said in *annexes*: the
//! record lends them to the set, and has them back when the set is dropped, from
//! whichever thread. A scan goes through those that are lent.
//!
//! The list of them is under a lock, held for as long as one scan of them takes, and
//! for no wait of any kind. How many there are is said beside it, so that a scan of a
//! record that has lent none takes no lock: it goes up before anything is published in
//! an annex, with a full fence, and down, with Release, after all in it is over.
//!
//! An annex is given back, and lent again, but not freed before the record: a batch that
//! waits for its grace period may know its entries.

use super::entry::Entry;
use super::record::Record;
use super::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use super::sync::{Life, MODEL, Mutex, lock, mutant, unless};

/// Entries of an annex.
const ROOM: usize = if MODEL { 1 } else { 16 };

/// Entries lent to one set by one record, whose owner alone fills them.
#[derive(Debug)]
pub(super) struct Annex {
    life: Life,
    entries: [Entry; ROOM],
    record: *const Record,
    /// Where it is in the list of those that are lent. Used under its lock.
    place: AtomicUsize,
    /// The annex that the same set was lent before. Written before the set has it.
    pub(super) next: AtomicPtr<Annex>,
}

/// What one record has lent.
#[derive(Debug)]
pub(super) struct Annexes {
    lent: AtomicUsize,
    lists: Mutex<Lists>,
}

/// Each annex is in one of them.
#[derive(Debug)]
struct Lists {
    lent: Vec<*mut Annex>,
    free: Vec<*mut Annex>,
}

// SAFETY: the lists have the annexes, which are shared and atomic.
unsafe impl Send for Lists {}

impl Annex {
    /// An entry that is empty. For the owner of its record.
    pub(super) fn vacant(&self) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.is_empty())
    }

    /// Whose it is.
    pub(super) fn record(&self) -> *const Record {
        self.record
    }
}

impl Annexes {
    pub(super) fn new() -> Self {
        Self {
            lent: AtomicUsize::new(0),
            lists: Mutex::new(Lists {
                lent: Vec::new(),
                free: Vec::new(),
            }),
        }
    }

    /// Whether none is lent. Acquires what was done under all that was said in them.
    pub(super) fn is_empty(&self) -> bool {
        self.lent.load(unless("annex-acquire", Ordering::Acquire)) == 0
    }

    /// Lends one of `record`, which these belong to; by its owner. It lives as long as
    /// the record.
    pub(super) fn lend(&self, record: &Record) -> *mut Annex {
        let mut lists = lock(&self.lists);
        let annex = lists.free.pop().unwrap_or_else(|| {
            Box::into_raw(Box::new(Annex {
                life: Life::begin(),
                entries: std::array::from_fn(|_| Entry::new()),
                record,
                place: AtomicUsize::new(0),
                next: AtomicPtr::default(),
            }))
        });
        // SAFETY: made above, now or before, and freed by the drop only.
        let place = unsafe { &(*annex).place };
        place.store(lists.lent.len(), Ordering::Relaxed);
        lists.lent.push(annex);
        // Before anything in it is published with a full fence.
        self.lent.store(lists.lent.len(), Ordering::Release);
        annex
    }

    /// Takes one back, in which nothing is left. From any thread.
    pub(super) fn take_back(&self, annex: *mut Annex) {
        let mut lists = lock(&self.lists);
        // SAFETY: lent, so it is there; and so is the one that takes its place.
        let place = |annex: *mut Annex| unsafe { &(*annex).place };
        let at = place(annex).load(Ordering::Relaxed);
        lists.lent.swap_remove(at);
        if let Some(&moved) = lists.lent.get(at) {
            place(moved).store(at, Ordering::Relaxed);
        }
        lists.free.push(annex);
        let order = unless("annex-release", Ordering::Release);
        self.lent.store(lists.lent.len(), order);
    }

    /// Calls `each` for each entry of those that are lent. It is to take no lock that
    /// is held while a set grows or is dropped.
    pub(super) fn each_entry(&self, each: impl FnMut(&Entry)) {
        if self.is_empty() || mutant("annex") {
            return;
        }
        let lists = lock(&self.lists);
        let entries = lists.lent.iter().flat_map(|annex| {
            // SAFETY: lent, and so it is there.
            let annex = unsafe { &**annex };
            annex.life.touch();
            &annex.entries
        });
        entries.for_each(each);
    }

    /// How many there are, lent or not.
    #[cfg(all(test, not(any(loom, shuttle))))]
    pub(super) fn len(&self) -> usize {
        let lists = lock(&self.lists);
        lists.lent.len() + lists.free.len()
    }
}

impl Drop for Annexes {
    fn drop(&mut self) {
        let lists = &mut *lock(&self.lists);
        for annex in lists.free.drain(..).chain(lists.lent.drain(..)) {
            // SAFETY: made by `Box::into_raw`, in one list once; the record is being
            // dropped, so nobody has a reference into it.
            drop(unsafe { Box::from_raw(annex) });
        }
    }
}
