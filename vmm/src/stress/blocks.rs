//! A writer beside a running guest: blocks of its own that it plugs, unplugs, splits
//! and protects, and the devices that the guest is at, by a seed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gracefault_guest::abi;

use super::clock::Clock;
use super::history::{History, Outcome};
use super::linger;
use super::mix::{Mix, Op};
use super::oracle::{Oracle, Violation};
use super::writer::WriterFigures;
use super::{Preset, StressConfig};
use crate::hotplug::{BlockKind, Consent, HotplugError, HotplugRegion};
use crate::memory::{GuestSpace, PAGE};
use crate::mm::{AddrRange, HoldKind, VmFlags, WriteError};

/// How long the guest may take to give a block back, and readers to leave one.
const LONGEST: Duration = Duration::from_secs(20);
/// How long to leave the guest alone that has not acknowledged yet.
const REST: Duration = Duration::from_micros(200);
/// Sections given up when they are drained: one in this many.
const GIVEN_UP: u32 = 16;

/// What this writer's protections change: a flag that means nothing to anybody.
const TAG: VmFlags = VmFlags::from_bits(VmFlags::EMBEDDER.bits() << 1);

pub(super) struct Blocks<'a> {
    history: &'a History,
    id: u32,
    region: Arc<HotplugRegion>,
    space: Arc<GuestSpace>,
    clock: Arc<Clock>,
    preset: Preset,
    mix: Mix,
    random: fastrand::Rng,
    /// Its own, and what is plugged of them.
    mine: Vec<(u32, Option<BlockKind>)>,
    pub(super) figures: WriterFigures,
}

/// Why it ends early.
pub(super) enum Ended {
    Found(Violation),
    /// The guest has ended, and answers no more.
    Guest,
}

impl<'a> Blocks<'a> {
    pub(super) fn new(
        config: &StressConfig,
        region: Arc<HotplugRegion>,
        space: Arc<GuestSpace>,
        clock: Arc<Clock>,
        (id, history): (u32, &'a History),
    ) -> Self {
        let seed = config.seed ^ (u64::from(id) << 32 | 0x4b56);
        let mine = (0..region.blocks()).filter(|block| block % config.writers == id);
        Self {
            mine: mine.map(|block| (block, None)).collect(),
            history,
            id,
            region,
            space,
            clock,
            preset: config.preset,
            mix: config.mix,
            random: fastrand::Rng::with_seed(seed),
            figures: WriterFigures::default(),
        }
    }

    /// Operations until `stop`, or `ops` of them.
    pub(super) fn run(
        &mut self,
        ops: Option<u64>,
        stop: &AtomicBool,
        done: &AtomicU64,
    ) -> Result<(), Ended> {
        linger::start(self.random.u64(..));
        let mut left = ops.unwrap_or(u64::MAX);
        while left > 0 && !stop.load(Ordering::Relaxed) {
            let since = Instant::now();
            let Some(op) = self.one(stop)? else { continue };
            self.figures.times.record_time(since.elapsed());
            self.figures.ops[op as usize] += 1;
            done.fetch_add(1, Ordering::Relaxed);
            left -= 1;
        }
        Ok(())
    }

    /// One operation, if what was drawn can be done.
    fn one(&mut self, stop: &AtomicBool) -> Result<Option<Op>, Ended> {
        let op = self.mix.choose(&mut self.random);
        if self.mine.is_empty() && op != Op::Protect {
            return Ok(None);
        }
        let i = self.random.usize(0..self.mine.len().max(1));
        let (block, plugged) = self.mine.get(i).copied().unwrap_or_default();
        match (op, plugged) {
            (Op::Plug, None) => self.plug(i, block, stop)?,
            (Op::Unplug, Some(kind)) => self.unplug(i, block, kind, stop)?,
            (Op::Split, Some(_)) => self.split(block)?,
            (Op::Protect, plugged) => self.protect(plugged.map(|_| block))?,
            _ => return Ok(None),
        }
        Ok(Some(op))
    }

    fn plug(&mut self, i: usize, block: u32, stop: &AtomicBool) -> Result<(), Ended> {
        let kind = match self.random.u8(0..4) {
            0 => BlockKind::Volatile,
            _ => BlockKind::Cooperative,
        };
        self.figures.decide(Op::Plug, [block.into(), kind as u64]);
        let number = self.begin(Op::Plug, &[self.region.block_range(block)]);
        loop {
            match self.region.plug(block, kind) {
                Ok(_) => break,
                Err(HotplugError::Resting { .. }) if stop.load(Ordering::Relaxed) => {
                    return Err(Ended::Guest);
                }
                Err(HotplugError::Resting { .. }) => std::thread::sleep(REST),
                Err(error) => return Err(self.failed("plugging", block, &error)),
            }
        }
        self.history.close(number, Outcome::Published);
        self.mine[i].1 = Some(kind);
        Ok(())
    }

    fn unplug(
        &mut self,
        i: usize,
        block: u32,
        kind: BlockKind,
        stop: &AtomicBool,
    ) -> Result<(), Ended> {
        self.figures.decide(Op::Unplug, [block.into(), kind as u64]);
        let range = self.region.block_range(block);
        let number = self.begin(Op::Unplug, &[range]);
        let cancelled = || stop.load(Ordering::Relaxed);
        let report = loop {
            let begun = self.clock.now();
            let deadline = Instant::now() + LONGEST;
            let consent = match kind {
                BlockKind::Volatile => Consent::Surprise,
                BlockKind::Cooperative => Consent::Asked {
                    deadline,
                    cancelled: &cancelled,
                },
            };
            match self.region.unplug(block, consent, Some(deadline)) {
                Ok(report) => break report,
                Err(HotplugError::NotReleased(_)) if cancelled() => return Err(Ended::Guest),
                // The process was not let run.
                Err(
                    HotplugError::NotReleased(_)
                    | HotplugError::Map(WriteError::TimedOut { .. } | WriteError::LockTimedOut),
                ) if !self.clock.is_past(begun, LONGEST / 2) => {}
                Err(error) => return Err(self.failed("unplugging", block, &error)),
            }
        };
        self.history.close(number, Outcome::Published);
        self.mine[i].1 = None;
        self.figures.drained(&report.drain);
        if let Some(error) = &report.unmap_error {
            let what = format!("unplugging block {block}: {error}");
            return Err(self.found(Oracle::Shared, what, &[range]));
        }
        let left = self.space.mm().holders(range);
        let held = |kind| matches!(kind, HoldKind::Hold | HoldKind::Pin);
        match left.iter().find(|holder| held(holder.kind)) {
            None => Ok(()),
            Some(holder) => {
                let what = format!("\"{}\" still holds {:#x}", holder.thread, holder.addr);
                Err(self.found(Oracle::Leftover, what, &[range]))
            }
        }
    }

    /// A border in a block, for its VMA's sake only: the memslot stays.
    fn split(&mut self, block: u32) -> Result<(), Ended> {
        let range = self.region.block_range(block);
        let pages = self.region.block_size() / PAGE;
        let page = self.random.u64(0..pages);
        self.figures.decide(Op::Split, [block.into(), page]);
        let at = range.start() + page * PAGE;
        self.section(Op::Split, &[(range, None)], Some(at))
    }

    /// Other flags for a block, for the device that all vCPUs are at, or for the one
    /// that holds its own VMA while it looks up the block.
    fn protect(&mut self, block: Option<u32>) -> Result<(), Ended> {
        let device = |gpa| AddrRange::new(gpa, PAGE).expect("not empty");
        let (test, dma) = (device(abi::TEST_GPA), device(abi::DMA_GPA));
        let block = block.map(|block| self.region.block_range(block));
        let choice = match (self.preset, block) {
            (Preset::SameVma, _) | (_, None) => 0,
            (Preset::Nested, _) => 2,
            _ => self.random.u8(0..3),
        };
        let ranges = match (choice, block) {
            (1, Some(block)) => vec![block],
            (2, Some(block)) => vec![dma, block],
            _ => vec![test],
        };
        let on = self.random.bool();
        let word = u64::from(choice) << 1 | u64::from(on);
        self.figures.decide(Op::Protect, [ranges[0].start(), word]);
        let ranges: Vec<_> = ranges.into_iter().map(|range| (range, Some(on))).collect();
        self.section(Op::Protect, &ranges, None)
    }

    /// One section over all of `ranges`, whole VMAs of which get the tag or lose it, or
    /// stay; with a border at `split`.
    fn section(
        &mut self,
        op: Op,
        ranges: &[(AddrRange, Option<bool>)],
        split: Option<u64>,
    ) -> Result<(), Ended> {
        let concerned: Vec<_> = ranges.iter().map(|(range, _)| *range).collect();
        let number = self.begin(op, &concerned);
        let mut give_up = self.random.u32(..).is_multiple_of(GIVEN_UP);
        let mm = self.space.mm();
        loop {
            let attempt = || {
                let mut section = mm.mmap_write_lock()?;
                for (range, tag) in ranges {
                    let Some(on) = tag else { continue };
                    let set = if *on { TAG } else { VmFlags::NONE };
                    let mut at = range.start();
                    // Each VMA by itself: there may be holes.
                    while let Some(vma) = section.find_vma(at) {
                        let there = vma.range();
                        if there.start() > range.last() {
                            break;
                        }
                        section.change_flags(there, set, TAG)?;
                        let Some(end) = there.end() else { break };
                        at = end;
                    }
                }
                if let Some(at) = split {
                    section.split(at)?;
                }
                section.lock_until(Instant::now() + LONGEST)
            };
            let begun = self.clock.now();
            let attempted = attempt();
            if matches!(attempted, Err(WriteError::TimedOut { .. }))
                && !self.clock.is_past(begun, LONGEST / 2)
            {
                continue;
            }
            let drained = attempted.map_err(|error: WriteError| {
                let oracle = match error {
                    WriteError::TimedOut { .. } => Oracle::Stuck,
                    _ => Oracle::Error,
                };
                self.found(oracle, format!("changing {ranges:?}: {error}"), &concerned)
            })?;
            self.figures.drained(drained.drain());
            if std::mem::take(&mut give_up) {
                self.figures.given_up += 1;
                drop(drained);
                continue;
            }
            let published = drained.publish();
            self.figures.rounds += u64::from(published.rounds > 1);
            self.history.close(number, Outcome::Published);
            return Ok(());
        }
    }

    fn failed(&self, what: &str, block: u32, error: &HotplugError) -> Ended {
        let oracle = match error {
            HotplugError::NotReleased(_) | HotplugError::Map(WriteError::TimedOut { .. }) => {
                Oracle::Stuck
            }
            _ => Oracle::Error,
        };
        let range = self.region.block_range(block);
        self.found(oracle, format!("{what} block {block}: {error}"), &[range])
    }

    /// Notes that an operation begins.
    fn begin(&self, op: Op, concerned: &[AddrRange]) -> u64 {
        self.history.begin(self.id, op, concerned)
    }

    fn found(&self, oracle: Oracle, what: String, concerned: &[AddrRange]) -> Ended {
        let thread = std::thread::current();
        Ended::Found(Violation {
            oracle,
            what,
            thread: thread.name().unwrap_or("a writer").to_owned(),
            history: self.history.of(concerned),
        })
    }
}
