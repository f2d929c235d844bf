//! A write section: plan, lock and drain, publish.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use super::state::{Core, Map, Reader};
use super::sync::{self, lock, thread};
use super::{AddrRange, DrainReport, Holder, Payload, VmFlags, Vma, WriteError};

/// A write section that is being planned: the map lock is taken, no VMA is
/// locked, nothing has changed. Dropping it gives everything up.
///
/// The order is plan ([`map`](Self::map), [`unmap`](Self::unmap)), then
/// [`lock`](Self::lock), then the caller's own side effects, then
/// [`Drained::publish`]. Only a [`Drained`] section can change the map, and only
/// locking makes one: what a section changes is what it has locked.
pub struct WriteSection<'a, T: Payload> {
    core: &'a Core<T>,
    /// The map in force, which stays so while the map lock is held.
    current: Arc<Map<T>>,
    /// First addresses of the VMAs to go.
    removed: BTreeSet<u64>,
    /// The VMAs to come.
    added: BTreeMap<u64, Arc<Vma<T>>>,
    seq: u64,
}

impl<'a, T: Payload> WriteSection<'a, T> {
    pub(super) fn new(core: &'a Core<T>, current: Arc<Map<T>>, seq: u64) -> Self {
        Self {
            core,
            current,
            removed: BTreeSet::new(),
            added: BTreeMap::new(),
            seq,
        }
    }

    /// The section's number: odd, and the [`generation`](Vma::generation) of the
    /// VMAs it makes.
    pub fn number(&self) -> u64 {
        self.seq
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
        if !self.core.range.covers(range) {
            return Err(WriteError::OutOfSpace {
                range,
                space: self.core.range,
            });
        }
        if let Some(existing) = self.overlapping(range) {
            return Err(WriteError::Overlaps { range, existing });
        }
        let vma = Vma::new(range, flags, offset, self.seq, payload);
        self.added.insert(range.start(), Arc::new(vma));
        Ok(())
    }

    /// Plans the removal of the VMA whose range is exactly `range`.
    pub fn unmap(&mut self, range: AddrRange) -> Result<(), WriteError> {
        let start = range.start();
        if self
            .added
            .get(&start)
            .is_some_and(|vma| vma.range() == range)
        {
            self.added.remove(&start);
            return Ok(());
        }
        let there = self
            .current
            .get(&start)
            .is_some_and(|vma| vma.range() == range);
        if !there || !self.removed.insert(start) {
            return Err(WriteError::NotMapped { range });
        }
        Ok(())
    }

    /// The range of a VMA that `range` overlaps, in the map as planned.
    fn overlapping(&self, range: AddrRange) -> Option<AddrRange> {
        let kept = self
            .current
            .range(..=range.last())
            .rev()
            .filter(|(start, _)| !self.removed.contains(start));
        // Ranges are disjoint, so of those that begin at or before the last
        // address the nearest one decides.
        let nearest = [
            kept.map(|(_, vma)| vma.range()).next(),
            self.added
                .range(..=range.last())
                .next_back()
                .map(|(_, vma)| vma.range()),
        ];
        nearest
            .into_iter()
            .flatten()
            .find(|existing| existing.overlaps(range))
    }

    /// Locks the write set, all at once, and waits until no reader holds any of
    /// it: for as long as they take, since a reader may hold a VMA for as long as
    /// it likes. What is only added needs no wait.
    ///
    /// Fails with [`WriteError::HoldsGuard`] if this thread itself holds a member.
    pub fn lock(self) -> Result<Drained<'a, T>, WriteError> {
        self.lock_by(None)
    }

    /// As [`lock`](Self::lock), but fails with [`WriteError::TimedOut`], nothing
    /// changed, if the readers are not gone by `deadline`.
    pub fn lock_until(self, deadline: Instant) -> Result<Drained<'a, T>, WriteError> {
        self.lock_by(Some(deadline))
    }

    fn lock_by(self, deadline: Option<Instant>) -> Result<Drained<'a, T>, WriteError> {
        let me = thread::current().id();
        let mut state = lock(&self.core.state);
        let members: Vec<_> = self
            .removed
            .iter()
            .map(|start| self.current[start].range())
            .collect();
        if state
            .holds(me)
            .any(|addr| members.iter().any(|m| m.contains(addr)))
        {
            drop(state);
            return Err(WriteError::HoldsGuard);
        }
        let since = Instant::now();
        state.seq = self.seq;
        state.locked = members;
        // From here on the drop of `drained` ends the section.
        let mut drained = Drained {
            section: self,
            drain: DrainReport::default(),
        };
        let core = drained.section.core;
        let mut seen: BTreeMap<u64, Holder> = BTreeMap::new();
        let mut timed_out = false;
        loop {
            let before = seen.len();
            seen.extend(
                state
                    .undrained()
                    .map(|(id, r): (&u64, &Reader)| (*id, r.describe())),
            );
            state.stats.drains += u64::from(before == 0 && !seen.is_empty());
            if state.undrained().next().is_none() || timed_out {
                break;
            }
            (state, timed_out) = sync::wait_until(&core.changed, state, deadline);
        }
        timed_out = state.undrained().next().is_some();
        state.stats.drained_readers += seen.len() as u64;
        drop(state);
        drained.drain = DrainReport {
            waited: since.elapsed(),
            holders: seen.into_values().collect(),
        };
        if timed_out {
            return Err(WriteError::TimedOut {
                report: drained.drain.clone(),
            });
        }
        Ok(drained)
    }
}

impl<T: Payload> Drop for WriteSection<'_, T> {
    /// Ends the section: unlocks the write set, gives the map lock up.
    fn drop(&mut self) {
        self.current = Arc::default();
        let mut state = lock(&self.core.state);
        if state.seq == self.seq {
            state.seq += 1;
        }
        state.locked.clear();
        state.owner = None;
        self.core.changed.notify_all();
    }
}

/// A write section whose write set is locked and free of readers: now is the time
/// for side effects that must be seen by nobody, or by everybody. Dropping it
/// ends the section with nothing changed.
pub struct Drained<'a, T: Payload> {
    section: WriteSection<'a, T>,
    drain: DrainReport,
}

impl<T: Payload> Drained<'_, T> {
    /// How the drain went.
    pub fn drain(&self) -> &DrainReport {
        &self.drain
    }

    /// The VMAs that will be removed; no reader has them.
    pub fn removed(&self) -> impl Iterator<Item = &Vma<T>> + '_ {
        let section = &self.section;
        section.removed.iter().map(|start| &*section.current[start])
    }

    /// Makes the planned map the one in force, all of it at once, ends the
    /// section, and returns what was removed: by value, since nobody else has it
    /// any more. Blocks for no reader.
    pub fn publish(mut self) -> Published<T> {
        let section = &mut self.section;
        let mut state = lock(&section.core.state);
        section.current = Arc::default();
        let map = Arc::make_mut(&mut state.map);
        let removed: Vec<_> = section
            .removed
            .iter()
            .filter_map(|start| map.remove(start))
            .collect();
        map.append(&mut section.added);
        state.stats.sections += 1;
        drop(state);
        let number = section.seq;
        let drain = std::mem::take(&mut self.drain);
        drop(self);
        let sole = |vma| Arc::into_inner(vma).expect("drained: no reader has it");
        Published {
            number,
            drain,
            removed: removed.into_iter().map(sole).collect(),
        }
    }
}

/// What a write section has done.
#[derive(Debug)]
pub struct Published<T> {
    /// The section's number.
    pub number: u64,
    /// How the drain went.
    pub drain: DrainReport,
    /// What is no longer mapped, in the order of its addresses. The caller owns
    /// it alone.
    pub removed: Vec<Vma<T>>,
}

impl<T: Payload> fmt::Debug for WriteSection<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteSection")
            .field("number", &self.seq)
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
