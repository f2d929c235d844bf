//! Failures with real causes: the map, KVM and the host refuse, and all is as
//! before.
use std::error::Error;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use gracefault::hotplug::{BlockKind, Consent, HotplugError, ResizeOptions, Resizer};
use gracefault::kvm::{SlotAccess, SlotError};
use gracefault::machine::{Machine, MachineConfig, StopRequest};
use gracefault::memory::faults::{Fault, Step, Watch};
use gracefault::memory::{Backend, HugePage, Mapping, PAGE, RamOptions, RamSizes, RamSource};
use gracefault::mm::WriteError;
use gracefault_guest::abi;
use libtest_mimic::{Completion, Trial};

use crate::support::blocks::{Blocks, Picture};
use crate::support::pool::Pool;
use crate::support::required::{self, left_out};
use crate::support::{Outcome, Ram, kvm_test, kvm_test_if};

const BLOCK: u64 = 4 << 20;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test("causes_in_the_map", in_the_map),
        kvm_test("causes_in_kvm", in_kvm),
        kvm_test("causes_in_kvm_of_a_slot_that_stays", a_slot_that_stays),
        kvm_test("causes_in_kvm_and_the_dirty_log", dirty_log),
        kvm_test("causes_in_the_host", in_the_host),
        kvm_test(
            "causes_in_the_host_beside_a_pause",
            no_thread_beside_a_pause,
        ),
        kvm_test(
            "causes_in_the_host_beside_a_writer",
            no_thread_beside_a_writer,
        ),
        kvm_test_if("causes_in_the_host_of_huge_pages", huge_pages),
    ]
}

/// Asserts that it fails, that all is as before, and what the error is.
#[track_caller]
fn refused<R>(
    blocks: &Blocks,
    operation: impl FnOnce() -> Result<R, HotplugError>,
    is: impl FnOnce(&HotplugError) -> bool,
) {
    let before = Picture::of(blocks);
    let Err(error) = operation() else {
        panic!("it was not refused");
    };
    assert!(is(&error), "{error}");
    assert_eq!(Picture::of(blocks), before, "{error}");
}

/// A memslot that was out for a moment has lost KVM's log: what the guest wrote before is
/// not said to be clean.
fn dirty_log() -> Outcome {
    for lazy in [false, true] {
        let blocks = Blocks::with(BLOCK, 2, |region| region.lazy(lazy).with_dirty_log(true))?;
        let region = &blocks.region;
        region.plug_all(&[0, 1], BlockKind::Volatile)?;
        if lazy {
            blocks.space.put_in_missing(None)?;
        }
        for block in [0, 1] {
            region.take_dirty_pages(block)?;
        }
        let watch = Watch::begin(&[Fault::once(Step::RemoveSlot, 1)]);
        let failed = region.unplug_all(&[0, 1], Consent::Surprise, None);
        assert_eq!(watch.failed(Step::RemoveSlot), 1, "{failed:?}");
        drop(watch);
        assert!(failed.is_err());
        let dirty = |block| -> Result<u32, HotplugError> {
            let words = region.take_dirty_pages(block)?;
            Ok(words.iter().map(|word| word.count_ones()).sum())
        };
        assert_eq!(dirty(0)?, (BLOCK / PAGE) as u32, "its slot was out");
        assert_eq!(dirty(1)?, 0, "its slot was not");
    }
    Ok(())
}

/// A machine whose last vCPU gets no thread ends, also if the others rest by then.
fn no_thread_beside_a_pause() -> Outcome {
    const VCPUS: u32 = 8;
    for _ in 0..10 {
        let config = MachineConfig {
            vcpus: VCPUS,
            ..MachineConfig::default()
        };
        let machine = Machine::new(config, Box::new(std::io::sink()))?;
        let handle = machine.handle()?;
        let watch = Watch::begin(&[Fault::once(Step::StartVcpu, u64::from(VCPUS) - 1)]);
        let (done, is_done) = mpsc::channel();
        // Not joined: it would hang with the run.
        thread::spawn(move || {
            let ended = machine.run(&StopRequest::new(), &mut |_| ());
            let _ = done.send(ended.is_err());
        });
        let begun = Instant::now();
        let failed = loop {
            // As soon as it runs, and before it has failed, if this thread is lucky.
            let _ = handle.pause(Duration::from_millis(1));
            match is_done.try_recv() {
                Ok(failed) => break failed,
                Err(_) if begun.elapsed() < Duration::from_secs(60) => {}
                Err(_) => return Err("it hangs with vCPUs that rest".into()),
            }
        };
        assert!(failed && watch.failed(Step::StartVcpu) == 1);
    }
    Ok(())
}

/// A vCPU cannot be started while an earlier one waits for a writer: it waits no more.
fn no_thread_beside_a_writer() -> Outcome {
    const VCPUS: u32 = 32;
    for _ in 0..10 {
        let config = MachineConfig {
            vcpus: VCPUS,
            ..MachineConfig::default()
        };
        let machine = Machine::new(config, Box::new(std::io::sink()))?;
        let handle = machine.handle()?;
        let mut section = handle.memory().mm().mmap_write_lock()?;
        for gpa in [abi::TEST_GPA, abi::EXIT_GPA, abi::HOTPLUG_GPA] {
            let device = section.find_vma(gpa).map(|vma| vma.range());
            section.unmap(device.ok_or("a device")?)?;
        }
        let drained = section.lock()?;
        let watch = Watch::begin(&[Fault::once(Step::StartVcpu, u64::from(VCPUS) - 1)]);
        let (done, is_done) = mpsc::channel();
        // Not joined: it would hang with the run.
        thread::spawn(move || {
            let ended = machine.run(&StopRequest::new(), &mut |_| ());
            let _ = done.send(ended.is_err());
        });
        let failed = is_done.recv_timeout(Duration::from_secs(60));
        assert!(failed.map_err(|_| "it hangs with a vCPU that waits")?);
        assert_eq!(watch.failed(Step::StartVcpu), 1);
        drop(drained);
    }
    Ok(())
}

fn in_the_map() -> Outcome {
    let blocks = Blocks::new(BLOCK, 3)?;
    let region = &blocks.region;
    let plug = |some: &[u32]| region.plug_all(some, BlockKind::Cooperative);
    // Something else is at block 2.
    let foreign = Arc::new(Mapping::anonymous(BLOCK)?);
    blocks.space.map_ram(region.block_range(2), foreign)?;
    let overlaps = |e: &HotplugError| matches!(e, HotplugError::Map(WriteError::Overlaps { .. }));
    refused(&blocks, || plug(&[2]), overlaps);
    refused(&blocks, || plug(&[0, 1, 2]), overlaps);
    blocks.space.mm().unmap(region.block_range(2), None)?;
    plug(&[0, 1, 2])?;
    // This thread holds one.
    let unplug = |deadline| region.unplug(0, Consent::Surprise, deadline);
    let guard = blocks
        .space
        .mm()
        .lock_vma_under_rcu_wait(region.block_range(1).start())?;
    let holds = |e: &HotplugError| matches!(e, HotplugError::Map(WriteError::HoldsGuard));
    refused(&blocks, || unplug(None), holds);
    drop(guard);
    // Another has the map lock.
    let read = blocks.space.mm().mmap_read_lock()?;
    thread::scope(|scope| {
        let locked = |e: &HotplugError| matches!(e, HotplugError::Map(WriteError::LockTimedOut));
        let soon = Some(Instant::now() + Duration::from_millis(5));
        scope
            .spawn(move || unplug(soon))
            .join()
            .expect("no panic")
            .map(drop)
            .map_or_else(
                |e| assert!(locked(&e), "{e}"),
                |()| panic!("it was not refused"),
            );
    });
    drop(read);
    assert_eq!(region.plugged().len(), 3);
    unplug(None)?;
    Ok(())
}

fn in_kvm() -> Outcome {
    let blocks = Blocks::new(BLOCK, 3)?;
    let plug = |some: &[u32]| blocks.region.plug_all(some, BlockKind::Volatile);
    // A slot that the map does not know of, in the middle of block 2.
    let gpa = blocks.region.block_range(2).start() + 0x1000;
    let slot = blocks
        .vm
        .add_slot(gpa, Ram::new(4096), SlotAccess::ReadWrite)?;
    let overlaps = |e: &HotplugError| matches!(e, HotplugError::Slot(SlotError::Overlap { .. }));
    refused(&blocks, || plug(&[2]), overlaps);
    refused(&blocks, || plug(&[0, 1, 2]), overlaps);
    slot.remove().map_err(|(_, error)| error)?;
    plug(&[0, 1, 2])?;
    Ok(())
}

/// A plug is undone, but KVM keeps a slot: that block waits for it, and a resize does
/// with the others.
fn a_slot_that_stays() -> Outcome {
    let blocks = Blocks::new(BLOCK, 4)?;
    let region = &blocks.region;
    let stays = || Fault {
        times: u64::MAX,
        ..Fault::once(Step::RemoveSlot, 0)
    };
    let plug = |block| region.plug_all(&[block, 1], BlockKind::Cooperative);
    let watch = Watch::begin(&[Fault::once(Step::AddSlot, 1), stays()]);
    plug(0).expect_err("the second slot is refused");
    let stuck = |e: &HotplugError| matches!(e, HotplugError::Stuck { block: 0, .. });
    refused(&blocks, || plug(0), stuck);
    let resizer = Resizer::new(region.clone())?;
    let resize = |blocks| {
        let options = ResizeOptions {
            patience: Duration::from_millis(5),
            ..ResizeOptions::default()
        };
        let limit = Instant::now() + Duration::from_secs(60);
        resizer
            .request(blocks * BLOCK, options)?
            .wait(limit)
            .map_err(Box::<dyn Error>::from)
    };
    assert_eq!(resize(3)?.plugged, 3);
    let plugged: Vec<_> = region.plugged().iter().map(|(block, _)| *block).collect();
    assert_eq!(plugged, [1, 2, 3]);
    // There is no other left.
    let text = resize(4).expect_err("its slot is not out").to_string();
    assert!(text.contains("block 0"), "{text}");
    drop(watch);
    assert_eq!(resize(4)?.plugged, 1);
    Ok(())
}

fn in_the_host() -> Outcome {
    out_of_addresses(&Blocks::new(BLOCK, 3)?).map(drop)
}

/// The pool has pages enough, and is not blamed.
fn huge_pages() -> Result<Completion, Box<dyn Error>> {
    let _pool = match Pool::grow((3 * BLOCK) >> 21) {
        Ok(pool) => pool,
        Err(reason) => return Ok(left_out(required::HUGETLB, reason)?),
    };
    let options = RamOptions {
        backend: Backend::Hugetlb(HugePage::Size2M),
        ..RamOptions::default()
    };
    let sizes = RamSizes {
        boot: 0,
        hotplug: 3 * BLOCK,
        block: BLOCK,
    };
    let ram = Arc::new(RamSource::open(options, sizes)?);
    let text = out_of_addresses(&Blocks::with(BLOCK, 3, |region| region.with_ram(ram))?)?;
    assert!(!text.contains("huge pages"), "{text}");
    Ok(Completion::Completed)
}

/// No more addresses than there are now; what is said then.
fn out_of_addresses(blocks: &Blocks) -> Result<String, Box<dyn Error>> {
    let plug = || blocks.region.plug_all(&[0, 1, 2], BlockKind::Volatile);
    plug()?;
    for block in 0..3 {
        blocks.region.unplug(block, Consent::Surprise, None)?;
    }
    let mut usual = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: reads a limit into a place of the right type.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_AS, &mut usual) }, 0);
    // Room for two of the three.
    let now = crate::support::blocks::status()["VmSize"] << 10;
    let little = libc::rlimit {
        rlim_cur: now + 2 * BLOCK + BLOCK / 2,
        ..usual
    };
    // SAFETY: sets a limit of this process.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &little) }, 0);
    let mut text = String::new();
    refused(blocks, plug, |e| {
        text = e.to_string();
        matches!(e, HotplugError::NoMemory { .. })
    });
    // SAFETY: sets it back.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &usual) }, 0);
    plug()?;
    Ok(text)
}
