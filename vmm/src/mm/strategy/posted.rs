//! The waits that take the map lock: `retry`, `pin`, and `rwlock`.
//!
//! The first two begin where a try has found the VMA locked. The entry is cleared
//! before the map lock is waited for, since a walk would delay the very drain whose
//! end is waited for. So nothing marks the waiter, and:
//!
//! - in `retry` a later section may have the VMA again by the time it tries again;
//! - in both a thread that holds a VMA may wait for a writer that waits for that
//!   hold, and for ever: hence no nesting.
//!
//! The map lock is given to those who wait for it in turn, so that a reader waits for
//! one section, as it would for Linux's.

use super::super::core::Core;
use super::super::entry::Entry;
use super::super::lookup::{self, Attempt, Ended, LookupPath, Outcome, WaitOptions, Waited};
use super::super::record::Record;
use super::super::sync::atomic::Ordering;
use super::super::sync::{Watch, mutant};
use super::super::{KillFlag, LookupError, Payload, Window, tree};
use super::Strategy;

impl<T: Payload> Core<T> {
    /// Section `seq` has the VMA locked to which `entry` walks, and this space
    /// waits for the map lock.
    pub(in super::super) fn wait_as_posted<'a>(
        &'a self,
        record: &'a Record,
        entry: &'a Entry,
        mut seq: u64,
        options: WaitOptions<'_>,
        path: &mut LookupPath,
    ) -> Outcome<'a, T> {
        let addr = entry.addr();
        self.leave(entry);
        loop {
            self.wait_for_map_lock(record, seq, options, path)
                .map_err(Ended::Failed)?;
            // SAFETY: the tree in force stays so while the map lock is held.
            let found = unsafe { tree::find(self.root(), addr) };
            let Some(slot) = found else {
                self.writer.map_lock.end_read();
                record.counts.miss.add();
                return Err(Ended::Missing);
            };
            if self.strategy == Strategy::Pin {
                if mutant("posted-late") {
                    self.writer.map_lock.end_read();
                }
                self.window(Window::Moving);
                let entry = record.vacant();
                entry.walk(addr);
                let held = lookup::hold(entry, slot);
                // A section that begins after this sees the hold: it takes the map
                // lock from us.
                if !mutant("posted-late") {
                    self.writer.map_lock.end_read();
                }
                return Ok(held);
            }
            self.writer.map_lock.end_read();
            self.window(Window::MapLock);
            path.retries += 1;
            record.count_retry();
            let vacant = record.vacant();
            match self.attempt_by(record, vacant, addr, |at| self.window(at)) {
                Attempt::Held(held) => return Ok(held),
                Attempt::Missing => return Err(Ended::Missing),
                Attempt::Locked {
                    entry,
                    slot,
                    seq: by,
                } => {
                    if let Some(outcome) = self.past_a_try(record, (entry, slot, by)) {
                        return outcome;
                    }
                    self.leave(entry);
                    seq = by;
                }
            }
        }
    }

    /// The map lock, which is to be the hold, is not to be had at once.
    #[cold]
    pub(in super::super) fn busy<'a>(
        &'a self,
        record: &'a Record,
        addr: u64,
        options: WaitOptions<'_>,
        path: &mut LookupPath,
    ) -> Outcome<'a, T> {
        if self.writer.map_lock.is_mine() {
            return Err(Ended::Failed(LookupError::OwnWriteSection));
        }
        if self.writer.map_lock.try_read_again() {
            // This thread has the map lock for reading, so no writer has it; one
            // that waits for it waits for this thread anyway.
            path.nested = true;
            record.counts.nested.add();
        } else {
            let seq = self.seq.load(Ordering::Acquire) | 1;
            self.wait_for_map_lock(record, seq, options, path)
                .map_err(Ended::Failed)?;
        }
        self.look_under_map_lock(record, addr)
    }

    /// Takes the map lock for reading, in turn, because of section `seq`.
    fn wait_for_map_lock(
        &self,
        record: &Record,
        seq: u64,
        options: WaitOptions<'_>,
        path: &mut LookupPath,
    ) -> Result<(), LookupError> {
        let over = |waited: &mut LookupPath, since: Option<Watch>| {
            let until = self.stamp();
            let before = waited.waited.map(|waited| waited.time).unwrap_or_default();
            waited.waited = Some(Waited {
                section: seq,
                time: before + since.map(|since| since.elapsed()).unwrap_or_default(),
                from: waited.waited.map_or(until, |waited| waited.from),
                until,
            });
            if options.kill.is_some_and(KillFlag::is_raised) {
                return Err(LookupError::Killed);
            }
            if Watch::is_past(options.deadline) {
                return Err(LookupError::TimedOut);
            }
            Ok(())
        };
        record.counts.wait.add();
        over(path, None)?;
        let since = Watch::start();
        self.window(Window::MapLock);
        self.writer.map_lock.read_in_turn();
        over(path, Some(since)).inspect_err(|_| self.writer.map_lock.end_read())
    }
}
