//! A machine on which one operation is done again and again, and fails.
use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;

use gracefault::hotplug::{BlockKind, Consent, HotplugRegion, Resizer};
use gracefault::memory::faults::{Fault, Step, Watch};
use gracefault::memory::{RamSizes, RamSource, sigbus};

use crate::operations::{BLOCK, MACHINE, Operation};
use crate::support::blocks::{Blocks, Picture};

pub(crate) struct Scene<'a> {
    operation: &'a Operation,
    pub(crate) blocks: Blocks,
    pub(crate) resizer: Resizer,
    /// Of this process, while nothing is done.
    threads: usize,
}

/// Where blocks are written to, and looked at.
const MARK: u64 = 0x1040;

/// How an operation ends that is done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    Done,
    /// It is done, but it says that the host has kept something.
    Stands,
}

pub(crate) fn text(error: impl Display) -> String {
    error.to_string()
}

impl<'a> Scene<'a> {
    pub(crate) fn new(operation: &'a Operation) -> Self {
        let sizes = RamSizes {
            boot: 0,
            hotplug: 5 * BLOCK,
            block: BLOCK,
        };
        // A page of an image that cannot be brought is met by this process.
        sigbus::install().expect("a handler");
        let ram = RamSource::open((operation.ram)(), sizes).expect("the host has it");
        let pages = ram.pager().is_some();
        let made = |region: HotplugRegion| region.with_ram(Arc::new(ram)).lazy(operation.lazy);
        let blocks = Blocks::with(BLOCK, 5, made).expect("a machine");
        let resizer = Resizer::new(blocks.region.clone()).expect("a thread");
        // This one, the resizer's, and those that bring the pages of an image.
        let threads = if pages { 6 } else { 2 };
        let scene = Self {
            operation,
            blocks,
            resizer,
            threads,
        };
        scene.reset().expect("nothing fails yet");
        scene
    }

    /// Does it, with nothing failing.
    pub(crate) fn run(&self) -> Result<(), String> {
        match (self.operation.run)(self)? {
            End::Done => Ok(()),
            End::Stands => Err("the host has kept something".to_owned()),
        }
    }

    /// Plugs and unplugs by hand what the operation has changed.
    pub(crate) fn reset(&self) -> Result<(), String> {
        let region = &self.blocks.region;
        let there = self.plugged();
        for block in 0..region.blocks() {
            let wanted = self.operation.plugged.contains(&block);
            if there.contains(&block) && !wanted {
                region
                    .unplug(block, Consent::Surprise, None)
                    .map_err(text)?;
            } else if wanted && !there.contains(&block) {
                region.plug(block, BlockKind::Cooperative).map_err(text)?;
                self.assert_empty(block);
            }
        }
        Ok(())
    }

    /// A block holds zeroes, whatever was there before it was plugged.
    fn assert_empty(&self, block: u32) {
        let gpa = self.blocks.region.block_range(block).start() + MARK;
        let mut found = [1; 8];
        let read = self.blocks.space.read(gpa, &mut found, None);
        read.expect("nothing fails");
        assert_eq!(found, [0; 8], "left from an earlier block {block}");
    }

    /// Writes to block 1, where a block is looked at when it is plugged.
    pub(crate) fn write(&self, data: &[u8]) -> Result<(), String> {
        let gpa = self.blocks.region.block_range(1).start() + MARK;
        self.blocks
            .space
            .write(gpa, data, None)
            .map(drop)
            .map_err(text)
    }

    fn plugged(&self) -> Vec<u32> {
        let plugged = self.blocks.region.plugged();
        plugged.iter().map(|block| block.0).collect()
    }

    /// Does it with these faults. Nothing of the failure must be left, and what has
    /// failed must succeed when it is done again. Tells how often each step failed.
    pub(crate) fn fail(&self, faults: &[Fault]) -> Result<BTreeMap<Step, u64>, String> {
        let what = format!("{} with {faults:?}", self.operation.name);
        let before = Picture::with_threads(&self.blocks, self.threads);
        let watch = Watch::begin(faults);
        let end = (self.operation.run)(self);
        let failed: BTreeMap<_, _> = faults
            .iter()
            .map(|fault| (fault.step, watch.failed(fault.step)))
            .collect();
        drop(watch);
        let times = |step| failed.get(&step).copied().unwrap_or(0);

        // What is said of it.
        let gives_back = [
            Step::UnmapMemory,
            Step::DiscardMemory,
            Step::PunchHole,
            Step::UnwatchMemory,
            Step::RemoveSlot,
        ];
        match &end {
            Ok(End::Done)
                if faults
                    .iter()
                    .any(|f| !gives_back.contains(&f.step) && times(f.step) > 0) =>
            {
                panic!("{what}: nothing was said of it");
            }
            Ok(End::Done) if !self.operation.is_machine && times(Step::UnmapMemory) > 0 => {
                panic!("{what}: nothing was said of it");
            }
            Ok(_) => {}
            Err(error) => assert!(error.len() > 20, "{what}: {error}"),
        }

        // What there is: map, slots and mappings agree with each other, and if it
        // failed, with what there was.
        let stuck = match (&end, self.operation.is_plug) {
            (Err(_), true) => times(Step::RemoveSlot),
            _ => 0,
        };
        self.check(&what, &before, stuck, times(Step::UnmapMemory));
        if end.is_err()
            && let Some(left) = self.operation.leaves.get(faults[0].after as usize)
        {
            assert_eq!(self.plugged(), *left, "{what}");
        } else if end.is_err() {
            let now = Picture::of(&self.blocks);
            if times(Step::RemoveSlot) == 0 {
                assert_eq!(now.vmas, before.vmas, "{what}");
            }
            // Where a slot was out its block has a new VMA, in the same place.
            let places = |picture: &Picture| -> Vec<_> {
                let vmas = picture.vmas.0.iter();
                vmas.map(|vma| (vma.range, vma.offset)).collect()
            };
            assert_eq!(places(&now), places(&before), "{what}");
        }

        // What comes next works.
        if end.is_ok() {
            self.reset().map_err(|e| format!("{what}: {e}"))?;
        }
        self.run().map_err(|e| format!("{what}, then again: {e}"))?;
        self.reset()
            .map_err(|e| format!("{what}, then again: {e}"))?;
        self.check(&what, &before, 0, times(Step::UnmapMemory));
        let start = &self.operation.plugged;
        assert_eq!(self.plugged(), *start, "{what}");
        Ok(failed)
    }

    /// As many VMAs and slots as blocks are plugged, and as much address space
    /// more, or less, than `before`; but `stuck` blocks that have their slots yet,
    /// and the addresses of `lost` mappings that the host did not take back.
    #[track_caller]
    fn check(&self, what: &str, before: &Picture, stuck: u64, lost: u64) {
        let blocks = self.plugged().len() as u64;
        let were = before.vmas.0.len() as u64 - 1;
        let space = (before.space + blocks * (BLOCK >> 20)).saturating_sub(were * (BLOCK >> 20));
        let expected = |slack: u64| {
            (
                blocks + 1,
                blocks + 1 + stuck,
                before.descriptors,
                before.threads,
                slack,
            )
        };
        let now = || {
            let now = Picture::of(&self.blocks);
            // What a machine of its own has is larger than a block; the stacks of its
            // threads are kept, and the allocator has its way by a little.
            let (each, least, about) = match self.operation.is_machine {
                true => (MACHINE >> 20, 0, MACHINE >> 22),
                false => (BLOCK >> 20, (stuck + lost) * (BLOCK >> 20), 1),
            };
            let most = (stuck + lost) * each;
            let range = (space + least).saturating_sub(about)..=space + most + about;
            let is_right = range.contains(&now.space);
            let slack = if is_right { 0 } else { now.space };
            (
                now.vmas.0.len() as u64,
                u64::from(now.slots),
                now.descriptors,
                now.threads,
                slack,
            )
        };
        crate::support::blocks::eventually(|| now() == expected(0));
        assert_eq!(
            now(),
            expected(0),
            "{what}: VMAs, slots, descriptors, threads, and MiB that are not about {space}; before {before:?}"
        );
    }
}
