//! A reader's holds that may leave the thread: pins, and sets of them.

use std::time::Duration;

use super::linger;
use super::oracle::Oracle;
use super::reader::Reader;
use super::watch::page;
use super::world::{Ended, World};
use crate::mm::{LookupPath, WaitOptions};

/// The most lookups through one set: more than it has room for by itself.
const LOOKUPS: usize = 6;

impl Reader {
    /// A hold goes to another thread; this one looks up what the same writer may want.
    pub(super) fn pin(&mut self, world: &World) -> Result<(), Ended> {
        let addr = self.address(world);
        // Beside another hold, at times, so that it is not in the first place there is.
        let beside = match self.random.bool() && world.config.strategy.capabilities().nests {
            true => {
                let beside = self.address(world);
                self.lookup(world, beside, WaitOptions::default())?
            }
            false => None,
        };
        let Some((guard, seen, _)) = self.lookup(world, addr, WaitOptions::default())? else {
            return Ok(());
        };
        if let Some((guard, seen, _)) = beside {
            self.release(world, guard, seen)?;
        }
        self.figures.pins += 1;
        self.dwell();
        let pin = guard.pin();
        world.ends(seen, &pin)?;
        let Some(io) = self.io.clone() else {
            return Ok(());
        };
        let partner = world
            .layout
            .region(addr)
            .and_then(|r| world.layout.partner(r));
        let other = partner.map(|r| world.layout.home(r).start() + addr % world.layout.len());
        if world.config.strategy.capabilities().is_killable
            && self.random.bool()
            && let Some(other) = other
        {
            let before = world.layout.cell(other).map(|cell| world.shadow.done(cell));
            let mut path = LookupPath::default();
            let inner = pin.lock_vma_under_rcu_wait_with(other, WaitOptions::default(), &mut path);
            self.figures.path(&path);
            let inner = inner.map_err(|error| {
                let what = format!("looking up {other:#x} by a pin: {error}");
                world.violate(Oracle::Error, what, &[page(other)])
            })?;
            world.slept_inside(&path, seen)?;
            match inner {
                Some(guard) => {
                    let inner_seen = world.begins(other, &guard)?;
                    world.slept(&path, inner_seen)?;
                    self.release(world, guard, inner_seen)?;
                }
                None => {
                    self.figures.none += 1;
                    world.missed(other, before)?;
                }
            }
        }
        let passing = world.config.steps().passing;
        if self.random.u8(..) < passing.twice {
            let _ = io.try_send((pin.clone(), seen));
        }
        // Full: it is dropped here.
        let _ = io.try_send((pin, seen));
        linger::pass(Duration::from_micros(self.random.u64(0..passing.rests)));
        let Some(other) = other else { return Ok(()) };
        for _ in 0..passing.lookups {
            if let Some((guard, seen, _)) = self.lookup(world, other, WaitOptions::default())? {
                self.dwell();
                self.release(world, guard, seen)?;
            }
        }
        Ok(())
    }

    /// A set of pins in one pair of regions: more of them, at times, than it has room for
    /// by itself. What it holds lets it in to whatever else the same writer wants.
    pub(super) fn set(&mut self, world: &World) -> Result<(), Ended> {
        let addr = self.address(world);
        let Some(region) = world.layout.region(addr) else {
            return Ok(());
        };
        let pair = world.layout.pair(region);
        let set = world.mm().pin_set();
        self.figures.sets += 1;
        let mut held = Vec::with_capacity(LOOKUPS);
        for _ in 0..self.random.usize(1..=LOOKUPS) {
            let addr = self.random.u64(pair.start()..=pair.last());
            let before = world.layout.cell(addr).map(|cell| world.shadow.done(cell));
            let mut path = LookupPath::default();
            let found = set.lock_vma_under_rcu_wait_with(addr, WaitOptions::default(), &mut path);
            self.figures.path(&path);
            let found = found.map_err(|error| {
                let what = format!("looking up {addr:#x} by a set: {error}");
                world.violate(Oracle::Error, what, &[page(addr)])
            })?;
            if let Some((_, first)) = held.first() {
                world.slept_inside(&path, *first)?;
            }
            let Some(vma) = found else {
                self.figures.none += 1;
                world.missed(addr, before)?;
                continue;
            };
            let seen = world.begins(addr, vma)?;
            world.slept(&path, seen)?;
            held.push((vma, seen));
            self.dwell();
        }
        self.dwell();
        for (vma, seen) in held {
            world.ends(seen, vma)?;
            if self.random.u8(..) < 4 {
                world.is_in_force(seen)?;
            }
        }
        Ok(())
    }
}
