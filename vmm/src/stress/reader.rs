//! A reader without KVM: a stream of accesses by a seed, through the lookups and the
//! access path that exits go through.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use super::aim::Aim;
use super::apart;
use super::figures::Spread;
use super::linger;
use super::oracle::Oracle;
use super::steps::Step;
use super::watch::{Seen, page};
use super::world::{Ended, World};
use crate::memory::{Backing, PAGE, Served};
use crate::mm::{AddrRange, LookupError, LookupPath, VmaPin, VmaReadGuard, WaitOptions};

/// What a reader has met.
#[derive(Clone, Debug, Default)]
pub(super) struct ReaderFigures {
    pub(super) lookups: u64,
    pub(super) none: u64,
    /// Sleeps of lookups.
    pub(super) waits: Spread,
    /// Times that a lookup began again, of those that did.
    pub(super) retries: Spread,
    pub(super) nested: u64,
    pub(super) timed_out: u64,
    pub(super) called: u64,
    pub(super) aborted: u64,
    pub(super) pins: u64,
    pub(super) sets: u64,
    pub(super) accesses: u64,
    pub(super) walks: u64,
    pub(super) borders: u64,
    pub(super) long_holds: u64,
}

impl ReaderFigures {
    pub(super) fn add(&mut self, other: &Self) {
        self.lookups += other.lookups;
        self.none += other.none;
        self.waits.add(&other.waits);
        self.retries.add(&other.retries);
        self.nested += other.nested;
        self.timed_out += other.timed_out;
        self.called += other.called;
        self.aborted += other.aborted;
        self.pins += other.pins;
        self.sets += other.sets;
        self.accesses += other.accesses;
        self.walks += other.walks;
        self.borders += other.borders;
        self.long_holds += other.long_holds;
    }

    pub(super) fn path(&mut self, path: &LookupPath) {
        self.lookups += 1;
        if let Some(waited) = path.waited {
            self.waits.record_time(waited.time);
        }
        if path.retries > 0 {
            self.retries.record(path.retries.into());
        }
        self.nested += u64::from(path.nested);
    }
}

/// A pin on its way to another thread.
pub(super) type Sent = (VmaPin<Backing>, Seen);

pub(super) struct Reader {
    pub(super) world: Arc<World>,
    pub(super) random: fastrand::Rng,
    pub(super) figures: ReaderFigures,
    pub(super) io: Option<SyncSender<Sent>>,
    epoch: u64,
    /// When to hold for long the next time.
    long_hold: Instant,
}

/// Steps between two looks at the time, and at whether it is over.
const LOT: u32 = 256;
/// From one hold that outlasts a drain's first round to the next.
const BETWEEN_LONG_HOLDS: Duration = Duration::from_millis(700);

impl Reader {
    pub(super) fn new(world: Arc<World>, id: u64, io: Option<SyncSender<Sent>>) -> Self {
        let mut random = fastrand::Rng::with_seed(world.config.seed ^ (id << 32 | 0x5244));
        if world.config.delays {
            linger::start(random.u64(..));
            linger::aim(world.config.aims());
            if Aim::is_any_fill(world.config.aims()) {
                apart::stay_on(1);
            }
        }
        Self {
            world,
            random,
            figures: ReaderFigures::default(),
            io,
            epoch: 0,
            long_hold: Instant::now() + BETWEEN_LONG_HOLDS,
        }
    }

    /// Steps until the storm is over. `heart` is bumped now and then.
    pub(super) fn run(&mut self, heart: &AtomicU64) -> Result<(), Ended> {
        while !self.world.is_over() {
            if self.world.does_wrong("idle-reader") {
                std::thread::sleep(BETWEEN_LONG_HOLDS);
                heart.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let before = self.figures.lookups;
            self.lot(LOT)?;
            let lookups = self.figures.lookups - before;
            self.world.lookups.fetch_add(lookups, Ordering::Relaxed);
            heart.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    pub(super) fn lot(&mut self, steps: u32) -> Result<(), Ended> {
        let world = self.world.clone();
        let shares = world.config.steps();
        let can = world.config.strategy.capabilities();
        for _ in 0..steps {
            if let Some(call) = world.calls.since(&mut self.epoch) {
                let answer = self.called(call.addr, &call.flag);
                call.leave();
                answer?;
            }
            match shares.choose(&mut self.random) {
                Step::Nested if can.nests => self.nested(&world)?,
                Step::Border if can.nests => self.border(&world)?,
                Step::Deadline if can.is_killable => {
                    let time = Duration::from_nanos(self.random.u64(0..100_000));
                    self.plain(&world, Some(Instant::now() + time))?;
                }
                Step::Attempt => self.attempt(&world)?,
                Step::Access => self.access(&world)?,
                Step::Pin => self.pin(&world)?,
                Step::Set if can.is_killable => self.set(&world)?,
                Step::Next => self.next(&world)?,
                Step::Bare => self.bare(&world)?,
                Step::Nowhere => self.nowhere(&world)?,
                _ => self.plain(&world, None)?,
            }
        }
        if world.config.delays && Instant::now() >= self.long_hold {
            self.long_hold = Instant::now() + BETWEEN_LONG_HOLDS;
            self.hold_for_long(&world)?;
        }
        Ok(())
    }

    /// An address of a region, at home or where it may be away.
    #[inline]
    pub(super) fn address(&mut self, world: &World) -> u64 {
        let layout = &world.layout;
        let draw = self.random.u64(..);
        let region = (((draw & 0xffff_ffff) * u64::from(layout.regions)) >> 32) as u32;
        let offset = (draw >> 40) % layout.len();
        let away = (draw >> 32) & 7 == 0 && !layout.stays(region);
        let place = match away {
            true => layout.away(region),
            false => layout.home(region),
        };
        place.start() + offset
    }

    pub(super) fn lookup<'w>(
        &mut self,
        world: &'w World,
        addr: u64,
        options: WaitOptions<'_>,
    ) -> Result<Option<(VmaReadGuard<'w, Backing>, Seen, LookupPath)>, Ended> {
        let before = world.layout.cell(addr).map(|cell| world.shadow.done(cell));
        let mut path = LookupPath::default();
        let found = world
            .mm()
            .lock_vma_under_rcu_wait_with(addr, options, &mut path);
        self.figures.path(&path);
        match found {
            Ok(Some(_)) if world.does_wrong("false-none") && addr.is_multiple_of(4099) => {
                world.missed(addr, before)?;
            }
            Ok(Some(guard)) => {
                let seen = world.begins(addr, &guard)?;
                world.slept(&path, seen)?;
                return Ok(Some((guard, seen, path)));
            }
            Ok(None) => {
                self.figures.none += 1;
                world.missed(addr, before)?;
            }
            Err(LookupError::TimedOut) if options.deadline.is_some() => {
                self.figures.timed_out += 1;
            }
            Err(LookupError::Killed) if options.kill.is_some() => self.figures.called += 1,
            Err(error) => {
                let what = format!("looking up {addr:#x}: {error}");
                return Err(world.violate(Oracle::Error, what, &[page(addr)]));
            }
        }
        Ok(None)
    }

    /// Keeps what is held for a while, mostly for none.
    fn keep(&mut self) {
        if self.random.u8(..) < self.world.config.steps().holds {
            linger::spin(Duration::from_nanos(self.random.u64(0..2_000)));
        }
    }

    /// Lets a writer come between two lookups, at times.
    pub(super) fn dwell(&mut self) {
        let steps = self.world.config.steps();
        if self.world.config.delays && self.random.u8(..) < steps.dwells {
            linger::pass(Duration::from_nanos(self.random.u64(0..1000 * steps.dwell)));
        }
    }

    /// Ends a hold.
    pub(super) fn release(
        &mut self,
        world: &World,
        guard: VmaReadGuard<'_, Backing>,
        seen: Seen,
    ) -> Result<(), Ended> {
        if self.random.u8(..) < 4 {
            world.is_in_force(seen)?;
        }
        world.ends(seen, &guard)?;
        if world.does_wrong("early-release") || world.does_wrong("late-access") {
            return Self::use_after(world, guard, seen);
        }
        Ok(())
    }

    /// What a reader does that lets go too early, for tests of the storm.
    #[cold]
    fn use_after(world: &World, guard: VmaReadGuard<'_, Backing>, seen: Seen) -> Result<(), Ended> {
        let Backing::Ram(memory) = guard.payload() else {
            return Ok(());
        };
        let memory = memory.as_volatile().ptr_guard().as_ptr();
        drop(guard);
        std::thread::yield_now();
        if world.does_wrong("late-access") {
            // SAFETY: there is none, which is the point: it is for the oracle that
            // whoever does this dies. Never in a build that can be released.
            unsafe { memory.read_volatile() };
            return Ok(());
        }
        world.is_in_force(seen)
    }

    fn plain(&mut self, world: &World, deadline: Option<Instant>) -> Result<(), Ended> {
        let addr = self.address(world);
        let options = WaitOptions {
            deadline,
            kill: None,
        };
        if let Some((guard, seen, _)) = self.lookup(world, addr, options)? {
            self.keep();
            self.release(world, guard, seen)?;
        }
        Ok(())
    }

    fn called(&mut self, addr: u64, flag: &crate::mm::KillFlag) -> Result<(), Ended> {
        let world = self.world.clone();
        let options = WaitOptions {
            deadline: None,
            kill: Some(flag),
        };
        if let Some((guard, seen, _)) = self.lookup(&world, addr, options)? {
            self.release(&world, guard, seen)?;
        }
        Ok(())
    }

    fn attempt(&mut self, world: &World) -> Result<(), Ended> {
        let addr = self.address(world);
        self.figures.lookups += 1;
        let Some(guard) = world.mm().lock_vma_under_rcu(addr) else {
            self.figures.aborted += 1;
            return Ok(());
        };
        let seen = world.begins(addr, &guard)?;
        self.keep();
        self.release(world, guard, seen)
    }

    /// As an exit does: sixteen bytes, of two pages at times.
    fn access(&mut self, world: &World) -> Result<(), Ended> {
        let mut addr = self.address(world) & !(PAGE - 1);
        let across = self.random.bool() && world.layout.cell(addr - 8).is_some();
        addr -= if across { 8 } else { 0 };
        let at = addr + if across { 8 } else { 0 };
        let mut data = [0; 16];
        let before = world.layout.cell(at).map(|cell| world.shadow.done(cell));
        let read = world.space.read(addr, &mut data, None);
        let access = read.map_err(|error| {
            let what = format!("reading at {addr:#x}: {error}");
            world.violate(Oracle::Error, what, &[page(at)])
        })?;
        self.figures.accesses += 1;
        self.figures.lookups += u64::from(access.parts.saturating_sub(1));
        self.figures.path(&access.path);
        let word = if across { &data[8..] } else { &data[..8] };
        let word = u64::from_ne_bytes(word.try_into().expect("eight bytes"));
        let is_gone = access.served != Served::Memory;
        if word == u64::MAX && is_gone {
            return world.missed(at, before);
        }
        if world.layout.has_memory() && Some(word) != world.layout.page_name(at) {
            let what = format!("{word:#x} was read at {at:#x}");
            return Err(world.violate(Oracle::Canary, what, &[page(at)]));
        }
        Ok(())
    }

    fn nested(&mut self, world: &World) -> Result<(), Ended> {
        let addr = self.address(world);
        let Some(region) = world.layout.region(addr) else {
            return Ok(());
        };
        let Some(partner) = world.layout.partner(region) else {
            return self.plain(world, None);
        };
        let Some((outer, seen, _)) = self.lookup(world, addr, WaitOptions::default())? else {
            return Ok(());
        };
        let other = world.layout.home(partner).start() + addr % world.layout.len();
        self.dwell();
        let inner = self.lookup(world, other, WaitOptions::default())?;
        if let Some((guard, inner_seen, path)) = inner {
            world.slept_inside(&path, seen)?;
            self.dwell();
            world.ends(seen, &outer)?;
            // The outer hold first, at times.
            match self.random.bool() {
                true => {
                    self.release(world, guard, inner_seen)?;
                    self.release(world, outer, seen)?;
                }
                false => {
                    self.release(world, outer, seen)?;
                    if self.random.u8(..) < 32 {
                        linger::spin(Duration::from_nanos(self.random.u64(0..20_000)));
                    }
                    self.release(world, guard, inner_seen)?;
                }
            }
            return Ok(());
        }
        self.release(world, outer, seen)
    }

    /// One that stays, then what begins at its end, which is held as well.
    fn border(&mut self, world: &World) -> Result<(), Ended> {
        let addr = self.address(world);
        let stays = world.layout.region(addr).filter(|r| world.layout.stays(*r));
        let Some(region) = stays else {
            return Ok(());
        };
        let Some((left, seen, _)) = self.lookup(world, addr, WaitOptions::default())? else {
            return Ok(());
        };
        let pair = world.layout.pair(region);
        let Some(end) = left.range().end().filter(|end| pair.contains(*end)) else {
            return self.release(world, left, seen);
        };
        self.figures.borders += 1;
        self.dwell();
        let right = self.lookup(world, end, WaitOptions::default())?;
        let Some((right, right_seen, path)) = right else {
            let what = format!("nothing begins where {} ends, which is held", left.range());
            return Err(world.violate(Oracle::Border, what, &[pair]));
        };
        world.slept_inside(&path, seen)?;
        if right.range().start() != end {
            let (left, right) = (left.range(), right.range());
            let what = format!("{left} and {right} are held at once");
            return Err(world.violate(Oracle::Border, what, &[pair]));
        }
        self.dwell();
        self.release(world, right, right_seen)?;
        self.release(world, left, seen)
    }

    pub(super) fn next(&mut self, world: &World) -> Result<(), Ended> {
        let addr = self.address(world);
        self.figures.lookups += 1;
        let found = world.mm().lock_next_vma(addr);
        let found = found.map_err(|error| {
            let what = format!("looking for what comes at {addr:#x}: {error}");
            world.violate(Oracle::Error, what, &[page(addr)])
        })?;
        let stays = world
            .layout
            .region(addr)
            .is_some_and(|r| world.layout.stays(r));
        let Some(guard) = found else {
            if stays {
                let what = format!("nothing is said to come at {addr:#x}, which stays mapped");
                return Err(world.violate(Oracle::Miss, what, &[page(addr)]));
            }
            return Ok(());
        };
        let at = guard.range().start().max(addr);
        let seen = world.begins(at, &guard)?;
        if stays && at != addr {
            let what = format!("what comes at {addr:#x} is said to be {}", guard.range());
            return Err(world.violate(Oracle::Miss, what, &[page(addr)]));
        }
        self.release(world, guard, seen)
    }

    fn bare(&mut self, world: &World) -> Result<(), Ended> {
        let start = self.address(world) & !(PAGE - 1);
        let range = AddrRange::new(start, 16 * PAGE).expect("not empty");
        let pages = (range.start()..=range.last()).step_by(PAGE as usize);
        let done = |addr| Some(world.shadow.done(world.layout.cell(addr)?));
        let before: Vec<_> = pages.map(done).collect();
        self.figures.walks += 1;
        world.walked(range, &before)
    }

    fn nowhere(&mut self, world: &World) -> Result<(), Ended> {
        let addr = world.layout.nowhere(self.random.u64(..));
        match self.lookup(world, addr, WaitOptions::default())? {
            None => Ok(()),
            Some((guard, seen, _)) => self.release(world, guard, seen),
        }
    }

    /// A hold that outlasts a round or two.
    fn hold_for_long(&mut self, world: &World) -> Result<(), Ended> {
        let addr = self.address(world);
        if let Some((guard, seen, _)) = self.lookup(world, addr, WaitOptions::default())? {
            self.figures.long_holds += 1;
            std::thread::sleep(Duration::from_millis(self.random.u64(12..30)));
            self.release(world, guard, seen)?;
        }
        Ok(())
    }
}
