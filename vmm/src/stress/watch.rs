//! Looking at what was looked up: the oracles of a reader.

use std::sync::PoisonError;
use std::time::Duration;

use super::chunk;
use super::oracle::Oracle;
use super::shadow::Mark;
use super::world::{Ended, World};
use crate::memory::{Backing, PAGE};
use crate::mm::{AddrRange, LookupPath, VmFlags, Vma};

/// What is a sleep for sure.
const SLEPT: Duration = Duration::from_millis(1);
/// What is a short while: a storm of hours comes to anything.
const OF_LATE: Duration = Duration::from_secs(5);

/// A VMA as it was when its hold began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) addr: u64,
    range: AddrRange,
    flags: VmFlags,
    generation: u64,
}

impl World {
    /// At the beginning of a hold.
    pub(super) fn begins(&self, addr: u64, vma: &Vma<Backing>) -> Result<Seen, Ended> {
        let seen = Seen {
            addr,
            range: vma.range(),
            flags: vma.flags(),
            generation: vma.generation(),
        };
        if !seen.range.contains(addr) {
            let what = format!("the lookup of {addr:#x} holds {}", seen.range);
            return Err(self.violate(Oracle::Bounds, what, &[page(addr), seen.range]));
        }
        self.holds(seen, vma, "beginning")?;
        Ok(seen)
    }

    /// At its end.
    pub(super) fn ends(&self, seen: Seen, vma: &Vma<Backing>) -> Result<(), Ended> {
        let now = (vma.range(), vma.flags(), vma.generation());
        if now != (seen.range, seen.flags, seen.generation) {
            let what = format!("{now:?} at the end of a hold, {seen:?} at its beginning");
            return Err(self.violate(Oracle::Bounds, what, &[seen.range]));
        }
        self.holds(seen, vma, "end")
    }

    /// At either end.
    #[inline]
    fn holds(&self, seen: Seen, vma: &Vma<Backing>, when: &str) -> Result<(), Ended> {
        let Seen {
            addr,
            range,
            generation,
            ..
        } = seen;
        let Some(cell) = self.layout.cell(addr) else {
            let what = format!("{addr:#x}, which is never mapped, is held as {range}");
            return Err(self.violate(Oracle::Hit, what, &[range]));
        };
        let begun = self.shadow.begun(cell);
        if begun != Mark::new(generation, true) {
            let oracle = match begun.is_mapped() {
                true => Oracle::Age,
                false => Oracle::Hit,
            };
            let (number, word) = (begun.number(), if begun.is_mapped() { "" } else { "un" });
            let what = format!(
                "{addr:#x} is held as section {generation} made it at the {when} of the hold, though \
                 section {number} has it {word}mapped"
            );
            return Err(self.violate(oracle, what, &[range]));
        }
        if self.layout.has_memory()
            && let Backing::Ram(memory) = vma.payload()
        {
            let name = chunk::name_at(memory, vma.offset_of(addr).unwrap_or(0));
            if Some(name) != self.layout.page_name(addr) {
                let word = if name == chunk::POISON {
                    "poison"
                } else {
                    "another page's"
                };
                let what = format!("the memory of {addr:#x} is {word} at the {when} of a hold");
                return Err(self.violate(Oracle::Canary, what, &[range]));
            }
        }
        Ok(())
    }

    /// The map in force has what is held.
    pub(super) fn is_in_force(&self, seen: Seen) -> Result<(), Ended> {
        let there = self.mm().vmas(page(seen.addr));
        let same = there.iter().any(|info| {
            (info.range, info.generation, info.flags) == (seen.range, seen.generation, seen.flags)
        });
        if same {
            return Ok(());
        }
        let what = format!("{seen:?} is held, and in force is {there:?}");
        Err(self.violate(Oracle::Age, what, &[seen.range]))
    }

    /// A lookup, begun when `before` was done at `addr`, has found nothing.
    pub(super) fn missed(&self, addr: u64, before: Option<Mark>) -> Result<(), Ended> {
        let (Some(cell), Some(before)) = (self.layout.cell(addr), before) else {
            return Ok(());
        };
        let stays = self
            .layout
            .region(addr)
            .is_some_and(|r| self.layout.stays(r));
        let at_home = addr < self.layout.away(0).start();
        let begun = self.shadow.begun(cell);
        if (stays && at_home) || (before == begun && before.is_mapped()) {
            let what = format!(
                "{addr:#x} was not found, though section {} has it mapped since before the lookup",
                before.number()
            );
            return Err(self.violate(Oracle::Miss, what, &[page(addr)]));
        }
        Ok(())
    }

    /// What a lookup that slept may have come to hold.
    pub(super) fn slept(&self, path: &LookupPath, seen: Seen) -> Result<(), Ended> {
        let can = self.config.strategy.capabilities();
        let Some(waited) = path.waited else {
            return Ok(());
        };
        // The mark is there before that section ends: every later one that changes what
        // is there waits for it.
        if can.is_bounded
            && !can.waits_for_strangers
            && seen.generation > waited.section
            && self.history.replaced(seen.generation, seen.addr)
        {
            let what = format!(
                "{:#x} is held as section {} made it, by a lookup that slept for section {}",
                seen.addr, seen.generation, waited.section
            );
            return Err(self.violate(Oracle::Bounded, what, &[seen.range]));
        }
        Ok(())
    }

    /// A lookup with `held` held has come back by `path`.
    pub(super) fn slept_inside(&self, path: &LookupPath, held: Seen) -> Result<(), Ended> {
        let can = self.config.strategy.capabilities();
        let Some(waited) = path.waited.filter(|_| can.nests) else {
            return Ok(());
        };
        // A section, or a round of its drain, that ends while the lookup makes up its mind
        // is slept for in name only; and this thread may be kept from running just then.
        // Not three times in a short while.
        if waited.time >= SLEPT
            && self.history.changes(waited.section, held.addr)
            && self.is_third_sleep_inside()
        {
            let what = format!(
                "with {:#x} held, a lookup slept for section {}, which wants just that",
                held.addr, waited.section
            );
            return Err(self.violate(Oracle::Nested, what, &[held.range]));
        }
        Ok(())
    }

    /// Notes a sleep for a section that wants what its thread holds; whether it is the
    /// third of late.
    fn is_third_sleep_inside(&self) -> bool {
        let mut last = self
            .slept_inside
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        last.retain(|since| !self.clock.is_past(*since, OF_LATE));
        last.push_back(self.clock.now());
        last.len() >= 3
    }

    /// A bare walk over `range`, begun when `before` was done at each of its pages.
    pub(super) fn walked(&self, range: AddrRange, before: &[Option<Mark>]) -> Result<(), Ended> {
        let found = self.mm().vmas(range);
        let ordered = found
            .windows(2)
            .all(|two| two[0].range.last() < two[1].range.start());
        let bad = |addr: u64, what: &str| {
            let what = format!("a bare walk over {range} has {what} at {addr:#x}: {found:?}");
            Err(self.violate(Oracle::Bare, what, &[range]))
        };
        if !ordered {
            return bad(range.start(), "VMAs that overlap");
        }
        let pages = (range.start()..=range.last()).step_by(PAGE as usize);
        for (addr, before) in pages.zip(before) {
            let Some((cell, before)) = self.layout.cell(addr).zip(*before) else {
                continue;
            };
            let begun = self.shadow.begun(cell);
            let vma = found.iter().find(|vma| vma.range.contains(addr));
            match vma {
                Some(vma) if !(before.number()..=begun.number()).contains(&vma.generation) => {
                    return bad(addr, "a VMA of another time");
                }
                Some(_) if before == begun && !before.is_mapped() => {
                    return bad(addr, "a VMA where there is none");
                }
                None if before == begun && before.is_mapped() => {
                    return bad(addr, "nothing where there is a VMA");
                }
                _ => {}
            }
        }
        Ok(())
    }
}

pub(super) fn page(addr: u64) -> AddrRange {
    let start = addr & !(PAGE - 1);
    AddrRange::new(start, PAGE).expect("not the last page there is")
}

#[cfg(test)]
mod tests {
    use super::super::clock::TICK;
    use super::super::mix::Op;
    use super::super::preset::Preset;
    use super::super::reader::Reader;
    use super::super::writer::{Intent, Writer};
    use super::super::{StressConfig, history};
    use super::*;
    use crate::mm::Waited;

    fn world() -> std::sync::Arc<World> {
        let mut config = StressConfig::new(Preset::Nested, None);
        config.delays = false;
        World::new(config).unwrap()
    }

    /// Section 7 wants what is held, and a lookup has slept for it.
    fn sleep_inside(world: &World) -> Result<(), Ended> {
        let held = world.layout.home(0);
        let seen = Seen {
            addr: held.start(),
            range: held,
            flags: VmFlags::READ,
            generation: 5,
        };
        let waited = Waited {
            section: 7,
            time: 2 * SLEPT,
            from: 0,
            until: 0,
        };
        let path = LookupPath {
            waited: Some(waited),
            ..LookupPath::default()
        };
        world.slept_inside(&path, seen)
    }

    #[test]
    fn three_sleeps_inside_count_if_they_are_of_late() {
        let world = world();
        world.history.open(history::Entry {
            number: 7,
            writer: 0,
            op: Op::Border,
            changes: vec![world.layout.home(0)],
            concerned: vec![world.layout.home(0)],
            outcome: history::Outcome::Open,
        });
        let some_time =
            || (0..=OF_LATE.as_millis() / TICK.as_millis()).for_each(|_| world.clock.tick());
        for _ in 0..10 {
            sleep_inside(&world).unwrap();
            some_time();
        }
        sleep_inside(&world).unwrap();
        sleep_inside(&world).unwrap();
        assert!(sleep_inside(&world).is_err());
        assert_eq!(world.violation().unwrap().oracle, Oracle::Nested);
    }

    #[test]
    fn whoever_holds_any_of_what_is_gone_is_found() {
        let world = world();
        let gone = vec![world.layout.home(2), world.layout.home(3)];
        let memory = world.chunk(gone[1]).unwrap();
        let backing = Backing::Ram(memory.memory());
        world.mm().map(gone[1], VmFlags::READ, 0, backing).unwrap();
        let intent = Intent {
            gone: gone.clone(),
            ..Intent::default()
        };
        let writer = Writer::new(world.clone(), 0);
        assert!(writer.check_gone(&intent, &gone).is_ok());
        let held = world.mm().lock_vma_under_rcu(gone[1].start()).unwrap();
        assert!(writer.check_gone(&intent, &gone).is_err());
        assert_eq!(world.violation().unwrap().oracle, Oracle::Leftover);
        drop(held);
    }

    #[test]
    fn nothing_to_come_where_something_stays_is_a_miss() {
        let world = world();
        let mut reader = Reader::new(world.clone(), 0, None);
        let seen = (0..1000).find_map(|_| reader.next(&world).err());
        assert!(seen.is_some());
        assert_eq!(world.violation().unwrap().oracle, Oracle::Miss);
    }
}
