//! A map beside its oracles.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Instant;

use rangemap::RangeInclusiveMap;

use super::super::super::audit::{Shape, audit};
use super::super::super::{Gap, Vma, VmaInfo, WriteError, WriteSection};
use super::super::*;
use super::ops::{Cell, Op, cells, expect, expect_gap};
use super::{Counted, Fate, PANICS};

/// The map once more. A value is the payload, the offset in it of address 0, and the
/// flags.
type Ranges = RangeInclusiveMap<u64, (u64, u64, VmFlags)>;

pub(super) struct World {
    mm: AddressSpace<Counted>,
    /// The first address of the space.
    base: u64,
    map: Vec<Cell>,
    ranges: Ranges,
    alive: Arc<()>,
    tag: u64,
    /// Whether what belongs together is merged.
    merges: bool,
    /// How many sections were given up, and how many merged what was there before.
    pub(super) given_up: u64,
    pub(super) merged: u64,
}

impl World {
    /// `size` addresses: the first or the last ones that there are.
    pub(super) fn new(size: u64, at_the_end: bool, merges: bool) -> Self {
        let base = if at_the_end { u64::MAX - (size - 1) } else { 0 };
        Self {
            mm: AddressSpace::new("oracle", range(base, size)),
            base,
            map: vec![None; size as usize],
            ranges: RangeInclusiveMap::new(),
            alive: Arc::new(()),
            tag: 0,
            merges,
            given_up: 0,
            merged: 0,
        }
    }

    /// `range` of the oracles in the space.
    fn at(&self, range: AddrRange) -> AddrRange {
        let (start, last) = (self.base + range.start(), self.base + range.last());
        AddrRange::inclusive(start, last).unwrap()
    }

    /// Makes a section of `ops`, each of which has to be taken or refused as the
    /// oracle says. Returns whether it was published.
    pub(super) fn section(&mut self, ops: &[Op], fate: Fate) -> bool {
        if let Fate::PayloadPanics(call) = fate {
            PANICS.set(call);
        }
        let before = self.tag;
        let ended = catch_unwind(AssertUnwindSafe(|| self.try_section(ops, fate)));
        let panicked = PANICS.replace(0) == 0;
        match ended {
            Ok(Some((map, ranges))) => {
                (self.map, self.ranges) = (map, ranges);
                return true;
            }
            Ok(None) => {}
            Err(panic) => match fate {
                Fate::EffectPanics => {}
                Fate::PayloadPanics(_) if panicked => {}
                // An assertion.
                _ => resume_unwind(panic),
            },
        }
        self.tag = before;
        self.given_up += 1;
        false
    }

    fn try_section(&mut self, ops: &[Op], fate: Fate) -> Option<(Vec<Cell>, Ranges)> {
        let mut tag = self.tag;
        let mut section = self.mm.mmap_write_lock().unwrap();
        let (mut map, mut ranges) = (self.map.clone(), self.ranges.clone());
        for op in ops {
            tag += 1;
            let expected = expect(&map, self.base, op, tag);
            let done = self.step(&mut section, &map, op, tag);
            assert_eq!(done.is_ok(), expected.is_some(), "{op:?}");
            if let Some(after) = expected {
                let at_gap;
                let op = match *op {
                    Op::MapAt(gap) => {
                        at_gap = Op::Map(expect_gap(&map, self.base, gap).unwrap(), 0);
                        &at_gap
                    }
                    _ => op,
                };
                note(&mut ranges, op, tag);
                map = after;
            }
        }
        let drained = match fate {
            Fate::Planned => return None,
            Fate::TimedOut => {
                let at = self.map.iter().position(Option::is_some);
                let guard = at.and_then(|at| self.mm.lock_vma_under_rcu(self.base + at as u64));
                let _pin = guard.map(|guard| guard.pin());
                // Whether or not the pin is in the write set, and it matters.
                match section.lock_until(Instant::now()) {
                    Ok(drained) => drop(drained),
                    Err(error) => assert!(matches!(error, WriteError::TimedOut { .. })),
                }
                return None;
            }
            _ => section.lock().unwrap(),
        };
        match fate {
            Fate::Drained => return None,
            Fate::Instead => {
                let done = drained.publish_instead(|_| None);
                assert!(done.removed.is_empty() && done.replaced.is_empty());
                return None;
            }
            Fate::EffectPanics => resume_unwind(Box::new("a side effect")),
            _ => {}
        }
        let announced = drained.removed().count();
        let (before, locked) = (self.mm.vmas(self.mm.range()), drained.write_set());
        let done = drained.publish();
        let after = self.mm.vmas(self.mm.range());
        let changed = before.iter().filter(|vma| !after.contains(vma));
        let changed: Vec<_> = changed.map(|vma| vma.range).collect();
        assert_eq!(locked, changed, "lock set = change set");
        assert_eq!(announced, done.removed.len());
        let size = |vma: &Vma<Counted>| vma.range().len().unwrap();
        let gone: u64 = done.removed.iter().map(size).sum();
        let tags = |map: &[Cell]| {
            let all = map.iter().flatten().map(|c| (c.0, c.1));
            all.collect::<std::collections::HashSet<_>>()
        };
        assert_eq!(gone, tags(&self.map).difference(&tags(&map)).count() as u64);
        let pieces = |vma: &VmaInfo| {
            let old = done.replaced.iter().map(Vma::range);
            old.filter(|old| vma.range.covers(*old)).count()
        };
        if self.merges && after.iter().any(|vma| pieces(vma) > 1) {
            self.merged += 1;
        }
        self.tag = tag;
        Some((map, ranges))
    }

    fn step(
        &self,
        section: &mut WriteSection<'_, Counted>,
        map: &[Cell],
        op: &Op,
        tag: u64,
    ) -> Result<(), WriteError> {
        let payload = || Counted {
            tag,
            merges: self.merges,
            _alive: self.alive.clone(),
        };
        match *op {
            Op::Map(range, offset) => section.map(self.at(range), RAM, offset, payload()),
            Op::MapAt(gap) => {
                let expected = expect_gap(map, self.base, gap).map(|range| self.at(range));
                let window = self.at(gap.window);
                let found = section.find_gap(Gap { window, ..gap });
                assert_eq!(found, expected, "{gap:?}");
                let none = || WriteError::NotMapped { range: window };
                section.map(found.ok_or_else(none)?, RAM, 0, payload())
            }
            Op::Unmap(range) => section.unmap(self.at(range)),
            Op::Protect(range, flags) => section.protect(self.at(range), flags),
            Op::Split(addr) => section.split(self.base + addr),
            Op::Relocate(range, to) => section.relocate(self.at(range), self.base + to),
        }
    }

    /// The map as its readers see it, with its claims about itself. Looks up every
    /// address.
    pub(super) fn check(&self) -> Shape {
        self.check_some(1)
    }

    /// As [`check`](Self::check), but looks up only every `step`-th address.
    pub(super) fn check_some(&self, step: usize) -> Shape {
        let map = self.mm.mmap_read_lock().unwrap();
        let mut seen = vec![None; self.map.len()];
        let mut after = Some(self.base);
        let mut ranges = RangeInclusiveMap::new();
        for vma in map.iter() {
            let here = vma.range();
            assert!(
                after.is_some_and(|after| here.start() >= after),
                "sorted, disjoint"
            );
            after = here.end();
            let at = AddrRange::new(here.start() - self.base, here.len().unwrap()).unwrap();
            let value = (
                vma.payload().tag,
                vma.offset().wrapping_sub(at.start()),
                vma.flags(),
            );
            ranges.insert(at.start()..=at.last(), value);
            for (i, cell) in cells(at).enumerate() {
                seen[cell] = Some((value.0, vma.offset() + i as u64, value.2));
            }
        }
        assert_eq!(seen, self.map);
        assert_eq!(ranges, self.ranges);
        let count = map.iter().count();
        assert_eq!(self.mm.vmas(self.mm.range()).len(), count);
        assert_eq!(Arc::strong_count(&self.alive), 1 + count, "nothing leaked");
        for (i, cell) in self.map.iter().enumerate().step_by(step) {
            let addr = self.base + i as u64;
            let found = self.mm.lock_vma_under_rcu(addr);
            assert_eq!(found.map(|vma| vma.payload().tag), cell.map(|cell| cell.0));
            let next = map.find_vma(addr).map(|vma| vma.range().last());
            assert!(next.is_none_or(|last| last >= addr));
            assert_eq!(next.is_some(), self.map[i..].iter().any(Option::is_some));
        }
        // SAFETY: the version in force, under the map lock.
        let shape = unsafe { audit(self.mm.core.root()) };
        assert_eq!(shape.slots, count);
        shape
    }

    pub(super) fn end(self) {
        drop(self.mm);
        assert_eq!(Arc::strong_count(&self.alive), 1, "nothing leaked");
    }
}

/// Does in `ranges` what `op` does, which is not refused.
fn note(ranges: &mut Ranges, op: &Op, tag: u64) {
    let within = |ranges: &Ranges, all: AddrRange| {
        let hit = ranges.overlapping(all.start()..=all.last());
        hit.map(|(range, value)| {
            let (start, last) = (*range.start(), *range.end());
            (start.max(all.start())..=last.min(all.last()), *value)
        })
        .collect::<Vec<_>>()
    };
    match *op {
        Op::Map(range, offset) => {
            assert!(!ranges.overlaps(&(range.start()..=range.last())));
            let value = (tag, offset.wrapping_sub(range.start()), RAM);
            ranges.insert(range.start()..=range.last(), value);
        }
        Op::MapAt(_) => unreachable!("found before"),
        Op::Unmap(range) => ranges.remove(range.start()..=range.last()),
        Op::Protect(range, flags) => {
            for (part, value) in within(ranges, range) {
                ranges.insert(part, (value.0, value.1, flags));
            }
        }
        Op::Split(_) => {}
        Op::Relocate(range, to) => {
            let parts = within(ranges, range);
            ranges.remove(range.start()..=range.last());
            let by = to.wrapping_sub(range.start());
            for (part, value) in parts {
                let part = part.start().wrapping_add(by)..=part.end().wrapping_add(by);
                ranges.insert(part, (value.0, value.1.wrapping_sub(by), value.2));
            }
        }
    }
}
