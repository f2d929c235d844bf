//! A file that the user named, and plugs that fail: it holds what it held.
use std::error::Error;
use std::sync::Arc;

use gracefault::hotplug::{BlockKind, Consent, HotplugError};
use gracefault::kvm::{LazyMemSlot, SlotError};
use gracefault::memory::faults::{Fault, Step, Watch};
use gracefault::memory::{Backend, Mapping, RamOptions, RamSizes, RamSource, ThpAdvice};
use gracefault::mm::WriteError;
use libtest_mimic::Trial;

use crate::operations::BLOCK;
use crate::scene::text;
use crate::support::blocks::Blocks;
use crate::support::{Outcome, kvm_test};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test("file_after_plugs_that_failed", plugs_that_fail),
        Trial::test("file_that_is_refused", || Ok(refused()?)),
        Trial::test("block_whose_stale_hole_fails_names_it", || Ok(stale()?)),
        Trial::test("block_whose_advice_fails_names_it", || Ok(advice()?)),
    ]
}

/// It has its length, and one that was not there is not there.
fn refused() -> Result<(), String> {
    let dir = tempfile::tempdir().map_err(text)?;
    let path = dir.path().join("ram");
    for step in [Step::LockFile, Step::TryHole, Step::SizeFile] {
        for is_there in [false, true] {
            let held = is_there.then(|| b"kept".to_vec());
            if let Some(held) = &held {
                std::fs::write(&path, held).map_err(text)?;
            }
            let options = RamOptions {
                backend: Backend::File(path.clone()),
                discard: true,
                ..RamOptions::default()
            };
            let sizes = RamSizes {
                boot: BLOCK,
                hotplug: 0,
                block: BLOCK,
            };
            let watch = Watch::begin(&[Fault::once(step, 0)]);
            let error = RamSource::open(options, sizes).expect_err("it is made to fail");
            assert_eq!(watch.failed(step), 1, "{error}");
            drop(watch);
            assert_eq!(std::fs::read(&path).ok(), held, "{step:?}: {error}");
        }
        std::fs::remove_file(&path).map_err(text)?;
    }
    Ok(())
}

const ONE_BLOCK: RamSizes = RamSizes {
    boot: BLOCK,
    hotplug: BLOCK,
    block: BLOCK,
};

/// What should be gone from it cannot be made to go.
fn stale() -> Result<(), String> {
    let dir = tempfile::tempdir().map_err(text)?;
    let path = dir.path().join("ram");
    let named = format!("backing=file:{},discard=on", path.display());
    let memfd = "backing=memfd".to_owned();
    for (backend, discard, named) in [
        (Backend::File(path), true, named),
        (Backend::Memfd, false, memfd),
    ] {
        let options = RamOptions {
            backend,
            discard,
            ..RamOptions::default()
        };
        let ram = RamSource::open(options, ONE_BLOCK).map_err(text)?;
        let block = ram.map_block(0).map_err(text)?;
        let watch = Watch::begin(&[0, 1].map(|after| Fault::once(Step::PunchHole, after)));
        let _ = block.unmap();
        let error = ram.map_block(0).expect_err("it is made to fail");
        assert_eq!(watch.failed(Step::PunchHole), 2, "{error}");
        drop(watch);
        assert!(error.to_string().contains(&named), "{error}");
        ram.map_block(0).map_err(text)?;
    }
    Ok(())
}

fn advice() -> Result<(), String> {
    let options = RamOptions {
        thp: ThpAdvice::Unwanted,
        ..RamOptions::default()
    };
    let ram = RamSource::open(options, ONE_BLOCK).map_err(text)?;
    let watch = Watch::begin(&[Fault::once(Step::AdviseMemory, 0)]);
    let mapped = ram.map_block(0);
    if watch.failed(Step::AdviseMemory) == 0 {
        println!("not tried: no transparent huge pages");
        return Ok(());
    }
    let error = mapped.expect_err("it is made to fail");
    assert!(error.to_string().contains("hugepages=off"), "{error}");
    Ok(())
}

/// Fails as it must, whatever is behind the blocks: the patterns of volatile blocks
/// are not in the file. When it succeeds, they are.
fn plugs_that_fail() -> Outcome {
    let held = vec![5; 3 * BLOCK as usize];
    for lazy in [false, true] {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("ram");
        std::fs::write(&path, &held)?;
        let is_kept = || std::fs::read(&path).is_ok_and(|found| found == held);
        let options = RamOptions {
            backend: Backend::File(path.clone()),
            ..RamOptions::default()
        };
        let sizes = RamSizes {
            boot: 0,
            hotplug: 3 * BLOCK,
            block: BLOCK,
        };
        let ram = Arc::new(RamSource::open(options, sizes)?);
        let blocks = Blocks::with(BLOCK, 3, |region| region.with_ram(ram).lazy(lazy))?;
        let plug = |some: &[u32]| blocks.region.plug_all(some, BlockKind::Volatile);

        // Something else is at block 2.
        let range = blocks.region.block_range(2);
        let foreign = Arc::new(Mapping::anonymous(BLOCK)?);
        blocks.space.map_ram(range, foreign)?;
        for some in [&[2][..], &[0, 1, 2]] {
            let error = plug(some).expect_err("something is there");
            let is_it = matches!(error, HotplugError::Map(WriteError::Overlaps { .. }));
            assert!(is_it, "{error}");
            assert!(is_kept(), "{some:?}: {error}");
        }
        blocks.space.mm().unmap(range, None)?;

        // One memslot is left.
        let mut slots = all_slots(&blocks)?;
        slots.pop();
        let error = plug(&[0, 1]).expect_err("there is one");
        let is_it = matches!(error, HotplugError::Slot(SlotError::NoneLeft { .. }));
        assert!(is_it, "{error}");
        assert!(is_kept(), "{error}");
        drop(slots);

        // Of the second block, when the first one's is written.
        for step in [Step::AddSlot, Step::FillBlock] {
            if lazy && step == Step::AddSlot {
                continue;
            }
            let watch = Watch::begin(&[Fault::once(step, 1)]);
            let error = plug(&[0, 1]).expect_err("it is made to fail");
            assert_eq!(watch.failed(step), 1, "{error}");
            drop(watch);
            assert!(is_kept(), "{step:?}: {error}");
        }

        plug(&[0, 1])?;
        assert!(!is_kept(), "the guest finds its patterns");
        for block in [0, 1] {
            blocks.region.unplug(block, Consent::Surprise, None)?;
        }
    }
    Ok(())
}

/// Every memslot that KVM has left.
fn all_slots(blocks: &Blocks) -> Result<Vec<LazyMemSlot>, Box<dyn Error>> {
    let memory = Arc::new(Mapping::anonymous(BLOCK)?);
    let mut slots = Vec::new();
    loop {
        // Never put in, so that it is all the same where.
        match blocks.vm.lazy_slot(1 << 36, memory.clone()) {
            Ok(slot) => slots.push(slot),
            Err(SlotError::NoneLeft { .. }) => return Ok(slots),
            Err(error) => return Err(error.into()),
        }
    }
}
