//! The lookups that read-lock a VMA.
//!
//! A lookup publishes that it walks to an address, with a full fence, and looks at
//! `mm_lock_seq`. A section that it does not see begun sees the walk, and waits for
//! it. So if none is open the lookup walks, and holds what it finds: nobody changes
//! that any more.
//!
//! If one is open the lookup walks, looks at the VMA's lock, *then* whether it is
//! detached, and holds it. Why in this order: the section that it saw begun has the
//! VMA locked, or is over; and if it is over, what it detached is seen detached,
//! and what it published is found by walking again.

use std::marker::PhantomData;
use std::time::{Duration, Instant};

use super::core::Core;
use super::entry::Entry;
use super::recent::SAMPLE;
use super::record::Record;
use super::slot::Slot;
use super::sync::atomic::Ordering;
use super::sync::{self, mutant, unless};
use super::{
    AddrRange, KillFlag, LookupError, Payload, VmaInfo, VmaReadGuard, Window, local, tree,
};

/// What may end the wait of a lookup early. The default is nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct WaitOptions<'a> {
    /// When to give up.
    pub deadline: Option<Instant>,
    /// A flag whose raising ends the wait.
    pub kill: Option<&'a KillFlag>,
}

/// A sleep for the end of a write section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waited {
    /// The section's number (odd; see [`Vma::generation`](super::Vma::generation)).
    /// A section whose drain lasted has several: see
    /// [`Published::rounds`](super::Published::rounds).
    pub section: u64,
    /// From falling asleep to being awake again.
    pub time: Duration,
    /// When it fell asleep, on the clock of the space's
    /// [observer](super::Observer); 0 if it has none.
    pub from: u64,
    /// When it was awake again, on that clock.
    pub until: u64,
}

/// How a lookup went, for those who record it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LookupPath {
    /// The one sleep that there may be. (Where a strategy sleeps more often, or for
    /// the map lock: the section seen last and the time of all sleeps.)
    pub waited: Option<Waited>,
    /// Let in to a write-locked VMA, since the thread held another member of the
    /// same write set.
    pub nested: bool,
    /// How often it began again: strategy [`Retry`](super::Strategy::Retry) alone
    /// does, once for each sleep.
    pub retries: u32,
}

/// A hold that is not in a guard yet, and which nothing ends by itself.
///
/// What happens apart from the way of those who meet no section returns this, since
/// it fits two registers, and so does its `Result` with [`Ended`]: a guard would go
/// through memory, on that way too.
pub(super) struct Held<'a, T> {
    pub(super) slot: &'a Slot<T>,
    pub(super) entry: &'a Entry,
}

/// Pins that are presented to a lookup, and stay until it is over: whether they hold
/// a member of the write set of the section with this number.
pub(super) type Evidence<'a> = Option<&'a dyn Fn(u64) -> bool>;

/// What a lookup comes to.
pub(super) type Outcome<'a, T> = Result<Held<'a, T>, Ended>;

/// Why a lookup holds nothing in the end.
pub(super) enum Ended {
    Missing,
    Failed(LookupError),
}

/// How an attempt ended.
pub(super) enum Attempt<'a, T> {
    Held(Held<'a, T>),
    Missing,
    /// Section `seq` has the VMA locked, or tries to. The entry still says that it walks.
    Locked {
        entry: &'a Entry,
        slot: &'a Slot<T>,
        seq: u64,
    },
}

/// From a walk to a hold of what it found.
#[inline(always)]
pub(super) fn hold<'a, T>(entry: &'a Entry, slot: &'a Slot<T>) -> Held<'a, T> {
    entry.hold();
    Held { slot, entry }
}

impl<T: Payload> Core<T> {
    /// Read-locks the VMA at `addr` unless there is none, or a writer has it.
    /// `record` is the calling thread's, and `entry` an empty one of it.
    #[inline(always)]
    pub(super) fn attempt<'a>(
        &'a self,
        record: &'a Record,
        entry: &'a Entry,
        addr: u64,
    ) -> Attempt<'a, T> {
        self.attempt_by(record, entry, addr, |_| ())
    }

    /// The same, which lingers where the space says so: off the usual way only.
    #[inline(always)]
    pub(super) fn attempt_by<'a>(
        &'a self,
        record: &'a Record,
        entry: &'a Entry,
        addr: u64,
        linger: impl Fn(Window),
    ) -> Attempt<'a, T> {
        let early = mutant("seq-early").then(|| self.seq.load(Ordering::Acquire));
        linger(Window::Entering);
        entry.walk(addr);
        linger(Window::Walking);
        let seq = self.seq.load(unless("seq-acquire", Ordering::Acquire));
        let seq = early.unwrap_or(seq);
        if seq & 1 == 1 || mutant("detached-first") {
            return match self.find_beside_section(addr) {
                (None, _) => {
                    self.missed(record, entry);
                    Attempt::Missing
                }
                (Some(slot), 0) => {
                    record.counts.success.add();
                    Attempt::Held(hold(entry, slot))
                }
                (Some(slot), seq) => Attempt::Locked { entry, slot, seq },
            };
        }
        // Between sections, and a section that begins from here on sees the walk
        // and waits for it: what covers the address now is neither locked nor
        // removed before the entry says otherwise.
        //
        // SAFETY: the entry says since before the root is loaded that this thread
        // walks, so what is found is not freed until it says otherwise; and a slot
        // that is held not before the hold ends.
        let found = unsafe { self.find_between_sections(record, seq, addr, &linger) };
        let Some(slot) = found else {
            self.missed(record, entry);
            return Attempt::Missing;
        };
        linger(Window::Found);
        Attempt::Held(hold(entry, slot))
    }

    /// What covers `addr` while `mm_lock_seq` is `seq`, which is even. Counts it.
    ///
    /// # Safety
    ///
    /// An entry of the caller's has said since before `seq` was loaded that it walks,
    /// and does so, or holds, as long as the result is in use.
    #[inline(always)]
    pub(super) unsafe fn find_between_sections(
        &self,
        record: &Record,
        seq: u64,
        addr: u64,
        linger: &impl Fn(Window),
    ) -> Option<&Slot<T>> {
        linger(Window::Looked);
        if let Some(slot) = record.recent.get(seq, addr) {
            record.counts.success.add();
            // SAFETY: in force after the entry was published, so it is not freed
            // until the entry says otherwise, and not removed: see `Recent`.
            return Some(unsafe { slot.as_ref() });
        }
        let root = self.root();
        linger(Window::Rooted);
        // SAFETY: passed on.
        let slot = unsafe { tree::find(root, addr) }?;
        if record.counts.success.add().is_multiple_of(SAMPLE) {
            record.recent.sample(seq, slot);
        }
        Some(slot)
    }

    /// What covers `addr` while a section is open, which may be over before this
    /// is; and the number of the section that has it locked, or 0. An entry of the
    /// caller's says that it walks.
    ///
    /// Apart, and with a result that fits two registers: the compiler otherwise
    /// takes the way of those who meet no section through memory too.
    #[inline(never)]
    fn find_beside_section(&self, addr: u64) -> (Option<&Slot<T>>, u64) {
        loop {
            self.window(Window::Looked);
            let root = self.root();
            self.window(Window::Rooted);
            // SAFETY: the caller's entry says since before the root is loaded that
            // it walks, so what is found is not freed until it says otherwise.
            let Some(slot) = (unsafe { tree::find(root, addr) }) else {
                return (None, 0);
            };
            if mutant("detached-first") && slot.is_detached() {
                sync::thread::yield_now();
                continue;
            }
            self.window(Window::Beside);
            let seq = self.seq.load(unless("seq-acquire", Ordering::Acquire));
            if seq & 1 == 1 && slot.is_locked_or_tried(seq) && !mutant("lock-check") {
                return (Some(slot), seq);
            }
            self.window(Window::Unlocked);
            let late = mutant("detached") || mutant("detached-first");
            if !slot.is_detached() || late {
                return (Some(slot), 0);
            }
        }
    }

    #[inline(never)]
    pub(super) fn missed(&self, record: &Record, entry: &Entry) {
        self.leave(entry);
        record.counts.miss.add();
    }

    /// A guard for what is held.
    #[inline(always)]
    fn guard<'a>(&'a self, held: Held<'a, T>) -> VmaReadGuard<'a, T> {
        VmaReadGuard {
            core: self,
            slot: held.slot,
            entry: held.entry,
            stays: PhantomData,
        }
    }

    /// What a lookup has come to, as its caller gets it.
    #[inline(always)]
    fn answer<'a>(
        &'a self,
        outcome: Outcome<'a, T>,
    ) -> Result<Option<VmaReadGuard<'a, T>>, LookupError> {
        match outcome {
            Ok(held) => Ok(Some(self.guard(held))),
            Err(Ended::Missing) => Ok(None),
            Err(Ended::Failed(error)) => Err(error),
        }
    }

    /// Ends what `entry` says. A sleeping writer may have been waiting for it.
    #[inline]
    pub(super) fn leave(&self, entry: &Entry) {
        let addr = entry.addr();
        entry.clear();
        self.bell.ring(addr);
    }

    /// The try-lookup.
    #[inline(always)]
    pub(super) fn try_lookup<'a>(
        &'a self,
        record: &'a Record,
        addr: u64,
    ) -> Option<VmaReadGuard<'a, T>> {
        let Some(entry) = record.first() else {
            let held = self.try_lookup_aside(record, addr)?;
            return Some(self.guard(held));
        };
        match self.attempt(record, entry, addr) {
            Attempt::Held(held) => Some(self.guard(held)),
            Attempt::Missing => None,
            Attempt::Locked { entry, .. } => {
                self.leave(entry);
                record.counts.abort.add();
                None
            }
        }
    }

    /// The waiting lookup. `pins` are the caller's for as long as the call lasts.
    #[inline(always)]
    pub(super) fn waiting_lookup<'a>(
        &'a self,
        record: &'a Record,
        addr: u64,
        pins: Evidence<'_>,
        options: WaitOptions<'_>,
        path: &mut LookupPath,
    ) -> Result<Option<VmaReadGuard<'a, T>>, LookupError> {
        *path = LookupPath::default();
        self.check_rank(addr);
        let Some(entry) = record.first() else {
            return self.answer(self.lookup_aside(record, addr, pins, options, path));
        };
        self.answer(match self.attempt(record, entry, addr) {
            Attempt::Held(held) => Ok(held),
            Attempt::Missing => Err(Ended::Missing),
            Attempt::Locked { entry, slot, seq } => {
                self.locked(record, (entry, slot, seq), pins, options, path)
            }
        })
    }

    /// The waiting lookup of those who want a pin. The hold is still one of this
    /// thread's, in `entry`, an empty one, or else one that no guard begins with. (Not
    /// in a space whose holds are kept elsewhere.)
    #[inline(always)]
    pub(super) fn pinning_lookup<'a>(
        &'a self,
        record: &'a Record,
        (entry, addr): (Option<&'a Entry>, u64),
        pins: Evidence<'_>,
        options: WaitOptions<'_>,
        path: &mut LookupPath,
    ) -> Outcome<'a, T> {
        self.check_rank(addr);
        if self.strategy.is_aside() {
            return self.lookup_aside(record, addr, pins, options, path);
        }
        let entry = entry.unwrap_or_else(|| record.vacant_beside());
        match self.attempt(record, entry, addr) {
            Attempt::Held(held) => Ok(held),
            Attempt::Missing => Err(Ended::Missing),
            Attempt::Locked { entry, slot, seq } => {
                self.locked(record, (entry, slot, seq), pins, options, path)
            }
        }
    }

    /// The waiting lookup of those who do not ask how it went.
    #[inline(always)]
    pub(super) fn plain_lookup<'a>(
        &'a self,
        record: &'a Record,
        addr: u64,
    ) -> Result<Option<VmaReadGuard<'a, T>>, LookupError> {
        self.check_rank(addr);
        let Some(entry) = record.first() else {
            return self.answer(self.plain_lookup_aside(record, addr));
        };
        self.answer(match self.attempt(record, entry, addr) {
            Attempt::Held(held) => Ok(held),
            Attempt::Missing => Err(Ended::Missing),
            Attempt::Locked { entry, slot, seq } => self.plain_locked(record, (entry, slot, seq)),
        })
    }

    /// The same for those who do not ask how it went.
    #[cold]
    fn plain_locked<'a>(
        &'a self,
        record: &'a Record,
        locked: (&'a Entry, &'a Slot<T>, u64),
    ) -> Outcome<'a, T> {
        let options = WaitOptions::default();
        self.locked(record, locked, None, options, &mut LookupPath::default())
    }

    /// In debug builds, panics if this thread holds a VMA of a space that comes after
    /// this one.
    #[inline(always)]
    pub(super) fn check_rank(&self, addr: u64) {
        if cfg!(debug_assertions)
            && let Some(above) = local::held_above(&self.registry)
        {
            let (mine, theirs) = (&self.registry.name, &above.name);
            panic!(
                "looking up {addr:#x} in \"{mine}\" with a VMA of \"{theirs}\" held: a thread \
                 that wants both looks up in \"{mine}\" first, which has the lower rank"
            );
        }
    }

    /// Read-locks the VMA that covers `addr`, or else the first one after it.
    pub(super) fn next_lookup<'a>(
        &'a self,
        record: &'a Record,
        addr: u64,
    ) -> Result<Option<VmaReadGuard<'a, T>>, LookupError> {
        loop {
            let Some(at) = self.next_mapped(record, addr) else {
                record.counts.miss.add();
                return Ok(None);
            };
            // What is published is an address inside the VMA that is wanted.
            if let Some(guard) = self.plain_lookup(record, at)?
                && self.next_mapped(record, addr) == Some(at)
            {
                return Ok(Some(guard));
            }
            // A section has changed what comes next. Another look.
        }
    }

    /// The first address from `addr` on that is mapped.
    pub(super) fn next_mapped(&self, record: &Record, addr: u64) -> Option<u64> {
        let entry = record.vacant();
        entry.walk_bare();
        // SAFETY: the entry says since before the root is loaded that this thread
        // walks.
        let slot = unsafe { tree::at_or_after(self.root(), addr) };
        let at = slot.map(|slot| slot.range().start().max(addr));
        entry.clear();
        at
    }

    /// What is mapped in `range`, all in one version.
    pub(super) fn bare_walk(&self, record: &Record, range: AddrRange) -> Vec<VmaInfo> {
        let entry = record.vacant();
        entry.walk_bare();
        // SAFETY: as above; the entry says so until after the last of them.
        let slots = unsafe { tree::slots(self.root(), range) };
        let found = slots.map(Slot::info).collect();
        entry.clear();
        found
    }
}
