//! The operations of a writer, and what it has mapped where.

use std::sync::atomic::{AtomicU64, Ordering};

use super::chunk::Chunk;
use super::mix::Op;
use super::world::{Ended, World};
use super::writer::{Intent, Writer, WriterFigures};
use crate::memory::{Backing, PAGE};
use crate::mm::{AddrRange, VmFlags, WriteError, WriteSection};

/// Two regions that stay. Each side's memory is as long as both, so that the border
/// may be anywhere.
struct Staying {
    /// All of it.
    range: AddrRange,
    sides: Vec<Chunk>,
    /// Where the second side begins; the end if there is one side.
    border: u64,
}

/// A region that comes and goes.
struct Roaming {
    region: u32,
    memory: Option<Chunk>,
    away: bool,
}

/// A writer with its regions.
pub(super) struct Operator {
    writer: Writer,
    staying: Vec<Staying>,
    roaming: Vec<Roaming>,
    /// One of these.
    plugged_last: usize,
}

/// What a protection changes: a flag that means nothing to anybody.
const TAG: VmFlags = VmFlags::EMBEDDER;

/// Of more regions of a writer than that, hardly one that is drawn is mapped until the
/// storm has lasted for long: the one that came last is unplugged instead.
const MANY: usize = 256;

/// Draws until an operation is found that can be done now.
const DRAWS: u32 = 64;

impl Operator {
    /// Maps the writer's regions that stay.
    pub(super) fn new(writer: Writer) -> Result<Self, Ended> {
        let mut this = Self {
            staying: Vec::new(),
            roaming: Vec::new(),
            plugged_last: 0,
            writer,
        };
        let world = this.writer.world.clone();
        let layout = world.layout;
        // Two pairs, one of each kind, to each writer in turn.
        for region in 0..layout.regions {
            if (region / 4) % world.config.writers != this.writer.id {
                continue;
            }
            if !layout.stays(region) {
                this.roaming.push(Roaming {
                    region,
                    memory: None,
                    away: false,
                });
            } else if region.is_multiple_of(2) {
                this.map_pair(&world, region)?;
            }
        }
        Ok(this)
    }

    fn map_pair(&mut self, world: &World, region: u32) -> Result<(), Ended> {
        let range = world.layout.pair(region);
        let both = world.layout.partner(region).is_some();
        let border = match both {
            true => range.start() + world.layout.len(),
            false => range.last() + 1,
        };
        let mut pair = Staying {
            range,
            sides: vec![world.chunk(range)?],
            border,
        };
        if both {
            pair.sides.push(world.chunk(range)?);
        }
        let intent = Intent {
            comes: vec![range],
            ..Intent::default()
        };
        let flags = world.flags();
        self.writer
            .apply(Op::Plug, intent, &|section| pair.map(section, flags))?;
        self.staying.push(pair);
        Ok(())
    }

    /// Operations until the storm is over, or `ops` of them. `heart` is bumped with each.
    pub(super) fn run(&mut self, ops: Option<u64>, heart: &AtomicU64) -> Result<(), Ended> {
        self.forget_the_start();
        let mut left = ops.unwrap_or(u64::MAX);
        while left > 0 && !self.writer.world.is_over() {
            self.one()?;
            heart.fetch_add(1, Ordering::Relaxed);
            left -= 1;
        }
        Ok(())
    }

    /// What was mapped before the storm is none of its operations.
    fn forget_the_start(&mut self) {
        let started = self.writer.figures.ops.iter().sum();
        self.writer.figures = WriterFigures::default();
        self.writer.world.ops.fetch_sub(started, Ordering::Relaxed);
    }

    pub(super) fn into_figures(self) -> WriterFigures {
        self.writer.figures
    }

    fn one(&mut self) -> Result<(), Ended> {
        let mix = self.writer.world.config.mix;
        for _ in 0..DRAWS {
            let op = mix.choose(&mut self.writer.random);
            let done = match op {
                Op::Plug => self.plug()?,
                Op::Unplug => self.unplug()?,
                Op::Move => self.relocate()?,
                Op::Split => self.split()?,
                Op::Protect => self.protect(Op::Protect)?,
                Op::Call => self.protect(Op::Call)?,
                Op::Replace => self.replace()?,
                Op::Border => self.border()?,
            };
            if done {
                return Ok(());
            }
        }
        // Nothing in the mix can be done, whatever is drawn.
        self.protect(Op::Protect).map(drop)
    }

    fn draw(&mut self, below: usize) -> Option<usize> {
        (below > 0).then(|| self.writer.random.usize(0..below))
    }

    fn plug(&mut self) -> Result<bool, Ended> {
        let Some(i) = self.draw(self.roaming.len()) else {
            return Ok(false);
        };
        let region = self.roaming[i].region;
        if self.roaming[i].memory.is_some() {
            return Ok(false);
        }
        self.writer.decide(Op::Plug, [region.into(), 0]);
        let world = self.writer.world.clone();
        let home = world.layout.home(region);
        let chunk = world.chunk(home)?;
        let intent = Intent {
            comes: vec![home],
            ..Intent::default()
        };
        let flags = world.flags();
        self.writer.apply(Op::Plug, intent, &|section| {
            section.map(home, flags, 0, Backing::Ram(chunk.memory()))
        })?;
        let roaming = &mut self.roaming[i];
        (roaming.memory, roaming.away) = (Some(chunk), false);
        self.plugged_last = i;
        Ok(true)
    }

    fn unplug(&mut self) -> Result<bool, Ended> {
        let Some(mut i) = self.draw(self.roaming.len()) else {
            return Ok(false);
        };
        if self.roaming[i].memory.is_none() && self.roaming.len() > MANY {
            i = self.plugged_last;
        }
        if self.roaming[i].memory.is_none() {
            return Ok(false);
        }
        // Both of the pair, at times.
        let other = i ^ 1;
        let both = self.writer.random.bool()
            && self.roaming.get(other).is_some_and(|r| r.memory.is_some());
        let mut intent = Intent::default();
        for i in [Some(i), both.then_some(other)].into_iter().flatten() {
            let place = self.place(i);
            intent.changes.push(place);
            intent.gone.push(place);
            intent.buries.extend(self.roaming[i].memory.take());
        }
        let region = self.roaming[i].region;
        self.writer.decide(Op::Unplug, [region.into(), both.into()]);
        let gone = intent.gone.clone();
        self.writer.apply(Op::Unplug, intent, &|section| {
            gone.iter().try_for_each(|range| section.unmap(*range))
        })?;
        Ok(true)
    }

    /// Where a roaming region is.
    fn place(&self, i: usize) -> AddrRange {
        let (roaming, layout) = (&self.roaming[i], self.writer.world.layout);
        match roaming.away {
            true => layout.away(roaming.region),
            false => layout.home(roaming.region),
        }
    }

    fn relocate(&mut self) -> Result<bool, Ended> {
        let Some(i) = self.draw(self.roaming.len()) else {
            return Ok(false);
        };
        if self.roaming[i].memory.is_none() {
            return Ok(false);
        }
        let from = self.place(i);
        let roaming = &mut self.roaming[i];
        roaming.away = !roaming.away;
        let (region, to) = (roaming.region, self.place(i));
        self.writer.decide(Op::Move, [region.into(), to.start()]);
        let intent = Intent {
            changes: vec![from],
            gone: vec![from],
            comes: vec![to],
            ..Intent::default()
        };
        self.writer.apply(Op::Move, intent, &|section| {
            section.relocate(from, to.start())
        })?;
        Ok(true)
    }

    /// Something that is mapped, with its pages.
    fn mapped(&mut self) -> Option<AddrRange> {
        let (pairs, regions) = (self.staying.len(), self.roaming.len());
        let i = self.draw(pairs + regions)?;
        match i.checked_sub(pairs) {
            None => Some(self.staying[i].range),
            Some(i) => self.roaming[i].memory.is_some().then(|| self.place(i)),
        }
    }

    fn split(&mut self) -> Result<bool, Ended> {
        let Some(range) = self.mapped() else {
            return Ok(false);
        };
        let pages = (range.last() - range.start() + 1) / PAGE;
        let at = range.start() + self.writer.random.u64(1..pages.max(2)) * PAGE;
        if pages < 2 {
            return Ok(false);
        }
        self.writer.decide(Op::Split, [range.start(), at]);
        // Where a VMA begins there already, nothing is changed.
        let page = AddrRange::new(at, PAGE).expect("not empty");
        let found = self.writer.world.mm().vmas(page);
        let begins = found.first().is_some_and(|vma| vma.range.start() == at);
        let intent = Intent {
            changes: if begins { Vec::new() } else { vec![page] },
            ..Intent::default()
        };
        self.writer
            .apply(Op::Split, intent, &|section| section.split(at))?;
        Ok(true)
    }

    /// Other flags for all of something, or for a part; with the section kept open to
    /// call readers back, if that is what is asked for.
    fn protect(&mut self, op: Op) -> Result<bool, Ended> {
        let Some(whole) = self.mapped() else {
            return Ok(false);
        };
        let mut range = whole;
        if self.writer.random.bool() && op == Op::Protect {
            let pages = (whole.last() - whole.start() + 1) / PAGE;
            let first = self.writer.random.u64(0..pages);
            let len = self.writer.random.u64(1..=pages - first);
            let start = whole.start() + first * PAGE;
            range = AddrRange::new(start, len * PAGE).expect("not empty");
        }
        let can_call = self.writer.world.config.strategy.capabilities().is_killable;
        let world = self.writer.world.clone();
        let there = world.mm().vmas(range);
        // One of two, so that neighbours often have the same, and are merged.
        let calls = op == Op::Call && can_call;
        let tagged = match calls {
            true => there.first().is_none_or(|vma| !vma.flags.contains(TAG)),
            false => self.writer.random.bool(),
        };
        let tag = match tagged {
            true => TAG,
            false => VmFlags::NONE,
        };
        self.writer
            .decide(op, [range.start(), range.last() << 1 | u64::from(tagged)]);
        // What has these flags already is left alone.
        let differ = there.iter().filter(|vma| vma.flags.contains(TAG) != tagged);
        let inside = differ.map(|vma| {
            let start = vma.range.start().max(range.start());
            let last = vma.range.last().min(range.last());
            AddrRange::inclusive(start, last).expect("they overlap")
        });
        let intent = Intent {
            changes: inside.collect(),
            calls: calls.then_some(range.start()),
            ..Intent::default()
        };
        self.writer
            .apply(op, intent, &|section| section.change_flags(range, tag, TAG))?;
        Ok(true)
    }

    fn replace(&mut self) -> Result<bool, Ended> {
        let Some(i) = self.draw(self.staying.len()) else {
            return Ok(false);
        };
        let side = self.writer.random.usize(0..self.staying[i].sides.len());
        let world = self.writer.world.clone();
        let new = world.chunk(self.staying[i].range)?;
        let old = std::mem::replace(&mut self.staying[i].sides[side], new);
        let pair = &self.staying[i];
        let range = pair.side(side);
        self.writer
            .decide(Op::Replace, [range.start(), range.last()]);
        let intent = Intent {
            changes: vec![range],
            buries: vec![old],
            ..Intent::default()
        };
        let flags = world.flags();
        self.writer.apply(Op::Replace, intent, &|section| {
            section.unmap(range)?;
            pair.map_side(section, side, flags)
        })?;
        Ok(true)
    }

    fn border(&mut self) -> Result<bool, Ended> {
        let Some(i) = self.draw(self.staying.len()) else {
            return Ok(false);
        };
        if self.staying[i].sides.len() < 2 {
            return Ok(false);
        }
        let world = self.writer.world.clone();
        let range = self.staying[i].range;
        let pages = (range.last() - range.start() + 1) / PAGE;
        let border = range.start() + self.writer.random.u64(1..pages) * PAGE;
        self.staying[i].border = border;
        let pair = &self.staying[i];
        self.writer.decide(Op::Border, [range.start(), border]);
        let intent = Intent {
            changes: vec![range],
            ..Intent::default()
        };
        let flags = world.flags();
        self.writer.apply(Op::Border, intent, &|section| {
            section.unmap(range)?;
            pair.map(section, flags)
        })?;
        Ok(true)
    }
}

impl Staying {
    fn side(&self, side: usize) -> AddrRange {
        let range = match side {
            0 => AddrRange::inclusive(self.range.start(), self.border - 1),
            _ => AddrRange::inclusive(self.border, self.range.last()),
        };
        range.expect("a border is inside")
    }

    fn map_side(
        &self,
        section: &mut WriteSection<'_, Backing>,
        side: usize,
        flags: VmFlags,
    ) -> Result<(), WriteError> {
        let range = self.side(side);
        let offset = range.start() - self.range.start();
        let memory = Backing::Ram(self.sides[side].memory());
        section.map(range, flags, offset, memory)
    }

    fn map(
        &self,
        section: &mut WriteSection<'_, Backing>,
        flags: VmFlags,
    ) -> Result<(), WriteError> {
        (0..self.sides.len()).try_for_each(|side| self.map_side(section, side, flags))
    }
}
