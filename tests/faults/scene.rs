//! A machine on which one operation is done again and again, and fails.
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Display;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use gracefault::hotplug::{BlockKind, Consent, Resizer};
use gracefault::memory::faults::{Fault, Step, Watch};
use gracefault::memory::{Backend, RamSizes, RamSource, sigbus};

use crate::operations::{BLOCK, MACHINE, Operation};
use crate::support::blocks::{Blocks, Picture, eventually, mapped};
use crate::support::pool::pool;

pub(crate) struct Scene<'a> {
    operation: &'a Operation,
    pub(crate) blocks: Blocks,
    pub(crate) resizer: Resizer,
    /// Where the blocks' memory comes from.
    ram: Arc<RamSource>,
    /// Of this process, while nothing is done.
    threads: usize,
}

/// Where blocks are written to, and looked at.
const MARK: u64 = 0x1040;

/// How an operation ends that is done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    Done,
    /// It is done, but it says that the host has kept something; and what, if it tells.
    Stands(String),
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
        let options = (operation.ram)();
        let mut source = None;
        let blocks = Blocks::of_vm(BLOCK, 5, |vm, region| {
            let ram = match options.backend {
                Backend::GuestMemfd => RamSource::of_guest_memfd(options, sizes, |len| {
                    vm.create_guest_memfd(len).map_err(Box::<dyn Error>::from)
                })?,
                _ => RamSource::open(options, sizes)?,
            };
            let ram = source.insert(Arc::new(ram)).clone();
            Ok(region.with_ram(ram).lazy(operation.lazy))
        });
        let blocks = blocks.expect("a machine, and the host has it");
        let ram = source.expect("made with it");
        let pages = ram.pager().is_some();
        let resizer = Resizer::new(blocks.region.clone()).expect("a thread");
        // This one, the resizer's, and those that bring the pages of an image.
        let threads = if pages { 6 } else { 2 };
        let scene = Self {
            operation,
            blocks,
            resizer,
            ram,
            threads,
        };
        scene.reset().expect("nothing fails yet");
        scene
    }

    /// Does it, with nothing failing.
    pub(crate) fn run(&self) -> Result<(), String> {
        match (self.operation.run)(self)? {
            End::Done => Ok(()),
            End::Stands(what) => Err(format!("the host has kept something: {what}")),
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
        let before = Before {
            picture: Picture::with_threads(&self.blocks, self.threads),
            mapped: self.mapped(),
            free: pool("free_hugepages"),
        };
        let watch = Watch::begin(faults);
        let end = (self.operation.run)(self);
        let failed: BTreeMap<_, _> = faults
            .iter()
            .map(|fault| (fault.step, watch.failed(fault.step)))
            .collect();
        drop(watch);
        let times = |step| failed.get(&step).copied().unwrap_or(0);

        // What is said of it.
        let may_be_unsaid = |step| match step {
            // It is unmapped next, which does the same.
            Step::UnwatchMemory => true,
            // Done again, by who has failed.
            Step::WakeSleeper => true,
            // Done again, by who asks for the page again.
            Step::BringPage | Step::ReplacePage => times(Step::ReplacePage) > 0,
            // A machine that ends logs it.
            Step::UnmapMemory | Step::DiscardMemory | Step::PunchHole | Step::RemoveSlot => {
                self.operation.is_machine
            }
            _ => false,
        };
        match &end {
            Ok(End::Done) => {
                for fault in faults.iter().filter(|fault| times(fault.step) > 0) {
                    let step = fault.step;
                    assert!(may_be_unsaid(step), "{what}: nothing was said of {step:?}");
                }
            }
            Ok(End::Stands(said)) => {
                let keeps = times(Step::DiscardMemory) > 0;
                let is_said = said.is_empty() || said.contains("keeps the pages") == keeps;
                assert!(is_said, "{what}: {said}");
            }
            Err(error) => assert!(error.len() > 20, "{what}: {error}"),
        }

        // What there is: map, slots and mappings agree with each other, and if it
        // failed, with what there was.
        let stuck = match (&end, self.operation.is_plug) {
            (Err(_), true) => times(Step::RemoveSlot),
            _ => 0,
        };
        let lost = Lost {
            stuck,
            addresses: times(Step::UnmapMemory),
            pages: times(Step::DiscardMemory),
        };
        self.check(&what, &before, lost);
        if end.is_err()
            && let Some(left) = self.operation.leaves.get(faults[0].after as usize)
        {
            assert_eq!(self.plugged(), *left, "{what}");
        } else if end.is_err() {
            let (now, before) = (Picture::of(&self.blocks), &before.picture);
            if times(Step::RemoveSlot) == 0 {
                assert_eq!(now.vmas, before.vmas, "{what}");
            }
            // Where a slot was out its block has a new VMA, in the same place.
            let places = |picture: &Picture| -> Vec<_> {
                let vmas = picture.vmas.0.iter();
                vmas.map(|vma| (vma.range, vma.offset)).collect()
            };
            assert_eq!(places(&now), places(before), "{what}");
        }

        // What comes next works.
        if end.is_ok() {
            self.reset().map_err(|e| format!("{what}: {e}"))?;
        }
        self.run().map_err(|e| format!("{what}, then again: {e}"))?;
        self.reset()
            .map_err(|e| format!("{what}, then again: {e}"))?;
        self.check(&what, &before, Lost { stuck: 0, ..lost });
        let start = &self.operation.plugged;
        assert_eq!(self.plugged(), *start, "{what}");
        Ok(failed)
    }

    /// Bytes of the blocks' memory that are mapped, where the system can tell.
    fn mapped(&self) -> u64 {
        if self.ram.options().huge_page().is_some() {
            return mapped(|line| line.ends_with("anon_hugepage (deleted)"));
        }
        let file = self.ram.file().map(|file| file.metadata());
        file.map_or(0, |about| {
            let inode = about.expect("it is open").ino().to_string();
            mapped(|line| line.split_whitespace().nth(4) == Some(&inode))
        })
    }

    /// As many VMAs and slots as blocks are plugged, and as much memory and address
    /// space more, or less, than `before`; but for what is `lost`.
    #[track_caller]
    fn check(&self, what: &str, before: &Before, lost: Lost) {
        let blocks = self.plugged().len() as u64;
        let picture = &before.picture;
        let were = picture.vmas.0.len() as u64 - 1;
        let mib = BLOCK >> 20;
        let space = (picture.space + blocks * mib).saturating_sub(were * mib);
        let Lost {
            stuck,
            addresses,
            pages,
        } = lost;
        let expected = |slack: u64| {
            (
                blocks + 1,
                blocks + 1 + stuck,
                picture.descriptors,
                picture.threads,
                slack,
            )
        };
        let now = || {
            let now = Picture::of(&self.blocks);
            // What a machine of its own has is larger than a block; the stacks of its
            // threads are kept, and the allocator has its way by a little.
            let (each, least, about) = match self.operation.is_machine {
                true => (MACHINE >> 20, 0, ABOUT_A_MACHINE),
                false => (mib, (stuck + addresses) * mib, 1),
            };
            let most = (stuck + addresses) * each;
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
        eventually(|| now() == expected(0));
        assert_eq!(
            now(),
            expected(0),
            "{what}: VMAs, slots, descriptors, threads, and MiB that are not about {space}; before {before:?}"
        );
        let options = self.ram.options();
        let is_told = match options.path() {
            // Some file systems give a file another number there.
            Some(_) => self.mapped() > 0 || before.mapped > 0,
            None => self.ram.file().is_some() || options.huge_page().is_some(),
        };
        if is_told {
            let there = before.mapped + (blocks + stuck + addresses) * BLOCK - were * BLOCK;
            assert_eq!(
                self.mapped(),
                there,
                "{what}: bytes mapped; before {before:?}"
            );
        }
        if options.huge_page().is_some() {
            // One page of each block is touched.
            let free = before.free + were - blocks;
            let least = free.saturating_sub(stuck + pages);
            let now = pool("free_hugepages");
            assert!(
                (least..=free).contains(&now),
                "{what}: {now} pages in the pool, not {free}; before {before:?}"
            );
        }
    }
}

/// MiB that the stacks of a machine's threads come to, and the allocator's.
const ABOUT_A_MACHINE: u64 = 3;

/// What there was.
#[derive(Debug)]
struct Before {
    picture: Picture,
    /// Bytes of the blocks' memory that were mapped.
    mapped: u64,
    /// Free pages of the pool.
    free: u64,
}

/// Of how many blocks something may be left.
#[derive(Clone, Copy)]
struct Lost {
    /// Their memslots, and so all of them.
    stuck: u64,
    /// Their addresses, which the host did not take back.
    addresses: u64,
    /// Their pages.
    pages: u64,
}
