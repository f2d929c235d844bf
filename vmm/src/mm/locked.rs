//! A lookup that finds the VMA locked: it fails, goes in, or waits for the section.
//!
//! It goes in where its thread holds, or its caller's pins do, another member of the same
//! write set: that section waits for just that hold. Otherwise it says in its entry that
//! it waits, which every later section over this address sees, sleeps until the one it
//! met is over, and takes what is there then.

use super::core::Core;
use super::entry::{Entry, State};
use super::lookup::{Ended, Evidence, Held, LookupPath, Outcome, WaitOptions, Waited, hold};
use super::record::Record;
use super::slot::Slot;
use super::sync::atomic::Ordering;
use super::sync::{self, Watch, mutant, unless};
use super::{LookupError, Payload, Strategy, Window, tree};

impl<T: Payload> Core<T> {
    /// A section has the VMA locked: sees whether to fail, go in or wait.
    #[cold]
    pub(super) fn locked<'a>(
        &'a self,
        record: &'a Record,
        (entry, slot, seq): (&'a Entry, &'a Slot<T>, u64),
        pins: Evidence<'_>,
        options: WaitOptions<'_>,
        path: &mut LookupPath,
    ) -> Outcome<'a, T> {
        self.window(Window::Refused);
        if let Some(outcome) = self.past_a_try(record, (entry, slot, seq)) {
            return outcome;
        }
        if self.writer.map_lock.is_mine() {
            self.leave(entry);
            return Err(Ended::Failed(LookupError::OwnWriteSection));
        }
        if matches!(self.strategy, Strategy::Retry | Strategy::Pin) {
            return self.wait_as_posted(record, entry, seq, options, path);
        }
        if self.holds_member(record, pins, seq) {
            path.nested = true;
            record.counts.nested.add();
            return Ok(self.admit(entry, slot));
        }
        self.wait_and_hold(record, entry, seq, options, path)
    }

    /// If section `seq` tries to lock the VMA, waits for how that ends; and takes
    /// what is there if it did not lock it. `None` if it has it locked.
    pub(super) fn past_a_try<'a>(
        &'a self,
        record: &'a Record,
        (entry, slot, seq): (&'a Entry, &'a Slot<T>, u64),
    ) -> Option<Outcome<'a, T>> {
        if !slot.is_tried(seq) {
            return None;
        }
        while slot.is_tried(seq) {
            sync::thread::yield_now();
        }
        if slot.is_locked(seq) && !mutant("tried-locked") {
            return None;
        }
        let outcome = self.hold_what_is_there(record, entry);
        if outcome.is_ok() {
            record.counts.success.add();
        }
        Some(outcome)
    }

    /// Whether this thread holds, or its caller's pins do, a member of the write
    /// set of section `seq`. Then that section's drain is still on, since it waits
    /// for just that hold. Pins in the record do not count: they may be anybody's
    /// by now.
    fn holds_member(&self, record: &Record, pins: Evidence<'_>, seq: u64) -> bool {
        let holds = record.any_entry(|state, addr| {
            let by_mutant = state == State::Pin && mutant("admit-pins");
            if !state.is_guard() && !by_mutant {
                return false;
            }
            // SAFETY: the caller's entry says that this thread walks.
            let slot = unsafe { tree::find(self.root(), addr) };
            slot.is_some_and(|slot| slot.is_locked(seq))
        });
        (holds || pins.is_some_and(|pins| pins(seq))) && !mutant("admission")
    }

    /// Holds a locked VMA whose section cannot get past its drain. That drain may
    /// have looked at this entry before there was anything in it, and may look at
    /// the hold that admits after that is gone: hence the count.
    fn admit<'a>(&self, entry: &'a Entry, slot: &'a Slot<T>) -> Held<'a, T> {
        if mutant("moves-first") {
            self.count_move();
        }
        self.window(Window::Moving);
        let held = hold(entry, slot);
        self.window(Window::Moving);
        if !mutant("moves-first") {
            self.count_move();
        }
        self.keep(held)
    }

    /// A hold has come to be that a drain which is on may not have seen: to be
    /// called after the new one is published and before the old one may end.
    pub(super) fn count_move(&self) {
        if !mutant("moves") {
            let order = unless("moves-release", Ordering::Release);
            self.writer.moves.fetch_add(1, order);
        }
    }

    /// Sleeps until section `seq` ends, then takes what is there.
    fn wait_and_hold<'a>(
        &'a self,
        record: &'a Record,
        entry: &'a Entry,
        seq: u64,
        options: WaitOptions<'_>,
        path: &mut LookupPath,
    ) -> Outcome<'a, T> {
        let addr = entry.addr();
        if !mutant("wait-mark") {
            entry.wait(seq);
        }
        // The writer may have been waiting for the walk; it does not for the wait.
        self.bell.ring(addr);
        record.counts.wait.add();
        self.window(Window::Waiting);
        let (since, from) = (Watch::start(), self.stamp());
        if let Some(kill) = options.kill {
            kill.register(self.gate.clone());
        }
        let outcome = self
            .gate
            .wait(&self.seq, seq, options.deadline, options.kill, || {
                self.window(Window::Dozing)
            });
        if let Some(kill) = options.kill {
            kill.unregister(&self.gate);
        }
        path.waited = Some(Waited {
            section: seq,
            time: since.elapsed(),
            from,
            until: self.stamp(),
        });
        if let Err(error) = outcome {
            self.window(Window::CalledBack);
            // No trace is left for a writer to wait for.
            if !mutant("clear-mark") {
                self.leave(entry);
            }
            return Err(Ended::Failed(error));
        }
        self.window(Window::Woken);
        self.hold_what_is_there(record, entry)
    }

    /// Takes the VMA that is there, with no look at the lock. For those whose entry
    /// said that they wait before the section ended, or that they walk before they
    /// saw it try: every later section over this address sees that, and waits.
    fn hold_what_is_there<'a>(&'a self, record: &'a Record, entry: &'a Entry) -> Outcome<'a, T> {
        let root = self.root();
        self.window(Window::Waking);
        // SAFETY: the entry has said since before this root was loaded that this
        // thread waits or walks, which keeps what is found.
        match unsafe { tree::find(root, entry.addr()) } {
            Some(slot) => {
                debug_assert!(!slot.is_detached(), "taken under a mark, yet removed");
                Ok(self.keep(hold(entry, slot)))
            }
            None => {
                self.missed(record, entry);
                Err(Ended::Missing)
            }
        }
    }
}
