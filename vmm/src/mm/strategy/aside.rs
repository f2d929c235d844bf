//! Holds that are not kept in records: by a count in the VMA, or by the map lock.
//!
//! In such a space the guard's entry is a *note*: it tells the thread that it holds
//! the VMA (so that a section opened inside a guard is an error, and a nested lookup
//! is known for one), and no writer waits for it.
//!
//! **The count.** The lookup is the native one, walk, lock test and wait included.
//! What it ends in, a hold in the record, is then moved to the count: taken by
//! compare-exchange from a value that is not zero, after which the entry becomes a
//! note. A drain scans the entries first and the counts after them, so it sees one or
//! the other (so does the scan of neighbours to merge with); a hold that has come to be by another member of the write set bumps the
//! count of moves first, as ever, and the drain looks again.
//!
//! **The map lock.** No section is open while it is held, so there is nothing to test
//! and nothing to drain.
//!
//! A pin is an entry of a record under every strategy: it has to be named, copied,
//! and dropped on any thread. The hold moves to it when it is made.

use super::super::core::Core;
use super::super::entry::Entry;
use super::super::lookup::{Attempt, Ended, Evidence, Held, LookupPath, Outcome, WaitOptions};
use super::super::record::Record;
use super::super::slot::Slot;
use super::super::sync::atomic::Ordering;
use super::super::sync::mutant;
use super::super::{AddrRange, Payload, Window, tree};
use super::Strategy;

impl<T: Payload> Core<T> {
    /// The try-lookup of a thread whose first entry is not vacant: because it holds a
    /// VMA, or because in this space that entry never is.
    #[cold]
    pub(in super::super) fn try_lookup_aside<'a>(
        &'a self,
        record: &'a Record,
        addr: u64,
    ) -> Option<Held<'a, T>> {
        if self.strategy != Strategy::Rwlock {
            match self.attempt_by(record, record.vacant(), addr, |at| self.window(at)) {
                Attempt::Held(held) => return Some(self.keep(held)),
                Attempt::Missing => return None,
                Attempt::Locked { entry, .. } => self.leave(entry),
            }
        } else if self.writer.map_lock.try_read() {
            return self.look_under_map_lock(record, addr).ok();
        }
        record.counts.abort.add();
        None
    }

    /// The waiting lookup of such a thread.
    #[cold]
    pub(in super::super) fn lookup_aside<'a>(
        &'a self,
        record: &'a Record,
        addr: u64,
        pins: Evidence<'_>,
        options: WaitOptions<'_>,
        path: &mut LookupPath,
    ) -> Outcome<'a, T> {
        if self.strategy == Strategy::Rwlock {
            return if self.writer.map_lock.try_read() {
                self.look_under_map_lock(record, addr)
            } else {
                self.busy(record, addr, options, path)
            };
        }
        match self.attempt_by(record, record.vacant(), addr, |at| self.window(at)) {
            Attempt::Held(held) => Ok(self.keep(held)),
            Attempt::Missing => Err(Ended::Missing),
            Attempt::Locked { entry, slot, seq } => {
                self.locked(record, (entry, slot, seq), pins, options, path)
            }
        }
    }

    /// The same for those who do not ask how it went.
    #[cold]
    pub(in super::super) fn plain_lookup_aside<'a>(
        &'a self,
        record: &'a Record,
        addr: u64,
    ) -> Outcome<'a, T> {
        let options = WaitOptions::default();
        self.lookup_aside(record, addr, None, options, &mut LookupPath::default())
    }

    /// A hold has come to be in the record. Moves it to where this space has its
    /// holds.
    #[inline]
    pub(in super::super) fn keep<'a>(&self, held: Held<'a, T>) -> Held<'a, T> {
        if self.strategy == Strategy::Refcount {
            if mutant("note-first") {
                held.entry.note();
            }
            self.window(Window::Counting);
            held.slot.count_up();
            self.window(Window::Counting);
            held.entry.note();
        }
        held
    }

    /// Looks up for the calling thread, which has the map lock for reading. It
    /// keeps that if it finds something.
    pub(super) fn look_under_map_lock<'a>(
        &'a self,
        record: &'a Record,
        addr: u64,
    ) -> Outcome<'a, T> {
        // SAFETY: the tree in force stays so while the map lock is held; and the
        // slot is in it for as long as the guard holds that lock.
        let Some(slot) = (unsafe { tree::find(self.root(), addr) }) else {
            self.writer.map_lock.end_read();
            record.counts.miss.add();
            return Err(Ended::Missing);
        };
        record.counts.success.add();
        let entry = record.vacant();
        entry.note_at(addr);
        Ok(Held { slot, entry })
    }

    /// Gives up a guard's hold of `slot`, as far as it is not in the record.
    pub(in super::super) fn put(&self, slot: &Slot<T>) {
        match self.strategy {
            Strategy::Refcount => slot.count_down(),
            Strategy::Rwlock => self.writer.map_lock.end_read(),
            Strategy::Native | Strategy::Retry | Strategy::Pin => {}
        }
    }

    /// Ends a guard's hold where a writer sleeps, or where there may be more to it than
    /// the entry. Who held what no section has marked has nobody to wake.
    #[cold]
    pub(in super::super) fn put_and_ring(&self, slot: &Slot<T>, entry: &Entry) {
        let marked = slot.is_locked(self.seq.load(Ordering::Relaxed));
        let addr = entry.addr();
        self.window(Window::Leaving);
        entry.clear();
        self.put(slot);
        self.window(Window::Left);
        if marked {
            self.bell.ring(addr);
        }
    }

    /// A guard's entry has become a pin, which holds from now on.
    pub(in super::super) fn pinned(&self, slot: &Slot<T>) {
        if self.strategy.is_aside() {
            self.window(Window::Moving);
            // The drain may have seen the note, and see the count gone.
            if !mutant("pinned-moves") {
                self.count_move();
            }
            self.put(slot);
        }
    }

    /// Whether nobody holds any of the VMAs at these ranges by its count. Called
    /// with the map lock.
    pub(in super::super) fn is_uncounted(&self, members: &[AddrRange]) -> bool {
        self.strategy != Strategy::Refcount
            || mutant("count")
            || members.iter().all(|range| {
                // SAFETY: the tree in force, under the map lock.
                let slot = unsafe { tree::find(self.root(), range.start()) };
                slot.is_none_or(Slot::is_uncounted)
            })
    }
}
