//! What an unplug waits for, tells, and leaves alone.
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use gracefault::devices::BlockPhase;
use gracefault::hotplug::{BlockKind, Consent, HotplugError};
use gracefault::mm::{AddrRange, WriteError};
use libtest_mimic::Trial;

use crate::support::blocks::{BLOCKS, Blocks, Picture, cooperator, status, stop};
use crate::support::{Outcome, kvm_test};

const BLOCK: u64 = 2 << 20;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test("unplug_waits_for_readers_and_names_them", waits),
        kvm_test("unplug_fails_cleanly_at_its_deadline", deadline),
        kvm_test("unplug_lets_a_guest_that_refuses_keep_the_block", refused),
        kvm_test("unplug_gives_the_memory_back", gives_back),
        kvm_test("plug_of_several_is_seen_at_once", several),
        kvm_test("unplug_of_several_is_all_or_nothing", all_or_nothing),
    ]
}

/// Runs `f` while a thread named "reader" holds block 0 read-locked, for as long as
/// `f` runs or until it asks the thread to let go.
fn beside_reader<R>(blocks: &Blocks, f: impl FnOnce(&mpsc::Sender<()>) -> R) -> R {
    thread::scope(|scope| {
        let (held, is_held) = mpsc::channel();
        let (let_go, must_let_go) = mpsc::channel();
        let body = move || {
            let gpa = blocks.region.block_range(0).start();
            let guard = blocks.space.mm().lock_vma_under_rcu_wait(gpa + 8);
            let guard = guard.expect("no section of ours").expect("plugged");
            held.send(()).expect("it is waited for");
            let _ = must_let_go.recv();
            drop(guard);
        };
        let reader = thread::Builder::new().name("reader".into());
        let reader = reader.spawn_scoped(scope, body).expect("a thread");
        is_held.recv().expect("the reader has it");
        let result = f(&let_go);
        drop(let_go);
        reader.join().expect("no panic");
        result
    })
}

fn waits() -> Outcome {
    let blocks = Blocks::new(BLOCK, 1)?;
    blocks.region.plug(0, BlockKind::Cooperative)?;
    let hold = Duration::from_millis(30);
    let report = beside_reader(&blocks, |let_go| {
        thread::scope(|scope| {
            let unplug = scope.spawn(|| blocks.region.unplug(0, Consent::Surprise, None));
            let at = blocks.region.block_range(0).start();
            while blocks.space.mm().lock_vma_under_rcu(at).is_some() {
                thread::yield_now();
            }
            thread::sleep(hold);
            assert!(!unplug.is_finished(), "it waits for the reader");
            let_go.send(()).expect("it holds it");
            unplug.join().expect("no panic")
        })
    })?;
    println!("{report:?}");
    let names: Vec<_> = report.drain.holders.iter().map(|h| &*h.thread).collect();
    // This thread's looks may have been met too.
    assert!(names.contains(&"reader"), "{names:?}");
    assert!(report.total >= report.drain.waited + report.kvm);
    assert!(report.unmap_error.is_none());
    Ok(())
}

fn deadline() -> Outcome {
    let blocks = Blocks::new(BLOCK, 2)?;
    blocks.region.plug_all(&[0, 1], BlockKind::Cooperative)?;
    let mut found = [0];
    beside_reader(&blocks, |_| -> Outcome {
        let before = Picture::of(&blocks);
        for _ in 0..3 {
            let soon = Some(Instant::now() + Duration::from_millis(5));
            let error = blocks.region.unplug(0, Consent::Surprise, soon);
            let error = error.expect_err("the reader stays");
            match &error {
                HotplugError::Map(WriteError::TimedOut { report }) => {
                    assert_eq!(report.holders[0].thread, "reader");
                }
                other => panic!("{other}"),
            }
            assert!(error.to_string().contains("\"reader\""), "{error}");
            assert_eq!(Picture::of(&blocks), before);
        }
        // Nor can it be read less for that, by whoever comes.
        blocks
            .space
            .read(blocks.region.block_range(0).start(), &mut found, None)?;
        // The reader stands in nobody else's way.
        blocks.region.unplug(1, Consent::Surprise, None)?;
        Ok(())
    })?;
    assert_eq!(found, [0]);
    blocks.region.unplug(0, Consent::Surprise, None)?;
    Ok(())
}

/// A guest that has joined and never answers; then one that does.
fn refused() -> Outcome {
    use gracefault::memory::Device;
    use gracefault_guest::abi;
    let blocks = Blocks::new(BLOCK, 1)?;
    let join = abi::hotplug::JOIN;
    blocks.controller.write(join, &1_u64.to_le_bytes())?;
    blocks.region.plug(0, BlockKind::Cooperative)?;
    let before = Picture::of(&blocks);
    let asked = |time| Consent::Asked {
        deadline: Instant::now() + time,
        cancelled: &|| false,
    };
    let error = blocks
        .region
        .unplug(0, asked(Duration::from_millis(5)), None);
    let error = error.expect_err("nobody answers");
    assert!(
        matches!(&error, HotplugError::NotReleased(e) if e.users == [0]),
        "{error}"
    );
    assert_eq!(Picture::of(&blocks), before);
    // It leaves, and others come: they are offered the block as if nothing had been.
    blocks.controller.write(join, &0_u64.to_le_bytes())?;
    assert_eq!(blocks.controller.phase(0), BlockPhase::Offered);
    let group = blocks.start(2, cooperator(), 4)?;
    let limit = Instant::now() + Duration::from_secs(60);
    while blocks.controller.phase(0) != BlockPhase::InUse && Instant::now() < limit {
        thread::sleep(Duration::from_millis(1));
    }
    blocks
        .region
        .unplug(0, asked(Duration::from_secs(60)), None)?;
    stop(group)?;
    Ok(())
}

fn gives_back() -> Outcome {
    let blocks = Blocks::new(BLOCK, 16)?;
    let all: Vec<u32> = (0..16).collect();
    let before = status()["VmRSS"];
    blocks.region.plug_all(&all, BlockKind::Cooperative)?;
    for block in &all {
        let range = blocks.region.block_range(*block);
        for page in (range.start()..=range.last()).step_by(4096) {
            blocks.space.write(page, &[1; 8], None)?;
        }
    }
    let touched = status()["VmRSS"];
    for block in &all {
        let report = blocks.region.unplug(*block, Consent::Surprise, None)?;
        assert!(report.unmap_error.is_none(), "{report:?}");
    }
    let after = status()["VmRSS"];
    println!("VmRSS {before} KiB, touched {touched}, after {after}");
    // The kernel's sum may be a little behind.
    let touchable = 16 * BLOCK / 1024;
    assert!(
        touched >= before + touchable * 95 / 100,
        "all of it was there"
    );
    let kept = after.saturating_sub(before);
    assert!(kept * 100 <= touched - before, "{kept} KiB were kept");
    Ok(())
}

/// A bare walk sees one version of the map: all blocks of a section, or none.
fn several() -> Outcome {
    let blocks = Blocks::new(4096, 8)?;
    let all: Vec<u32> = (0..8).collect();
    let range = AddrRange::new(BLOCKS, 8 * 4096).ok_or("a range")?;
    let there = || blocks.space.mm().vmas(range).len();
    let done = AtomicBool::new(false);
    // Odd while blocks are unplugged, which goes one by one.
    let turn = AtomicU64::new(0);
    let (none, some) = thread::scope(|scope| {
        let walker = scope.spawn(|| {
            let mut seen = (0_u64, 0_u64);
            while !done.load(SeqCst) {
                let (before, found) = (turn.load(SeqCst), there());
                if before % 2 == 1 || turn.load(SeqCst) != before {
                    continue;
                }
                match found {
                    0 => seen.0 += 1,
                    8 => seen.1 += 1,
                    n => panic!("{n} of 8 blocks"),
                }
            }
            seen
        });
        let run = || -> Outcome {
            for _ in 0..200 {
                // One that is not there, or is named twice, spoils all.
                for bad in [&[0, 8][..], &[1, 2, 1]] {
                    assert!(blocks.region.plug_all(bad, BlockKind::Volatile).is_err());
                    assert_eq!(there(), 0);
                }
                let report = blocks.region.plug_all(&all, BlockKind::Volatile)?;
                assert_eq!((report.blocks, there()), (8, 8));
                thread::sleep(Duration::from_micros(100));
                turn.fetch_add(1, SeqCst);
                for block in &all {
                    blocks.region.unplug(*block, Consent::Surprise, None)?;
                }
                turn.fetch_add(1, SeqCst);
            }
            Ok(())
        };
        let result = run();
        done.store(true, SeqCst);
        let seen = walker.join().expect("all or none");
        result.map(|()| seen)
    })?;
    println!("seen without them {none} times, with them {some} times");
    assert!(none > 0 && some > 0);
    Ok(())
}

/// One of three is held, or not plugged: all stay. Then all go, in one section.
fn all_or_nothing() -> Outcome {
    let blocks = Blocks::new(BLOCK, 4)?;
    let region = &blocks.region;
    region.plug_all(&[0, 1, 2], BlockKind::Cooperative)?;
    let before = blocks.space.mm().vmas(blocks.space.mm().range());
    let soon = || Some(Instant::now() + Duration::from_millis(20));
    let unplug = |which: &[u32], until| region.unplug_all(which, Consent::Surprise, until);
    let error = beside_reader(&blocks, |_| unplug(&[2, 1, 0], soon())).unwrap_err();
    let HotplugError::Map(WriteError::TimedOut { report }) = error else {
        panic!("{error}");
    };
    assert!(
        report
            .holders
            .iter()
            .all(|holder| holder.thread == "reader")
    );
    for (which, what) in [([0, 1, 3], "not plugged"), ([0, 1, 9], "no block 9")] {
        let error = unplug(&which, soon()).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
    assert_eq!(blocks.space.mm().vmas(blocks.space.mm().range()), before);
    assert_eq!(region.slots().len(), 3);
    let sections = blocks.space.mm().stats().sections;
    unplug(&[0, 2, 1], None)?;
    assert_eq!(blocks.space.mm().stats().sections, sections + 1);
    assert_eq!(region.plugged(), []);
    assert_eq!(region.absent(), [0, 1, 2, 3]);
    Ok(())
}
