//! Locking a write set, and waiting until its readers have left.
//!
//! The set is marked with the section's number while `mm_lock_seq` is still even,
//! so that nothing is locked yet; then one store makes the number the one in force
//! and locks all of it at once. (Locked piece by piece, a set would make a reader
//! that holds a later piece wait for an earlier one.) After a full fence, every
//! reader either has published where the scan looks, or sees the lock.
//!
//! The drain waits for the entries in the write set that walk, hold, are pins, or
//! wait for *another* section: these have been promised the VMA when they wake. It
//! sleeps between scans. It is over after one scan that finds none, during which no
//! hold has moved: a reader that is let in because of a hold it has may give that
//! hold back while the scan is between the two, and neither is seen; but then the
//! count of moves, which it bumped in between, is.
//!
//! A drain that lasts is done in *rounds*: the section is ended with nothing
//! changed, so that those who wait for it get in by their marks, and the next is
//! begun; the map lock stays taken, so the plan stays good. If a reader holds one
//! member and waits, by ways the map cannot know, for a thread that sleeps for
//! another member, this makes a delay of what would be a deadlock. Who wants to be
//! told of a drain that lasts is told between two rounds, when nothing is locked.

use std::collections::BTreeMap;
use std::ptr;
use std::time::{Duration, Instant};

use super::core::Core;
use super::entry::Entry;
use super::slot::Slot;
use super::sync::atomic::Ordering;
use super::sync::{MODEL, Watch, full_fence, mutant, thread, unless};
use super::{AddrRange, DrainReport, Holder, LockOptions, Payload, Window};

/// Scans before the first sleep: a walk is over in less time than sleep takes.
const SCANS: u32 = 3;

/// The addresses of a write set.
#[derive(Debug)]
pub(super) struct Members {
    /// Disjoint, in order.
    ranges: Vec<AddrRange>,
}

impl Members {
    /// `ranges` are disjoint and in order.
    pub(super) fn new(ranges: Vec<AddrRange>) -> Self {
        Self { ranges }
    }

    pub(super) fn ranges(&self) -> &[AddrRange] {
        &self.ranges
    }

    pub(super) fn contains(&self, addr: u64) -> bool {
        let after = self.ranges.partition_point(|r| r.start() <= addr);
        after > 0 && self.ranges[after - 1].contains(addr)
    }

    fn span(&self) -> Option<AddrRange> {
        let (first, last) = (self.ranges.first()?, self.ranges.last()?);
        AddrRange::inclusive(first.start(), last.last())
    }
}

/// How a drain went.
pub(super) struct Outcome {
    /// The number of the section that is open now.
    pub(super) seq: u64,
    pub(super) report: DrainReport,
    /// Whether all readers are gone. If not, the deadline has passed.
    pub(super) clear: bool,
}

/// A drain that is on.
struct Drain<'a, T: Payload> {
    core: &'a Core<T>,
    members: &'a Members,
    seq: u64,
    /// The readers found so far, by where: each is told once, as what it was seen
    /// to be last, and with the scan that saw it last.
    seen: BTreeMap<(*const Entry, u64), (Holder, u64)>,
    scan: u64,
}

impl<T: Payload> Core<T> {
    /// Write-locks `slots`, whose addresses are `members`, as section `seq`, the
    /// next one, and waits until no reader is left or the deadline has passed. The
    /// calling thread has the map lock. The section stays open in either case.
    pub(super) fn lock_and_drain(
        &self,
        slots: &[*const Slot<T>],
        members: &Members,
        seq: u64,
        options: LockOptions<'_>,
    ) -> Outcome {
        let pace = self.writer.pace;
        let LockOptions {
            deadline,
            mut on_slow,
        } = options;
        let mut pause = on_slow.as_ref().map_or(Duration::MAX, |slow| slow.after);
        let mut tell_at = pause;
        let mut drain = Drain {
            core: self,
            members,
            seq,
            seen: BTreeMap::new(),
            scan: 0,
        };
        let since = Watch::start();
        let (mut round, mut round_length) = (since, pace.round);
        let mut slice = pace.slice.0;
        let mut scans = 0;
        let mut clear = drain.lock_and_scan(slots);
        while !clear && !Watch::is_past(deadline) {
            let slow = on_slow.as_mut().filter(|_| since.elapsed() >= tell_at);
            if slow.is_some() || round.elapsed() >= round_length {
                let at = self.stamp();
                self.gate.open(&self.seq, drain.seq);
                if let Some(observer) = self.observer() {
                    observer.round(drain.seq, at);
                }
                self.writer.rounds.fetch_add(1, Ordering::Relaxed);
                self.window(Window::Round);
                if !mutant("round-same") {
                    drain.seq = drain.seq.wrapping_add(2);
                }
                if let Some(slow) = slow {
                    (slow.call)(&drain.report(since, true));
                    pause = pause.saturating_mul(2).max(pace.round);
                    tell_at = since.elapsed().saturating_add(pause);
                } else {
                    round_length = round_length.saturating_mul(2);
                }
                drain.lock(slots);
                round = Watch::start();
                if !MODEL {
                    clear = drain.is_clear();
                    continue;
                }
            }
            scans += 1;
            self.window(Window::Scanned);
            match members.span() {
                Some(span) if scans > SCANS => {
                    let mut nap = slice.min(round_length.saturating_sub(round.elapsed()));
                    if let Some(deadline) = deadline {
                        nap = nap.min(deadline.saturating_duration_since(Instant::now()));
                    }
                    nap = nap.min(tell_at.saturating_sub(since.elapsed()));
                    let nap = nap.max(Duration::from_micros(1));
                    self.bell.sleep(span, nap, || drain.is_clear());
                    slice = (2 * slice).min(pace.slice.1);
                }
                _ => thread::yield_now(),
            }
            clear = drain.is_clear();
        }
        let found = drain.seen.len() as u64;
        if found > 0 {
            self.writer.drains.fetch_add(1, Ordering::Relaxed);
            self.writer
                .drained_readers
                .fetch_add(found, Ordering::Relaxed);
        }
        Outcome {
            seq: drain.seq,
            clear,
            report: drain.report(since, false),
        }
    }
}

impl<T: Payload> Core<T> {
    /// The count of moves, before a scan. A move that is in it is seen by the scan.
    pub(super) fn moves(&self) -> u64 {
        let order = unless("moves-acquire", Ordering::Acquire);
        self.writer.moves.load(order)
    }

    /// Whether a hold has moved since, perhaps past a scan that is over. Whoever
    /// moves one bumps the count before giving the old hold up; and that was acquired
    /// where the scan found it gone.
    pub(super) fn has_moved(&self, since: u64) -> bool {
        self.writer.moves.load(Ordering::Relaxed) != since
    }
}

impl<T: Payload> Drain<'_, T> {
    /// Opens section `self.seq`, with `slots` for its write set.
    fn lock(&self, slots: &[*const Slot<T>]) {
        for slot in slots {
            if mutant("piecemeal") {
                self.core.seq.store(self.seq, Ordering::Release);
            }
            // SAFETY: in the tree in force, which stays so as the calling thread
            // has the map lock.
            unsafe { &**slot }.mark(self.seq);
            self.core.window(Window::Marking);
        }
        self.core.seq.store(self.seq, Ordering::Release);
        if !mutant("writer-fence") {
            full_fence();
        }
        self.core.window(Window::Locked);
    }

    /// Opens it, and scans once. Apart, so that the compiler has nothing to put on the
    /// stack between the two: such stores take the place of those that the fence is
    /// about, and the storm could not show what it is for.
    #[inline(never)]
    fn lock_and_scan(&mut self, slots: &[*const Slot<T>]) -> bool {
        self.lock(slots);
        self.is_clear()
    }

    /// Scans once, and notes whom it found.
    fn is_clear(&mut self) -> bool {
        if self.members.ranges.is_empty() || mutant("drain") {
            return true;
        }
        self.scan += 1;
        let moves = self.core.moves();
        let counted_first = mutant("count-first").then(|| self.is_uncounted());
        let mut clear = true;
        for record in self.core.registry.records() {
            record.each_entry(|entry| {
                self.core.window(Window::Scanning);
                let (state, addr) = entry.load();
                if !state.delays(self.seq) || !self.members.contains(addr) {
                    return;
                }
                clear = false;
                let kind = state.kind();
                let (holder, scan) = self
                    .seen
                    .entry((ptr::from_ref(entry), addr))
                    .or_insert_with(|| {
                        let thread = record.thread_name();
                        (Holder { thread, addr, kind }, 0)
                    });
                (holder.kind, *scan) = (kind, self.scan);
            });
        }
        clear
            && counted_first.unwrap_or_else(|| self.is_uncounted())
            && (!self.core.has_moved(moves) || mutant("drain-moves"))
    }

    /// Whether no hold is counted. To be asked after the scan, as a hold is counted
    /// before its entry stops saying so.
    fn is_uncounted(&self) -> bool {
        self.core.is_uncounted(&self.members.ranges)
    }

    /// How it went so far: with all readers, or those that the last scan has found.
    fn report(&self, since: Watch, last: bool) -> DrainReport {
        let found = self.seen.values();
        let found = found.filter(|(_, scan)| !last || *scan == self.scan);
        DrainReport {
            waited: since.elapsed(),
            holders: found.map(|(holder, _)| holder.clone()).collect(),
        }
    }
}
