//! What a write section is going to change.
//!
//! A plan is laid over the tree in force, which stays as it is while the map lock
//! is held: VMAs of the tree that go, and VMAs that come. A change of bounds or
//! flags is both. What goes is the write set; nothing else is locked, and nothing
//! that is not in the plan can be changed. A plan also knows the borders at which
//! it would rather have no border: [`merge`](super::merge) sees to these.

use std::collections::{BTreeMap, BTreeSet};

use super::node::Child;
use super::slot::Slot;
use super::{AddrRange, Payload, VmFlags, Vma, WriteError, tree};

/// A plan over the tree with this root.
pub(super) struct Plan<T> {
    pub(super) root: Child<T>,
    /// The space.
    space: AddrRange,
    /// The section's number.
    pub(super) seq: u64,
    /// VMAs of the tree that go, by their first address: the write set.
    pub(super) goes: BTreeMap<u64, *const Slot<T>>,
    /// VMAs that come, by their first address.
    pub(super) comes: BTreeMap<u64, Coming<T>>,
    /// Where what comes begins or ends, and would be merged with what is there: by
    /// the first address after the border.
    pub(super) borders: BTreeSet<u64>,
    /// What will no longer be mapped.
    pub(super) gone: Vec<Gone<T>>,
    /// VMAs that came and went within the plan, were refused or merged. They are
    /// dropped with it, after the map lock is given up: their drop may use the map.
    pub(super) dropped: Vec<Vma<T>>,
}

/// A VMA that comes.
pub(super) struct Coming<T> {
    pub(super) vma: Vma<T>,
    /// Mapped by this section, rather than made of a VMA of the tree.
    new: bool,
}

/// Something that will no longer be mapped.
pub(super) enum Gone<T> {
    /// All of a VMA that goes.
    Whole(*const Slot<T>),
    /// A part of one, or of what became of it.
    Part(Vma<T>),
}

impl<T: Payload> Plan<T> {
    pub(super) fn new(root: Child<T>, space: AddrRange, seq: u64) -> Self {
        Self {
            root,
            space,
            seq,
            goes: BTreeMap::new(),
            comes: BTreeMap::new(),
            borders: BTreeSet::new(),
            gone: Vec::new(),
            dropped: Vec::new(),
        }
    }

    /// The VMA, as planned, that covers `addr`, or else the first one after it.
    pub(super) fn at_or_after(&self, addr: u64) -> Option<&Vma<T>> {
        self.first_in(AddrRange::inclusive(addr, u64::MAX)?)
    }

    /// The first VMA, as planned, that overlaps `within`, or perhaps one after it.
    /// Steps over what goes, so the range should be no longer than need be.
    fn first_in(&self, within: AddrRange) -> Option<&Vma<T>> {
        let addr = within.start();
        let kept = self.kept(within).next();
        let covering = self.comes.range(..=addr).next_back();
        let coming = covering
            .filter(|(_, c)| c.vma.range().contains(addr))
            .or_else(|| self.comes.range(addr..).next())
            .map(|(_, c)| &c.vma);
        match (kept, coming) {
            (Some(kept), Some(coming)) if coming.range() < kept.range() => Some(coming),
            (Some(kept), _) => Some(kept),
            (None, coming) => coming,
        }
    }

    /// The VMAs of the tree that stay and overlap `within`.
    fn kept(&self, within: AddrRange) -> impl Iterator<Item = &Vma<T>> + '_ {
        self.slots(within).map(|slot| {
            // SAFETY: the section has the map lock, and the slot is in the tree in
            // force, for as long as the plan is borrowed.
            unsafe { slot.vma() }
        })
    }

    fn slots(&self, within: AddrRange) -> impl Iterator<Item = &Slot<T>> + '_ {
        // SAFETY: the section has the map lock, so the version stays in force.
        let slots = unsafe { tree::slots(self.root, within) };
        slots.filter(|slot| !self.goes.contains_key(&slot.range().start()))
    }

    /// Whether all of `range` lies in the space.
    fn check_space(&self, range: AddrRange) -> Result<(), WriteError> {
        let space = self.space;
        match space.covers(range) {
            true => Ok(()),
            false => Err(WriteError::OutOfSpace { range, space }),
        }
    }

    /// Whether nothing is in `range`, as planned.
    fn check_free(&self, range: AddrRange) -> Result<(), WriteError> {
        match self.first_in(range) {
            Some(vma) if vma.range().overlaps(range) => Err(WriteError::Overlaps {
                range,
                existing: vma.range(),
            }),
            _ => Ok(()),
        }
    }

    /// Whether something is everywhere in `range`, as planned.
    fn check_mapped(&self, range: AddrRange) -> Result<(), WriteError> {
        let mut from = range.start();
        loop {
            // One address will do: whatever covers it is found.
            match AddrRange::new(from, 1).and_then(|at| self.first_in(at)) {
                Some(vma) if vma.range().contains(from) => match vma.range().end() {
                    Some(end) if end <= range.last() => from = end,
                    _ => return Ok(()),
                },
                _ => return Err(WriteError::NotMapped { range }),
            }
        }
    }

    /// Plans a new VMA.
    pub(super) fn map(
        &mut self,
        range: AddrRange,
        flags: VmFlags,
        offset: u64,
        payload: T,
    ) -> Result<(), WriteError> {
        let vma = Vma::new(range, flags, offset, self.seq, payload);
        let checked = self
            .check_space(range)
            .and_then(|()| self.check_free(range));
        match checked {
            Ok(()) => {
                self.put(vma, true);
                self.merge_at(range);
            }
            Err(_) => self.dropped.push(vma),
        }
        checked
    }

    /// Plans that nothing is mapped in `range` any more.
    pub(super) fn unmap(&mut self, range: AddrRange) -> Result<(), WriteError> {
        // A VMA that goes as a whole is handed back itself, not a copy of it.
        let whole: Vec<_> = self
            .slots(range)
            .filter(|slot| range.covers(slot.range()))
            .map(std::ptr::from_ref)
            .collect();
        for slot in &whole {
            // SAFETY: in the tree in force, as above.
            let start = unsafe { &**slot }.range().start();
            self.goes.insert(start, *slot);
            self.gone.push(Gone::Whole(*slot));
        }
        let parts = self.carve(range);
        if whole.is_empty() && parts.is_empty() {
            return Err(WriteError::NotMapped { range });
        }
        for Coming { vma, new } in parts {
            if new {
                self.dropped.push(vma);
            } else {
                self.gone.push(Gone::Part(vma));
            }
        }
        Ok(())
    }

    /// Plans other flags for all that is mapped in `range`: without those in `clear`,
    /// with those in `set`.
    pub(super) fn change_flags(
        &mut self,
        range: AddrRange,
        set: VmFlags,
        clear: VmFlags,
    ) -> Result<(), WriteError> {
        self.check_mapped(range)?;
        // What has these flags already is neither split nor locked.
        let mut left = Some(range);
        while let Some(now) = left {
            let Some(vma) = self.at_or_after(now.start()) else {
                break;
            };
            let Some(here) = vma.range().intersection(now) else {
                break;
            };
            let flags = vma.flags().difference(clear) | set;
            let same = vma.flags() == flags;
            left = here
                .end()
                .and_then(|end| AddrRange::inclusive(end, now.last()));
            if !same {
                for part in self.carve(here) {
                    let vma = part.vma.with_flags(flags, self.seq);
                    self.put(vma, part.new);
                }
                self.merge_at(here);
            }
        }
        Ok(())
    }

    /// Plans another VMA in the place of a `slot` of the tree, which has `vma`.
    pub(super) fn replace(
        &mut self,
        slot: *const Slot<T>,
        vma: &Vma<T>,
        flags: VmFlags,
        payload: T,
    ) {
        let (range, offset) = (vma.range(), vma.offset());
        self.goes.insert(range.start(), slot);
        self.put(Vma::new(range, flags, offset, self.seq, payload), true);
    }

    /// Plans a border at `addr`.
    pub(super) fn split(&mut self, addr: u64) -> Result<(), WriteError> {
        let range = AddrRange::inclusive(addr, addr);
        let vma = self
            .at_or_after(addr)
            .filter(|vma| vma.range().contains(addr));
        let (Some(vma), Some(range)) = (vma, range) else {
            return Err(WriteError::NotMapped {
                range: AddrRange::new(addr, 1).expect("one address"),
            });
        };
        let right = AddrRange::inclusive(range.start(), vma.range().last());
        let there = vma.range().start() == addr;
        // Asked for, so not merged away by what was planned before.
        self.borders.remove(&addr);
        if there {
            return Ok(());
        }
        if let Some(right) = right {
            for part in self.carve(right) {
                self.put(part.vma, part.new);
            }
        }
        Ok(())
    }

    /// Plans that what is mapped in `range` is mapped from `to` on instead.
    pub(super) fn relocate(&mut self, range: AddrRange, to: u64) -> Result<(), WriteError> {
        self.check_mapped(range)?;
        let last = to.checked_add(range.last() - range.start());
        let target = last.and_then(|last| AddrRange::inclusive(to, last));
        let Some(target) = target else {
            return Err(WriteError::OutOfSpace {
                range,
                space: self.space,
            });
        };
        self.check_space(target)?;
        // What is in the way and does not itself move away.
        let mut from = target.start();
        while let Some(vma) = self.at_or_after(from) {
            let Some(hit) = vma.range().intersection(target) else {
                break;
            };
            if !range.covers(hit) {
                return Err(WriteError::Overlaps {
                    range: target,
                    existing: vma.range(),
                });
            }
            match hit.end() {
                Some(end) if end <= target.last() => from = end,
                _ => break,
            }
        }
        for part in self.carve(range) {
            let start = to + (part.vma.range().start() - range.start());
            let vma = part.vma.moved_to(start, self.seq);
            self.put(vma, part.new);
        }
        // Borders inside move along.
        let inside = self.borders.range(range.start()..=range.last());
        let inside: Vec<u64> = inside.copied().collect();
        for border in &inside {
            self.borders.remove(border);
        }
        let moved = inside.iter().map(|border| to + (border - range.start()));
        self.borders.extend(moved);
        self.merge_at(target);
        Ok(())
    }

    /// Takes all that is mapped in `range`, as planned, out of the plan and
    /// returns it, in order; what sticks out of the range stays, as VMAs of its
    /// own.
    fn carve(&mut self, range: AddrRange) -> Vec<Coming<T>> {
        let slots: Vec<_> = self.slots(range).map(std::ptr::from_ref).collect();
        let mut hit = Vec::new();
        for slot in slots {
            // SAFETY: in the tree in force, and the section has the map lock.
            let vma = unsafe { (*slot).vma() };
            self.goes.insert(vma.range().start(), slot);
            hit.push(Coming {
                vma: vma.clone(),
                new: false,
            });
        }
        let coming = self.comes.range(..=range.last()).rev();
        let starts: Vec<_> = coming
            .take_while(|(_, c)| c.vma.range().overlaps(range))
            .map(|(start, _)| *start)
            .collect();
        hit.extend(starts.iter().filter_map(|start| self.comes.remove(start)));
        hit.sort_by_key(|c| c.vma.range().start());
        let mut inside = Vec::new();
        for Coming { vma, new } in hit {
            let all = vma.range();
            let left = range.start().checked_sub(1);
            let left = left.and_then(|last| AddrRange::inclusive(all.start(), last));
            let right = range.end();
            let right = right.and_then(|start| AddrRange::inclusive(start, all.last()));
            for rest in [left, right].into_iter().flatten() {
                let vma = vma.part(rest, self.seq);
                self.put(vma, new);
            }
            if let Some(here) = all.intersection(range) {
                let part = if here == all {
                    vma
                } else {
                    let part = vma.part(here, self.seq);
                    self.dropped.push(vma);
                    part
                };
                inside.push(Coming { vma: part, new });
            }
        }
        inside
    }

    /// What comes at `range` would be merged with its neighbours.
    fn merge_at(&mut self, range: AddrRange) {
        self.borders.insert(range.start());
        self.borders.extend(range.end());
    }

    fn put(&mut self, vma: Vma<T>, new: bool) {
        self.comes.insert(vma.range().start(), Coming { vma, new });
    }
}
