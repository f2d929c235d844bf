//! What an adversarial review found: each of these failed or hung before.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::Instant;

use super::super::{LookupError, Strategy, WriteError};
use super::*;

/// `WriteSection::lock` that fails with `HoldsGuard` drops the plan before the map
/// lock: a `Drop` of a payload that uses the map finds the lock taken by itself.
#[test]
fn a_refused_lock_gives_the_map_lock_up_before_it_drops_payloads() {
    #[derive(Clone)]
    struct Looks(Arc<OnceLock<Arc<AddressSpace<Looks>>>>, Arc<AtomicBool>);
    impl Payload for Looks {}
    impl Drop for Looks {
        fn drop(&mut self) {
            if let Some(mm) = self.0.get() {
                self.1
                    .fetch_and(!mm.core.writer.map_lock.is_mine(), Ordering::Relaxed);
            }
        }
    }
    let cell = Arc::new(OnceLock::new());
    let ok = Arc::new(AtomicBool::new(true));
    let mm = Arc::new(AddressSpace::new("drops", range(0, 1 << 20)));
    mm.map(page(1), RAM, 0, Looks(cell.clone(), ok.clone()))
        .unwrap();
    assert!(cell.set(mm.clone()).is_ok());
    let mut section = mm.mmap_write_lock().unwrap();
    section
        .map(page(8), RAM, 0, Looks(cell.clone(), ok.clone()))
        .unwrap();
    section.unmap(page(1)).unwrap();
    let guard = mm.lock_vma_under_rcu(at(1)).unwrap();
    assert_eq!(section.lock().map(|_| ()), Err(WriteError::HoldsGuard));
    drop(guard);
    assert!(ok.load(Ordering::Relaxed), "dropped with the map lock held");
}

/// Holds longer than the first rounds, by two threads: every round lets one
/// in before the other is out, and the drain never ends.
#[test]
fn rounds_that_stop_growing_starve_the_writer() {
    let pace = Pace {
        round: Duration::from_millis(2),
        ..Pace::default()
    };
    let mm = Space::starting_at("rounds", range(0, 1 << 20), Strategy::Native, 0, pace);
    mm.map(page(1), RAM, 0, Tag(1)).unwrap();
    let stop = AtomicBool::new(false);
    let holds = AtomicU64::new(0);
    thread::scope(|scope| {
        for i in 0..4 {
            let (mm, stop, holds) = (&mm, &stop, &holds);
            scope.spawn(move || {
                thread::sleep(Duration::from_millis(10 * i));
                while !stop.load(Ordering::Relaxed) {
                    if let Some(_vma) = mm.lock_vma_under_rcu_wait(at(1)).unwrap() {
                        holds.fetch_add(1, Ordering::Relaxed);
                        thread::sleep(Duration::from_millis(30));
                    }
                }
            });
        }
        until(|| holds.load(Ordering::Relaxed) >= 4);
        let began = Instant::now();
        // 100 times as long as any hold lasts.
        let result = mm.unmap(page(1), Some(began + Duration::from_secs(3)));
        stop.store(true, Ordering::Relaxed);
        eprintln!("{:?} {:?}", began.elapsed(), mm.stats());
        assert!(result.is_ok(), "starved");
    });
}

/// The deadline of `unmap` does not cover the wait for the map lock.
#[test]
fn unmap_with_a_deadline_fails_in_time_behind_another_writer() {
    let mm = space_with([1, 2]);
    let guard = mm.lock_vma_under_rcu(at(1)).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| mm.unmap(page(1), None).unwrap());
        until(|| mm.core.bell.is_sleeping());
        let (sent, done) = mpsc::channel();
        let there = mm.clone();
        scope.spawn(move || {
            let soon = Instant::now() + Duration::from_millis(5);
            let _ = there.unmap(page(2), Some(soon));
            let _ = sent.send(());
        });
        let in_time = done.recv_timeout(Duration::from_secs(1)).is_ok();
        drop(guard);
        assert!(in_time, "200 times the deadline");
    });
}

/// Readers of the map lock that overlap keep a writer out for ever.
#[test]
fn map_readers_do_not_starve_writers() {
    let mm = space_with([1]);
    let stop = AtomicBool::new(false);
    let (sent, done) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let map = mm.mmap_read_lock().unwrap();
                    thread::sleep(Duration::from_millis(2));
                    drop(map);
                }
            });
        }
        thread::sleep(Duration::from_millis(20));
        let there = mm.clone();
        scope.spawn(move || {
            there.map(page(2), RAM, 0, Tag(2)).unwrap();
            let _ = sent.send(());
        });
        let in_time = done.recv_timeout(Duration::from_secs(3)).is_ok();
        stop.store(true, Ordering::Relaxed);
        assert!(in_time, "starved");
    });
}

/// A reader far from the write set, but between its ends, while a writer sleeps.
#[test]
fn a_sleeping_writer_costs_strangers_nothing() {
    let mm = space_with([1, 500, 1000]);
    let run = || {
        let n = 200_000_u32;
        let began = Instant::now();
        for _ in 0..n {
            drop(mm.lock_vma_under_rcu_wait(at(500)).unwrap());
        }
        began.elapsed() / n
    };
    // The best of a few: other programs run too.
    let run = || (0..5).map(|_| run()).min().unwrap();
    let alone = run();
    let guard = mm.lock_vma_under_rcu(at(1)).unwrap();
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut section = mm.mmap_write_lock().unwrap();
            section.unmap(page(1)).unwrap();
            section.unmap(page(1000)).unwrap();
            section.lock().unwrap().publish();
        });
        until(|| mm.core.bell.is_sleeping());
        let beside = run();
        drop(guard);
        writer.join().unwrap();
        // It was a hundred times as much.
        assert!(
            beside < 20 * alone.max(Duration::from_nanos(1)),
            "{beside:?}, alone {alone:?}"
        );
    });
}

/// Map lock taken twice by one thread.
#[test]
fn the_map_lock_inside_itself_is_an_error_and_no_hang() {
    let mm = space_with([1]);
    let section = mm.mmap_write_lock().unwrap();
    let read = mm.mmap_read_lock().map(|_| ());
    assert_eq!(read, Err(LookupError::OwnWriteSection));
    drop(section);
    let map = mm.mmap_read_lock().unwrap();
    let write = mm.mmap_write_lock().map(|_| ());
    assert_eq!(write, Err(WriteError::HoldsGuard));
    thread::scope(|scope| {
        let writer = scope.spawn(|| mm.unmap(page(1), None).unwrap());
        until(|| mm.core.writer.map_lock.is_waited_for());
        // Also past a writer that waits: it waits for this thread.
        drop(mm.mmap_read_lock().unwrap());
        drop(map);
        writer.join().unwrap();
    });
}

/// Steps over what the plan has already taken out cost as much as there is of it.
#[test]
fn planning_is_not_quadratic() {
    let time = |n: u64| {
        let mm = space();
        let mut section = mm.mmap_write_lock().unwrap();
        for i in 0..n {
            section.map(page(i), RAM, 0, Tag(i)).unwrap();
        }
        section.lock().unwrap().publish();
        let began = Instant::now();
        let mut section = mm.mmap_write_lock().unwrap();
        section.unmap(range(0, at(n))).unwrap();
        for i in 0..n {
            section.map(page(i), ROM, 0, Tag(i)).unwrap();
        }
        section.lock().unwrap().publish();
        began.elapsed()
    };
    // The best of a few: other programs run too.
    let time = |n| (0..3).map(|_| time(n)).min().unwrap();
    // Sixteen times as many cost some thirty times as much, since they are not in the
    // caches, or else 256 times.
    let (small, large) = (time(1000), time(16_000));
    assert!(large < 120 * small, "1000: {small:?}, 16 000: {large:?}");
}

/// What `publish_instead` asks panics: what it has said so far, what was planned and what
/// it has itself are dropped when the map lock is given up, so that all of it may use
/// the map.
#[test]
fn a_panic_instead_gives_the_map_lock_up_before_it_drops_payloads() {
    #[derive(Clone)]
    struct Looks(Arc<OnceLock<Arc<AddressSpace<Looks>>>>, Arc<AtomicUsize>);
    impl Payload for Looks {}
    impl Drop for Looks {
        fn drop(&mut self) {
            if let Some(mm) = self.0.get()
                && mm.core.writer.map_lock.is_mine()
            {
                self.1.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    let (cell, early) = (Arc::new(OnceLock::new()), Arc::new(AtomicUsize::new(0)));
    let looks = || Looks(cell.clone(), early.clone());
    let mm = Arc::new(AddressSpace::new("drops", range(0, 1 << 20)));
    for number in [1, 2] {
        mm.map(page(number), RAM, 0, looks()).unwrap();
    }
    assert!(cell.set(mm.clone()).is_ok());
    let before = mm.vmas(mm.range());
    let mut section = mm.mmap_write_lock().unwrap();
    section.unmap(range(at(1), 0x2000)).unwrap();
    section.map(page(4), RAM, 0, looks()).unwrap();
    let drained = section.lock().unwrap();
    let mut has = Some(looks());
    let captured = looks();
    let ended = catch_unwind(AssertUnwindSafe(|| {
        drained.publish_instead(move |_| {
            let _ = &captured;
            let said = has.take();
            Some((
                ROM,
                said.unwrap_or_else(|| resume_unwind(Box::new("a caller's"))),
            ))
        })
    }));
    assert!(ended.is_err());
    assert_eq!(
        early.load(Ordering::Relaxed),
        0,
        "dropped under the map lock"
    );
    assert_eq!(mm.vmas(mm.range()), before);
    mm.unmap(mm.range(), None).unwrap();
}
