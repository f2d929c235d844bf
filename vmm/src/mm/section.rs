//! A write section: plan, lock and drain, publish.

use std::fmt;
use std::time::{Duration, Instant};

use super::core::Core;
use super::drain::Members;
use super::next::Next;
use super::observer::Notes;
use super::plan::{Gone, Plan};
use super::slot::Slot;
use super::sync::atomic::Ordering;
use super::sync::mutant;
use super::{AddrRange, DrainReport, LockOptions, Payload, VmFlags, Vma, Window, WriteError};

/// A write section that is being planned: the map lock is taken, no VMA is
/// locked, nothing has changed. Dropping it gives everything up.
///
/// The order is plan ([`map`](Self::map), [`unmap`](Self::unmap) and so on), then
/// [`lock`](Self::lock), then the caller's own side effects, then
/// [`Drained::publish`]. Only a [`Drained`] section can change the map, and only
/// locking makes one: what a section changes is what it has locked. Steps of a
/// plan see what the steps before have planned. A step that is refused changes
/// nothing; one that panics (in a payload's `clone`, `same` or `drop`) spoils the
/// section, which then fails with [`WriteError::HalfPlanned`] whatever is asked of it.
///
/// Stays with its thread, which is the one that the map lock knows.
pub struct WriteSection<'a, T: Payload> {
    // The order of the fields matters: the map lock is given up before what the
    // plan holds is dropped, since such a drop may use the map.
    pub(super) open: Open<'a, T>,
    pub(super) plan: Plan<T>,
    /// Whether a step is under way; or was, when it panicked.
    half: bool,
}

/// The map lock, and the section that is open under it.
pub(super) struct Open<'a, T: Payload> {
    pub(super) core: &'a Core<T>,
    /// The section's first number.
    first: u64,
    /// What the observer will be told.
    notes: Notes,
    /// Whether that is over.
    over: bool,
}

impl<T: Payload> Open<'_, T> {
    /// Ends the section; how long it took to wake who waited for that.
    fn end(mut self) -> Duration {
        self.close()
    }

    fn close(&mut self) -> Duration {
        self.over = true;
        // Only who has the map lock stores to it.
        let seq = self.core.seq.load(Ordering::Relaxed);
        let ended = self.core.stamp();
        let waking = match seq & 1 {
            1 => self.core.gate.open(&self.core.seq, seq),
            _ => Duration::ZERO,
        };
        if let Some(observer) = self.core.observer() {
            // Where nothing was locked, no number was used up.
            let rounds = match seq & 1 == 1 {
                true => seq.wrapping_sub(self.first) / 2 + 1,
                false => 0,
            };
            observer.section(&self.notes.seen(self.first, rounds, ended));
        }
        self.core.writer.map_lock.end_write();
        waking
    }
}

impl<T: Payload> Drop for Open<'_, T> {
    fn drop(&mut self) {
        if !self.over {
            self.close();
        }
    }
}

impl<'a, T: Payload> WriteSection<'a, T> {
    /// Takes the map lock, by `deadline` if there is one.
    pub(super) fn open(core: &'a Core<T>, deadline: Option<Instant>) -> Result<Self, WriteError> {
        let record = core.record();
        if record.any_entry(|state, _| state.is_guard()) {
            return Err(WriteError::HoldsGuard);
        }
        core.writer.map_lock.write(deadline)?;
        // The map lock orders this after all sections there were.
        let first = core.seq.load(Ordering::Relaxed).wrapping_add(1);
        Ok(Self {
            plan: Plan::new(core.root(), core.range, first),
            open: Open {
                core,
                first,
                notes: Notes {
                    opened: core.stamp(),
                    ..Notes::default()
                },
                over: false,
            },
            half: false,
        })
    }

    /// Plans one step, unless one that has panicked left half of something.
    fn step(
        &mut self,
        step: impl FnOnce(&mut Plan<T>) -> Result<(), WriteError>,
    ) -> Result<(), WriteError> {
        if self.half {
            return Err(WriteError::HalfPlanned);
        }
        self.half = true;
        let outcome = step(&mut self.plan);
        self.half = false;
        outcome
    }

    /// The section's number: odd, and the [`generation`](Vma::generation) of the
    /// VMAs it makes. While its drain lasts it takes further numbers, two apart.
    pub fn number(&self) -> u64 {
        self.open.first
    }

    /// Plans a new VMA. Fails if the range is not inside the space, or overlaps a
    /// VMA that stays or is planned.
    pub fn map(
        &mut self,
        range: AddrRange,
        flags: VmFlags,
        offset: u64,
        payload: T,
    ) -> Result<(), WriteError> {
        self.step(|plan| plan.map(range, flags, offset, payload))
    }

    /// Plans that nothing is mapped in `range` any more. VMAs that stick out of it
    /// are split, and their rests stay, as new VMAs. Fails with
    /// [`WriteError::NotMapped`] if nothing is there.
    pub fn unmap(&mut self, range: AddrRange) -> Result<(), WriteError> {
        self.step(|plan| plan.unmap(range))
    }

    /// Plans other access for `range`, all of which must be mapped: of
    /// [`VmFlags::ACCESS`], what `access` has. As with `mprotect`, a VMA stays what it
    /// is otherwise: its other flags are kept, and those in `access` ask for nothing.
    /// VMAs that stick out of the range are split. What has this access already is
    /// left alone. Fails with [`WriteError::NotMapped`] if something is not mapped.
    pub fn protect(&mut self, range: AddrRange, access: VmFlags) -> Result<(), WriteError> {
        self.change_flags(range, access.intersection(VmFlags::ACCESS), VmFlags::ACCESS)
    }

    /// Plans other flags for `range`: without those in `clear`, and with those in
    /// `set`. Any flag can be changed so, also one that says what a VMA *is*:
    /// [`VmFlags::NOMERGE`], and whatever a layer above marks its VMAs by. Otherwise
    /// as [`protect`](Self::protect).
    pub fn change_flags(
        &mut self,
        range: AddrRange,
        set: VmFlags,
        clear: VmFlags,
    ) -> Result<(), WriteError> {
        self.step(|plan| plan.change_flags(range, set, clear))
    }

    /// Plans a border at `addr`: the VMA that covers it becomes two, which carry
    /// the same. Nothing to do if one begins there; fails with
    /// [`WriteError::NotMapped`] if nothing is mapped there.
    pub fn split(&mut self, addr: u64) -> Result<(), WriteError> {
        self.step(|plan| plan.split(addr))
    }

    /// Plans that what is mapped in `range`, which must be all of it, is mapped
    /// from `to` on instead; the two may overlap. Fails with
    /// [`WriteError::Overlaps`] if something else is there, and with
    /// [`WriteError::OutOfSpace`] if it would leave the space.
    pub fn relocate(&mut self, range: AddrRange, to: u64) -> Result<(), WriteError> {
        self.step(|plan| plan.relocate(range, to))
    }

    /// The VMA, as planned so far, that covers `addr`, or else the first one after
    /// it. What will be [merged](super#merging) is not yet.
    pub fn find_vma(&self, addr: u64) -> Option<&Vma<T>> {
        self.plan.at_or_after(addr)
    }

    /// Locks the write set, all at once, and waits until no reader holds any of
    /// it: for as long as they take, since a reader may hold a VMA for as long as
    /// it likes. What is only added needs no wait.
    ///
    /// Fails with [`WriteError::HoldsGuard`] if this thread itself holds a member
    /// by a guard, and with [`WriteError::HalfPlanned`] if a step has panicked. A pin of a member that this thread has is waited for like
    /// anybody's, for ever: do not.
    pub fn lock(self) -> Result<Drained<'a, T>, WriteError> {
        self.lock_with(LockOptions::default())
    }

    /// As [`lock`](Self::lock), but fails with [`WriteError::TimedOut`], nothing
    /// changed, if the readers are not gone by `deadline`.
    pub fn lock_until(self, deadline: Instant) -> Result<Drained<'a, T>, WriteError> {
        self.lock_with(LockOptions {
            deadline: Some(deadline),
            ..LockOptions::default()
        })
    }

    /// As [`lock`](Self::lock), as the options say: with a deadline, and with
    /// somebody to tell when it lasts, and by whom it is held.
    pub fn lock_with(self, options: LockOptions<'_>) -> Result<Drained<'a, T>, WriteError> {
        // The map lock is given up first: bindings are dropped last to first.
        let Self {
            half,
            mut plan,
            mut open,
        } = self;
        if half {
            return Err(WriteError::HalfPlanned);
        }
        let core = open.core;
        open.notes.planned = core.stamp();
        let slots: Vec<_> = plan.goes.values().copied().collect();
        // SAFETY: in the tree in force, under the map lock.
        let range = |slot: &*const Slot<T>| unsafe { &**slot }.range();
        let members = Members::new(slots.iter().map(range).collect());
        let record = core.record();
        if record.any_entry(|state, addr| state.is_guard() && members.contains(addr)) {
            return Err(WriteError::HoldsGuard);
        }
        // All that is to be built is built before anybody has to wait for it.
        let neighbours = core.unread(&plan.neighbours(), open.first);
        let next = Next::build(core, &mut plan, &neighbours, neighbours.is_empty());
        core.window(Window::Planned);
        if let Some(observer) = core.observer() {
            observer.locking(open.first, members.ranges());
        }
        let outcome = core.lock_and_drain(&slots, &members, open.first, options);
        open.notes.holders = outcome.report.holders.len();
        if outcome.clear {
            open.notes.drained = core.stamp();
            if let Some(observer) = core.observer() {
                observer.drained(open.first);
            }
        }
        let mut drained = Drained {
            open,
            next,
            spare: Vec::new(),
            plan,
            former: None,
            drain: outcome.report,
        };
        if !outcome.clear {
            let report = drained.drain.clone();
            return Err(WriteError::TimedOut { report });
        }
        drained.merge(neighbours, outcome.seq);
        Ok(drained)
    }
}

/// A write section whose write set is locked and free of readers: now is the time
/// for side effects that must be seen by nobody, or by everybody. Dropping it
/// ends the section with nothing changed.
pub struct Drained<'a, T: Payload> {
    // In this order; see `WriteSection`.
    open: Open<'a, T>,
    next: Next<T>,
    /// What was built and is not what it should be. Dropped with the rest, after the
    /// map lock is given up.
    spare: Vec<Next<T>>,
    plan: Plan<T>,
    /// The plan that was given up for this one, if any; dropped likewise.
    former: Option<Plan<T>>,
    drain: DrainReport,
}

impl<T: Payload> Drained<'_, T> {
    /// Locks those `neighbours` that no reader is at, which the next version has
    /// merged, and puts them into the write set.
    fn merge(&mut self, neighbours: Vec<*const Slot<T>>, seq: u64) {
        let core = self.open.core;
        let locked = core.lock_unread(&neighbours, seq);
        if locked.len() < neighbours.len() {
            let next = Next::build(core, &mut self.plan, &locked, true);
            self.spare.push(std::mem::replace(&mut self.next, next));
        }
        for slot in locked {
            // SAFETY: in the tree in force, under the map lock.
            let start = unsafe { &*slot }.range().start();
            self.plan.goes.insert(start, slot);
        }
    }

    /// What is write-locked, in order.
    #[cfg(all(test, not(loom)))]
    pub(super) fn write_set(&self) -> Vec<AddrRange> {
        let core = self.open.core;
        let seq = core.seq.load(Ordering::Relaxed);
        // SAFETY: the tree in force, under the map lock.
        let slots = unsafe { super::tree::slots(core.root(), core.range) };
        let locked = slots.filter(|slot| slot.is_locked(seq));
        locked.map(|slot| slot.range()).collect()
    }

    /// What is write-locked, in order, as it is before the section: what the plan
    /// changes or removes, and the neighbours that are merged with what comes. All
    /// that is mapped there after the section is made by it.
    pub fn locked(&self) -> impl Iterator<Item = &Vma<T>> + '_ {
        let slots = self.plan.goes.values();
        // SAFETY: in the drained write set, for as long as this is borrowed.
        slots.map(|slot| unsafe { (**slot).vma() })
    }

    /// How the drain went.
    pub fn drain(&self) -> &DrainReport {
        &self.drain
    }

    /// What will no longer be mapped, in no particular order; no reader has it.
    pub fn removed(&self) -> impl Iterator<Item = &Vma<T>> + '_ {
        self.plan.gone.iter().map(|gone| match gone {
            // SAFETY: in the drained write set, for as long as this is borrowed.
            Gone::Whole(slot) => unsafe { (**slot).vma() },
            Gone::Part(vma) => vma,
        })
    }

    /// Gives up what was planned for another plan, and [publishes](Self::publish) that:
    /// each VMA that is locked stays, and those for which `other` has flags and a payload
    /// are made anew with these. For side effects that failed and left a VMA other than
    /// it was. Nothing can fail, and nobody is waited for.
    ///
    /// `other` is called with the write set locked, once for each VMA in it, in order. It
    /// must not use the map, as side effects must not: to look one of these VMAs up would
    /// wait for this very section. If it panics, the section ends with nothing changed.
    pub fn publish_instead(
        self,
        mut other: impl FnMut(&Vma<T>) -> Option<(VmFlags, T)>,
    ) -> Published<T> {
        // A binding made here is dropped before `other` is, and all payloads are in it,
        // behind the map lock: a panic drops none of them under that.
        let mut drained = self;
        let core = drained.open.core;
        let plan = Plan::new(core.root(), core.range, drained.open.first);
        let former = std::mem::replace(&mut drained.plan, plan);
        for slot in drained.former.insert(former).goes.values() {
            // SAFETY: in the drained write set, as long as the section lasts.
            let vma = unsafe { (**slot).vma() };
            if let Some((flags, payload)) = other(vma) {
                drained.plan.replace(*slot, vma, flags, payload);
            }
        }
        let next = Next::build(core, &mut drained.plan, &[], true);
        let spare = std::mem::replace(&mut drained.next, next);
        drained.spare.push(spare);
        drained.publish()
    }

    /// Makes the planned map the one in force, all of it at once, ends the
    /// section, and returns what was removed: by value, since nobody else has it
    /// any more. Blocks for no reader.
    pub fn publish(self) -> Published<T> {
        let Self {
            drain,
            mut plan,
            spare: _spare,
            former: _former,
            next,
            mut open,
        } = self;
        let core = open.core;
        let goes = std::mem::take(&mut plan.goes);
        if core.observer().is_some() {
            open.notes.applied = core.stamp();
            open.notes.published = true;
            open.notes.added = next.infos();
            let removed = goes.values();
            // SAFETY: retired only below.
            open.notes.removed = removed.map(|slot| unsafe { &**slot }.info()).collect();
        }
        let detach = || {
            for slot in goes.values() {
                // SAFETY: retired only below.
                unsafe { &**slot }.detach();
            }
        };
        if !mutant("detach-late") {
            detach();
        }
        core.window(Window::Detached);
        let version = next.into_version();
        if !mutant("publish-late") {
            core.set_root(version.root);
        }
        core.window(Window::Published);
        core.writer.sections.fetch_add(1, Ordering::Relaxed);
        let mut removed = Vec::with_capacity(plan.gone.len());
        let mut whole = std::collections::BTreeSet::new();
        for gone in std::mem::take(&mut plan.gone) {
            removed.push(match gone {
                Gone::Part(vma) => vma,
                Gone::Whole(slot) => {
                    whole.insert(slot);
                    // SAFETY: drained, and published without it; taken once, as
                    // the statement below leaves it out.
                    unsafe { (*slot).take() }
                }
            });
        }
        removed.sort_by_key(|vma| vma.range().start());
        let replaced = goes
            .values()
            .filter(|slot| !whole.contains(*slot))
            // SAFETY: as above; those that were taken are left out.
            .map(|slot| unsafe { (**slot).take() })
            .collect();
        let number = open.first;
        let last = core.seq.load(Ordering::Relaxed);
        let waking = open.end();
        core.window(Window::Ended);
        if mutant("publish-late") {
            core.set_root(version.root);
        }
        if mutant("detach-late") {
            detach();
        }
        core.retire(version.into_stale(), goes.into_values().collect());
        Published {
            number,
            rounds: last.wrapping_sub(number) / 2 + 1,
            drain,
            waking,
            removed,
            replaced,
        }
    }
}

/// What a write section has done.
#[derive(Debug)]
pub struct Published<T> {
    /// The section's first number.
    pub number: u64,
    /// How many numbers it had, each two above the last: one, and one more for
    /// each time that its drain let the waiters in. What a lookup says that it
    /// [waited](super::Waited) for is one of these.
    pub rounds: u64,
    /// How the drain went.
    pub drain: DrainReport,
    /// How long waking the lookups took that waited for it, at the section's end;
    /// 0 if none did.
    pub waking: Duration,
    /// What is no longer mapped, in the order of its addresses. The caller owns
    /// it alone; where only a part of a VMA was unmapped, this is that part, and
    /// its payload a clone.
    pub removed: Vec<Vma<T>>,
    /// The VMAs that others have taken the place of (split, moved, merged, or with
    /// other flags), as they were. There is no need to look at them.
    pub replaced: Vec<Vma<T>>,
}

impl<T: Payload> fmt::Debug for WriteSection<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteSection")
            .field("number", &self.open.first)
            .finish_non_exhaustive()
    }
}

impl<T: Payload> fmt::Debug for Drained<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drained")
            .field("drain", &self.drain)
            .finish_non_exhaustive()
    }
}
