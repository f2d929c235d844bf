//! What an address space is made of, and the rules for it.
//!
//! This form keeps everything under one mutex, held for a few steps and never
//! while anything waits, so that each rule below can be read off the code:
//!
//! - the *map lock* (`owner`, `read_locks`) serialises writers and is what
//!   `mmap_read_lock` shares; a lookup that waits for a writer never takes it;
//! - a VMA is write-locked while its range is in `locked`; ending the section
//!   clears them all at once;
//! - a *hold* is one read-locked VMA; a *mark* is a reader that has slept for
//!   section `seq` and has not yet taken the VMA. A drain waits for the holds in
//!   its write set, and for the marks of other sections in it: so a reader
//!   sleeps for the end of one section at most, whoever comes next.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::sync::thread::{self, Thread, ThreadId};
use super::sync::{Condvar, Mutex};
use super::{AddrRange, HoldKind, Holder, MmStats, Vma};

/// The VMAs by their first address.
pub(super) type Map<T> = BTreeMap<u64, Arc<Vma<T>>>;

/// A reader, as a drain sees it.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) thread: Thread,
    pub(super) addr: u64,
    /// `None` for a hold; the section slept for, for a mark.
    pub(super) mark: Option<u64>,
}

impl Reader {
    pub(super) fn here(addr: u64, mark: Option<u64>) -> Self {
        Self {
            thread: thread::current(),
            addr,
            mark,
        }
    }

    pub(super) fn describe(&self) -> Holder {
        let kind = if self.mark.is_some() {
            HoldKind::Wait
        } else {
            HoldKind::Hold
        };
        let thread = match self.thread.name() {
            Some(name) => name.to_owned(),
            None => format!("{:?}", self.thread.id()),
        };
        Holder {
            thread,
            addr: self.addr,
            kind,
        }
    }
}

/// Everything under the mutex.
#[derive(Debug)]
pub(super) struct State<T> {
    /// The map in force. Replaced only by the thread that has the map lock.
    pub(super) map: Arc<Map<T>>,
    /// `mm_lock_seq`: odd from the locking of a write set to the end of its
    /// section.
    pub(super) seq: u64,
    /// The write set of the open section. Empty while `seq` is even.
    pub(super) locked: Vec<AddrRange>,
    /// Who has the map lock for writing.
    pub(super) owner: Option<ThreadId>,
    /// How many have it for reading.
    pub(super) read_locks: usize,
    /// The readers, by a number that is never used again.
    pub(super) readers: BTreeMap<u64, Reader>,
    pub(super) next_reader: u64,
    pub(super) stats: MmStats,
}

impl<T> State<T> {
    pub(super) fn find(&self, addr: u64) -> Option<&Arc<Vma<T>>> {
        let (_, vma) = self.map.range(..=addr).next_back()?;
        vma.range().contains(addr).then_some(vma)
    }

    pub(super) fn is_locked(&self, addr: u64) -> bool {
        self.locked.iter().any(|range| range.contains(addr))
    }

    /// Whether `thread` holds a member of the write set. Then the drain is still
    /// on, since it waits for that hold.
    pub(super) fn holds_member(&self, thread: ThreadId) -> bool {
        self.holds(thread).any(|addr| self.is_locked(addr))
    }

    /// The addresses that `thread` holds.
    pub(super) fn holds(&self, thread: ThreadId) -> impl Iterator<Item = u64> + '_ {
        self.readers
            .values()
            .filter(move |r| r.mark.is_none() && r.thread.id() == thread)
            .map(|r| r.addr)
    }

    /// The readers that the drain of the open section has to wait for.
    pub(super) fn undrained(&self) -> impl Iterator<Item = (&u64, &Reader)> + '_ {
        self.readers
            .iter()
            .filter(|(_, r)| r.mark != Some(self.seq) && self.is_locked(r.addr))
    }

    pub(super) fn add_reader(&mut self, reader: Reader) -> u64 {
        let id = self.next_reader;
        self.next_reader += 1;
        self.readers.insert(id, reader);
        id
    }
}

/// What the handles of one address space share.
#[derive(Debug)]
pub(super) struct Core<T> {
    pub(super) name: String,
    pub(super) range: AddrRange,
    pub(super) state: Mutex<State<T>>,
    /// Notified whenever something in the state changes that a thread may wait
    /// for.
    pub(super) changed: Condvar,
}

/// What a kill flag wakes.
pub(super) trait Wake: Send + Sync {
    /// Wakes every thread that sleeps here; each then looks at its flag.
    fn wake(&self);
}

impl<T: Send + Sync> Wake for Core<T> {
    fn wake(&self) {
        // Taking the lock orders this after a sleeper's last look at its flag.
        drop(super::sync::lock(&self.state));
        self.changed.notify_all();
    }
}
