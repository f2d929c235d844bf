//! Resizing: what it reaches, what it tells, and how it gives way.
use std::io::sink;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use gracefault::devices::BlockPhase;
use gracefault::hotplug::{
    BlockKind, Consent, HotplugError, RegionSize, ResizeError, ResizeOptions, ResizeState, Resizer,
};
use gracefault::machine::{Machine, MachineConfig, MemoryConfig, StopRequest, Verdict};
use gracefault::memory::Device;
use gracefault_guest::abi;
use libtest_mimic::Trial;

use crate::support::blocks::{Blocks, Picture};
use crate::support::{Outcome, kvm_test};

const BLOCK: u64 = 64 << 10;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test("resize_up_and_down", up_and_down),
        kvm_test("resize_refuses_what_cannot_be", refuses),
        kvm_test("resize_gives_way_to_a_newer_one", gives_way),
        kvm_test(
            "resize_beside_a_cancel_that_looks",
            beside_a_cancel_that_looks,
        ),
        kvm_test("resize_tells_why_it_failed", tells_why),
        kvm_test("resize_ends_with_its_resizer", ends),
        kvm_test("resize_beside_others_that_plug", beside_others),
        kvm_test("resize_of_a_running_machine", running_machine),
    ]
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// Waits until `is` is so.
#[track_caller]
fn until(what: &str, is: impl Fn() -> bool) {
    let limit = soon();
    while !is() {
        assert!(Instant::now() < limit, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

fn up_and_down() -> Outcome {
    let blocks = Blocks::new(BLOCK, 64)?;
    // A thread's stack stays with the process.
    drop(Resizer::new(blocks.region.clone())?);
    let before = Picture::with_threads(&blocks, 1);
    let resizer = Resizer::new(blocks.region.clone())?;
    let size = |requested, plugged| RegionSize {
        total: 64 * BLOCK,
        requested: requested * BLOCK,
        plugged: plugged * BLOCK,
    };
    assert_eq!(resizer.size(), size(0, 0));
    let mut last = 0;
    for wanted in [3, 64, 64, 10, 11, 0] {
        let resize = resizer.request(wanted * BLOCK, ResizeOptions::default())?;
        assert_eq!(resize.size().requested, wanted * BLOCK);
        let report = resize.wait(soon())?;
        let up = wanted.saturating_sub(last) as u32;
        let down = last.saturating_sub(wanted) as u32;
        assert_eq!((report.plugged, report.unplugged), (up, down));
        assert!(matches!(resize.state(), ResizeState::Done(r) if r == report));
        assert_eq!(resizer.size(), size(wanted, wanted));
        // The lowest are plugged.
        let there: Vec<u32> = blocks.region.plugged().iter().map(|b| b.0).collect();
        assert!(there.iter().copied().eq(0..wanted as u32), "{there:?}");
        last = wanted;
    }
    drop(resizer);
    before.assert_again("after the resizer", || Picture::of(&blocks));
    Ok(())
}

fn refuses() -> Outcome {
    let blocks = Blocks::new(BLOCK, 2)?;
    let resizer = Resizer::new(blocks.region.clone())?;
    let first = resizer.request(BLOCK, ResizeOptions::default())?;
    for bytes in [1, BLOCK + 4096, 3 * BLOCK, u64::MAX] {
        let error = resizer
            .request(bytes, ResizeOptions::default())
            .unwrap_err();
        assert!(matches!(error, HotplugError::BadSize { .. }), "{error}");
        assert!(
            error
                .to_string()
                .contains("multiple of the block size, 65536")
        );
    }
    // What was asked before goes on.
    first.wait(soon())?;
    assert_eq!(resizer.size().requested, BLOCK);
    Ok(())
}

/// A guest that has joined and gives nothing back.
fn join(blocks: &Blocks) -> Outcome {
    Ok(blocks
        .controller
        .write(abi::hotplug::JOIN, &1_u64.to_le_bytes())?)
}

fn leave(blocks: &Blocks) -> Outcome {
    Ok(blocks
        .controller
        .write(abi::hotplug::JOIN, &0_u64.to_le_bytes())?)
}

fn gives_way() -> Outcome {
    let blocks = Blocks::new(BLOCK, 8)?;
    let resizer = Resizer::new(blocks.region.clone())?;
    join(&blocks)?;
    let usual = ResizeOptions::default();
    resizer.request(4 * BLOCK, usual)?.wait(soon())?;
    let down = resizer.request(BLOCK, usual)?;
    until("it asks", || {
        blocks.controller.phase(1) == BlockPhase::AskedBack
    });
    let early = down.wait(Instant::now() + Duration::from_millis(5));
    match early {
        Err(ResizeError::TimedOut { size }) => {
            assert_eq!((size.requested, size.plugged), (BLOCK, 4 * BLOCK));
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(down.state(), ResizeState::Underway));
    // Up instead, while it waits for the guest.
    let up = resizer.request(6 * BLOCK, usual)?;
    let report = up.wait(soon())?;
    assert_eq!((report.plugged, report.unplugged), (2, 0));
    let down = down.wait(soon());
    assert!(matches!(down, Err(ResizeError::Superseded)), "{down:?}");
    // The guest answers at last, and is offered again what it was asked for.
    leave(&blocks)?;
    for block in 0..6 {
        assert_eq!(
            blocks.controller.phase(block),
            BlockPhase::Offered,
            "{block}"
        );
    }
    Ok(())
}

/// An unplug that waits for the guest looks at the region for whether to go on, as often
/// as a resize asks and withdraws: neither waits for the other.
fn beside_a_cancel_that_looks() -> Outcome {
    let blocks = Blocks::new(BLOCK, 4)?;
    let resizer = Resizer::new(blocks.region.clone())?;
    join(&blocks)?;
    let usual = ResizeOptions::default();
    resizer.request(4 * BLOCK, usual)?.wait(soon())?;
    let over = Arc::new(AtomicBool::new(false));
    let (done, is_done) = mpsc::channel();
    let (region, is_over, asked) = (blocks.region.clone(), over.clone(), done.clone());
    // Not joined: they would hang with what they do.
    thread::spawn(move || {
        let cancelled = || region.plugged().is_empty() || is_over.load(Relaxed);
        let consent = Consent::Asked {
            deadline: Instant::now() + Duration::from_secs(600),
            cancelled: &cancelled,
        };
        let refused = matches!(
            region.unplug(0, consent, None),
            Err(HotplugError::NotReleased(_))
        );
        let _ = asked.send(refused);
    });
    until("it asks", || {
        blocks.controller.phase(0) == BlockPhase::AskedBack
    });
    let region = blocks.region.clone();
    thread::spawn(move || {
        let mut good = true;
        for round in 0..20_000 {
            let wanted = if round % 2 == 0 { 1 } else { 4 };
            good &= resizer.request(wanted * BLOCK, usual).is_ok();
            if round % 64 == 0 {
                thread::sleep(Duration::from_micros(200));
            }
        }
        over.store(true, Relaxed);
        region.wake();
        drop(resizer);
        let _ = done.send(good);
    });
    for _ in 0..2 {
        let good = is_done.recv_timeout(Duration::from_secs(60));
        assert!(good.map_err(|_| "they wait for each other")?);
    }
    Ok(())
}

fn tells_why() -> Outcome {
    let blocks = Blocks::new(BLOCK, 8)?;
    let resizer = Resizer::new(blocks.region.clone())?;
    join(&blocks)?;
    let hasty = ResizeOptions {
        patience: Duration::from_millis(20),
        ..ResizeOptions::default()
    };
    resizer.request(4 * BLOCK, hasty)?.wait(soon())?;
    let failed = |resize: gracefault::hotplug::Resize| match resize.wait(soon()) {
        Err(ResizeError::Failed(error)) => error,
        other => panic!("{other:?}"),
    };
    // The guest does not answer.
    let error = failed(resizer.request(0, hasty)?);
    assert!(matches!(*error, HotplugError::NotReleased(_)), "{error}");
    assert_eq!(resizer.size().plugged, 4 * BLOCK);
    // By force: one out; then a reader holds the next for as long as it likes.
    let forced = ResizeOptions {
        forced: true,
        ..hasty
    };
    let report = resizer.request(3 * BLOCK, forced)?.wait(soon())?;
    assert_eq!(report.unplugged, 1);
    let gpa = blocks.region.block_range(2).start();
    let guard = blocks.space.mm().lock_vma_under_rcu_wait(gpa)?;
    let error = failed(resizer.request(0, forced)?);
    assert!(error.to_string().contains("held by"), "{error}");
    assert_eq!(resizer.size().plugged, 3 * BLOCK);
    drop(guard);
    let report = resizer.request(0, forced)?.wait(soon())?;
    assert_eq!(report.unplugged, 3);
    // The guest has not acknowledged that they are gone: blocks 4 to 7 can be had,
    // and one more cannot.
    let error = failed(resizer.request(5 * BLOCK, hasty)?);
    assert!(matches!(*error, HotplugError::Resting { .. }), "{error}");
    assert_eq!(resizer.size().plugged, 4 * BLOCK);
    leave(&blocks)?;
    let report = resizer.request(5 * BLOCK, hasty)?.wait(soon())?;
    assert_eq!(report.plugged, 1);
    Ok(())
}

fn ends() -> Outcome {
    let blocks = Blocks::new(BLOCK, 8)?;
    let resizer = Resizer::new(blocks.region.clone())?;
    join(&blocks)?;
    let up = resizer.request(4 * BLOCK, ResizeOptions::default())?;
    up.wait(soon())?;
    let patient = ResizeOptions {
        patience: Duration::from_secs(600),
        ..ResizeOptions::default()
    };
    let down = resizer.request(0, patient)?;
    until("it asks", || {
        blocks.controller.phase(3) == BlockPhase::AskedBack
    });
    let limit = soon();
    drop(resizer);
    assert!(Instant::now() < limit, "it waits for no guest");
    let ended = down.wait(soon());
    assert!(matches!(ended, Err(ResizeError::Dropped)), "{ended:?}");
    assert!(up.wait(soon()).is_ok(), "what was done is done");
    assert_eq!(blocks.region.plugged().len(), 4);
    Ok(())
}

fn beside_others() -> Outcome {
    let blocks = Blocks::new(4096, 32)?;
    let resizer = Resizer::new(blocks.region.clone())?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| -> Outcome {
        let other = scope.spawn(|| {
            let mut random = fastrand::Rng::with_seed(5);
            let mut changes = 0;
            while !done.load(Relaxed) {
                let block = random.u32(0..32);
                let changed = match random.bool() {
                    true => blocks.region.plug(block, BlockKind::Cooperative).is_ok(),
                    false => blocks.region.unplug(block, Consent::Surprise, None).is_ok(),
                };
                changes += u32::from(changed);
                thread::sleep(Duration::from_micros(300));
            }
            changes
        });
        let run = || -> Outcome {
            for round in 0..100 {
                let wanted = [24, 8][round % 2] * 4096;
                resizer
                    .request(wanted, ResizeOptions::default())?
                    .wait(soon())?;
            }
            Ok(())
        };
        let result = run();
        done.store(true, Relaxed);
        println!(
            "100 resizes beside {} changes",
            other.join().expect("no panic")
        );
        result
    })?;
    // Nothing is left in between: now it is exact.
    for wanted in [32, 0] {
        let resize = resizer.request(wanted * 4096, ResizeOptions::default())?;
        resize.wait(soon())?;
        assert_eq!(blocks.region.plugged().len(), wanted as usize);
    }
    Ok(())
}

/// The built-in guest writes and verifies in what it is offered, and gives it back.
fn running_machine() -> Outcome {
    let config = MachineConfig {
        memory: MemoryConfig {
            hotplug_size: 32 << 20,
            ..MemoryConfig::default()
        },
        workload: abi::Workload::Memory,
        churn: false,
        duration: Duration::from_secs(100),
        timeout: Duration::from_secs(120),
        ..MachineConfig::default()
    };
    let machine = Machine::new(config, Box::new(sink()))?;
    let resizer = Resizer::new(Arc::clone(machine.hotplug()))?;
    let stop = StopRequest::new();
    let report = thread::scope(|scope| {
        let run = scope.spawn(|| machine.run(&stop, &mut |_| ()));
        let resized = || -> Result<(u32, u32), String> {
            let (mut plugged, mut unplugged) = (0, 0);
            for mib in [32, 8, 20, 0, 16, 2] {
                let resize = resizer.request(mib << 20, ResizeOptions::default());
                let resize = resize.map_err(|e| e.to_string())?;
                let report = resize.wait(soon()).map_err(|e| e.to_string())?;
                plugged += report.plugged;
                unplugged += report.unplugged;
                // Let the guest use what it has.
                thread::sleep(Duration::from_millis(20));
            }
            Ok((plugged, unplugged))
        };
        let resized = resized();
        stop.now();
        let report = run.join().expect("no panic");
        assert_eq!(resized, Ok((16 + 6 + 8, 12 + 10 + 7)));
        report
    })?;
    assert_eq!(report.verdict, Verdict::Stopped, "{:?}", report.findings);
    println!("{:?}", report.guest);
    assert!(
        report
            .guest
            .is_some_and(|guest| guest.blocks_taken > 0 && guest.mismatches == 0)
    );
    Ok(())
}
