//! A writer: one section after the other, on regions of its own, by a seed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::aim::Aim;
use super::apart;
use super::chunk::Chunk;
use super::figures::Spread;
use super::history::{Entry, Outcome};
use super::linger;
use super::mix::Op;
use super::oracle::Oracle;
use super::preset::Preset;
use super::shadow::Mark;
use super::world::{Ended, World};
use crate::memory::{Backing, PAGE};
use crate::mm::{
    AddrRange, DrainReport, Drained, LockOptions, OnSlow, Published, Vma, WriteError, WriteSection,
};

/// How long a drain may last. No reader holds for a hundredth of that.
const LONGEST_DRAIN: Duration = Duration::from_secs(10);
/// How long a hasty section waits for readers.
const HASTE: Duration = Duration::from_micros(50);

/// What a writer has done.
#[derive(Clone, Debug, Default)]
pub(super) struct WriterFigures {
    pub(super) ops: [u64; Op::ALL.len()],
    /// Of whole operations.
    pub(super) times: Spread,
    /// Of drains that found a reader.
    pub(super) drains: Spread,
    pub(super) drained_readers: u64,
    /// Sections whose drain needed more than one round.
    pub(super) rounds: u64,
    /// Sections given up when they were drained.
    pub(super) given_up: u64,
    /// Sections given up because readers were not gone in time.
    pub(super) late: u64,
    /// Neighbours that were merged.
    pub(super) merged: u64,
    /// Readers called back.
    pub(super) called: u64,
    /// The sequence of operations.
    pub(super) hash: u64,
}

impl WriterFigures {
    /// Notes a decision.
    pub(super) fn decide(&mut self, op: Op, words: [u64; 2]) {
        for word in [op as u64 + 1, words[0], words[1]] {
            let hash = (self.hash ^ word).wrapping_mul(0x0000_0100_0000_01b3);
            self.hash = hash.rotate_left(29);
        }
    }

    /// Notes a drain.
    pub(super) fn drained(&mut self, report: &DrainReport) {
        if !report.holders.is_empty() {
            self.drains.record_time(report.waited);
            self.drained_readers += report.holders.len() as u64;
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.ops.iter_mut().zip(other.ops) {
            *mine += theirs;
        }
        self.times.add(&other.times);
        self.drains.add(&other.drains);
        self.drained_readers += other.drained_readers;
        self.rounds += other.rounds;
        self.given_up += other.given_up;
        self.late += other.late;
        self.merged += other.merged;
        self.called += other.called;
        // In the order of the writers.
        self.hash = self.hash.rotate_left(7) ^ other.hash;
    }
}

/// What a section is to do, as far as the storm has to know.
#[derive(Debug, Default)]
pub(super) struct Intent {
    /// What it changes of what is mapped: nothing else, but perhaps not all of it.
    pub(super) changes: Vec<AddrRange>,
    /// What is not mapped any more.
    pub(super) gone: Vec<AddrRange>,
    /// What is mapped and was not.
    pub(super) comes: Vec<AddrRange>,
    /// Memory that nobody has afterwards.
    pub(super) buries: Vec<Chunk>,
    /// Keep it open and call readers back from here.
    pub(super) calls: Option<u64>,
}

pub(super) struct Writer {
    pub(super) world: Arc<World>,
    pub(super) id: u32,
    pub(super) random: fastrand::Rng,
    pub(super) figures: WriterFigures,
    cells: Vec<usize>,
}

/// A writer's plan, to be laid again if the section is given up.
pub(super) type PlanFn<'a> = dyn Fn(&mut WriteSection<'_, Backing>) -> Result<(), WriteError> + 'a;

impl Writer {
    pub(super) fn new(world: Arc<World>, id: u32) -> Self {
        let seed = world.config.seed ^ (u64::from(id) << 32 | 0x5749);
        let mut random = fastrand::Rng::with_seed(seed);
        if world.config.delays {
            linger::start(random.u64(..));
            linger::aim(world.config.aims());
            if Aim::is_any_fill(world.config.aims()) {
                apart::stay_on(0);
            }
            if matches!(world.config.preset, Preset::Pins | Preset::Boundary) {
                linger::scan_slowly();
            }
        }
        Self {
            world,
            id,
            random,
            figures: WriterFigures::default(),
            cells: Vec::new(),
        }
    }

    /// Notes a decision.
    pub(super) fn decide(&mut self, op: Op, words: [u64; 2]) {
        self.figures.decide(op, words);
    }

    /// Does one operation, by a section of its own; by a second one where the first
    /// is given up.
    pub(super) fn apply(&mut self, op: Op, intent: Intent, plan: &PlanFn<'_>) -> Result<(), Ended> {
        // Drawn before anything depends on the time.
        let mut give_up = self.random.u8(..) < 8;
        let mut hasty = self.random.u8(..) < 16;
        let call_after = Duration::from_nanos(self.random.u64(0..60_000));
        let world = self.world.clone();
        let mut concerned = [&intent.changes[..], &intent.gone, &intent.comes].concat();
        concerned.sort_by_key(|range| range.start());
        concerned.dedup();
        let since = Instant::now();
        let published = loop {
            let opened = world.mm().mmap_write_lock();
            let mut section =
                opened.map_err(|e| world.failed("opening a section", &e, &concerned))?;
            plan(&mut section).map_err(|e| world.failed("planning a section", &e, &concerned))?;
            let number = section.number();
            world.history.open(Entry {
                number,
                writer: self.id,
                op,
                changes: intent.changes.clone(),
                concerned: concerned.clone(),
                outcome: Outcome::Open,
            });
            if world.does_wrong("early-poison") {
                intent.buries.iter().for_each(Chunk::poison);
            }
            let begun = world.clock.now();
            let mut stuck = |report: &DrainReport| {
                if !world
                    .clock
                    .is_past(begun, world.patience(LONGEST_DRAIN / 2))
                {
                    return;
                }
                world.violate(
                    Oracle::Stuck,
                    format!("section {number}: {report}"),
                    &concerned,
                );
            };
            let options = LockOptions {
                deadline: hasty.then(|| Instant::now() + HASTE),
                on_slow: Some(OnSlow {
                    after: world.patience(LONGEST_DRAIN),
                    call: &mut stuck,
                }),
            };
            let drained = match section.lock_with(options) {
                Ok(drained) => drained,
                Err(WriteError::TimedOut { report }) => {
                    self.figures.drained(&report);
                    self.figures.late += 1;
                    hasty = false;
                    world.history.close(number, Outcome::Undone);
                    continue;
                }
                Err(error) => return Err(world.failed("locking a write set", &error, &concerned)),
            };
            self.figures.drained(drained.drain());
            if let Some(addr) = intent.calls {
                let patience = world.patience(Duration::from_secs(1)).as_secs();
                match world.calls.hold_open(addr, call_after, patience as u32) {
                    Ok(called) => self.figures.called += u64::from(called),
                    Err(came) => {
                        let what = format!(
                            "of {came} who waited for section {number} at {addr:#x}, one was called \
                             back and did not return"
                        );
                        return Err(world.violate(Oracle::Called, what, &concerned));
                    }
                }
            }
            if !world.config.work.is_zero() {
                linger::spin(world.config.work);
            }
            if give_up {
                drop(drained);
                self.figures.given_up += 1;
                give_up = false;
                world.history.close(number, Outcome::Undone);
                continue;
            }
            let published = self.publish(drained, &intent, number);
            world.history.close(number, Outcome::Published);
            break published;
        };
        self.figures.rounds += u64::from(published.rounds > 1);
        let apart = |vma: &&Vma<Backing>| {
            let mut changes = intent.changes.iter();
            !changes.any(|change| overlap(*change, vma.range()))
        };
        self.figures.merged += published.replaced.iter().filter(apart).count() as u64;
        self.check_gone(&intent, &concerned)?;
        drop(published);
        for chunk in intent.buries {
            match chunk.bury() {
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    let what = format!("unmapping memory: {error}");
                    return Err(world.violate(Oracle::Error, what, &concerned));
                }
                None => {
                    let what = "somebody still has a reference to removed memory".to_owned();
                    return Err(world.violate(Oracle::Shared, what, &concerned));
                }
            }
        }
        self.figures.times.record_time(since.elapsed());
        self.figures.ops[op as usize] += 1;
        world.ops.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Publishes, with the shadow kept up before and after.
    fn publish(
        &mut self,
        drained: Drained<'_, Backing>,
        intent: &Intent,
        number: u64,
    ) -> Published<Backing> {
        let Self { world, cells, .. } = self;
        cells.clear();
        let mut begin = |range: AddrRange, mapped: bool| {
            for addr in (range.start()..=range.last()).step_by(PAGE as usize) {
                if let Some(cell) = world.layout.cell(addr) {
                    world.shadow.begin(cell, Mark::new(number, mapped));
                    cells.push(cell);
                }
            }
        };
        drained.locked().for_each(|vma| begin(vma.range(), true));
        intent.gone.iter().for_each(|range| begin(*range, false));
        intent.comes.iter().for_each(|range| begin(*range, true));
        let published = drained.publish();
        cells.iter().for_each(|cell| world.shadow.finish(*cell));
        published
    }

    /// After a drain no record holds what was removed.
    pub(super) fn check_gone(&self, intent: &Intent, concerned: &[AddrRange]) -> Result<(), Ended> {
        use crate::mm::HoldKind::{Hold, Pin};
        let holders = |range: &AddrRange| self.world.mm().holders(*range);
        let mut left = intent.gone.iter().flat_map(holders);
        match left.find(|holder| matches!(holder.kind, Hold | Pin)) {
            None => Ok(()),
            Some(holder) => {
                let what = format!("\"{}\" still holds {:#x}", holder.thread, holder.addr);
                Err(self.world.violate(Oracle::Leftover, what, concerned))
            }
        }
    }
}

fn overlap(a: AddrRange, b: AddrRange) -> bool {
    a.start() <= b.last() && b.start() <= a.last()
}
