//! What every strategy promises, and what each declares. A test runs for all of
//! them, and asks of each what it says it can.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use super::super::{KillFlag, LookupError, LookupPath, Strategy, WaitOptions, WriteError};
use super::*;

fn space_by(strategy: Strategy, pages: impl IntoIterator<Item = u64>) -> Arc<Space> {
    let mm = AddressSpace::with_strategy(strategy.name(), range(0, 1 << 40), strategy);
    for number in pages {
        mm.map(page(number), RAM, 0, Tag(number)).unwrap();
    }
    Arc::new(mm)
}

/// Waits until a writer waits for a reader.
fn until_a_writer_waits(mm: &Space) {
    until(|| mm.core.bell.is_sleeping() || mm.core.writer.map_lock.is_waited_for());
}

fn replace(mm: &Space, number: u64, flags: VmFlags) {
    let mut section = mm.mmap_write_lock().unwrap();
    section.protect(page(number), flags).unwrap();
    section.lock().unwrap().publish();
}

#[test]
fn names_and_declarations() {
    for strategy in Strategy::ALL {
        assert_eq!(strategy.to_string().parse(), Ok(strategy));
        assert_eq!(space_by(strategy, []).strategy(), strategy);
    }
    assert!("nativ".parse::<Strategy>().is_err());
    let native = AddressSpace::<Tag>::new("plain", range(0, 1 << 40)).strategy();
    assert_eq!(native, Strategy::default());
    let can = native.capabilities();
    assert!(can.nests && can.is_bounded && can.is_killable && can.names_holders);
    assert!(!can.waits_for_strangers);
}

#[test]
fn no_false_none_and_stable() {
    for strategy in Strategy::ALL {
        let mm = space_by(strategy, [1, 2]);
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for number in [1, 1, 2] {
                let (mm, stop) = (&mm, &stop);
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let vma = mm.lock_vma_under_rcu_wait(at(number)).unwrap().unwrap();
                        let before = (vma.generation(), vma.flags());
                        thread::yield_now();
                        assert_eq!((vma.generation(), vma.flags()), before);
                        assert_eq!(vma.payload(), &Tag(number));
                    }
                });
            }
            for round in 0..500 {
                replace(&mm, 1, if round % 2 == 0 { ROM } else { RAM });
                mm.map(page(3), RAM, 0, Tag(3)).unwrap();
                mm.unmap(page(3), None).unwrap();
            }
            stop.store(true, Ordering::Relaxed);
        });
        mm.unmap(range(0, 1 << 40), None).unwrap();
        assert_eq!(mm.core.retired(), 0, "{strategy}");
    }
}

#[test]
fn unmap_waits_for_the_holder() {
    for strategy in Strategy::ALL {
        let mm = space_by(strategy, [1, 2]);
        let gone = AtomicBool::new(false);
        let guard = mm.lock_vma_under_rcu_wait(at(1)).unwrap().unwrap();
        thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let done = mm.unmap(page(1), None).unwrap();
                gone.store(true, Ordering::Relaxed);
                done.drain
            });
            until_a_writer_waits(&mm);
            for _ in 0..100 {
                thread::yield_now();
                assert!(!gone.load(Ordering::Relaxed), "{strategy}");
                assert_eq!(guard.payload(), &Tag(1));
            }
            drop(guard);
            let holders = writer.join().unwrap().holders;
            let named = strategy.capabilities().names_holders;
            assert_eq!(!holders.is_empty(), named, "{strategy}: {holders:?}");
        });
        assert!(mm.lock_vma_under_rcu_wait(at(1)).unwrap().is_none());
    }
}

#[test]
fn a_wait_that_is_called_back_leaves_no_trace() {
    for strategy in Strategy::ALL {
        let mm = space_by(strategy, [1]);
        let mut section = mm.mmap_write_lock().unwrap();
        section.unmap(page(1)).unwrap();
        let drained = section.lock().unwrap();
        let kill = KillFlag::new();
        let look = |deadline, kill| {
            let mut path = LookupPath::default();
            let options = WaitOptions { deadline, kill };
            let outcome = mm.lock_vma_under_rcu_wait_with(at(1), options, &mut path);
            assert!(path.waited.is_some());
            outcome.map(|_| ()).unwrap_err()
        };
        thread::scope(|scope| {
            let late = scope.spawn(|| look(Some(Instant::now()), None));
            assert_eq!(late.join().unwrap(), LookupError::TimedOut, "{strategy}");
            let can = strategy.capabilities().is_killable;
            if !can {
                // Looked at before the wait, at least.
                kill.raise();
            }
            let killed = scope.spawn(|| look(None, Some(&kill)));
            until(|| mm.stats().lookup_wait == 2);
            if can {
                kill.raise();
            }
            assert_eq!(killed.join().unwrap(), LookupError::Killed, "{strategy}");
        });
        drop(drained);
        assert_eq!(mm.unmap(page(1), None).unwrap().drain.holders, []);
    }
}

#[test]
fn nested_beside_a_writer_of_both() {
    let able = Strategy::ALL.into_iter().filter(|s| s.capabilities().nests);
    for strategy in able {
        let mm = space_by(strategy, [1, 2]);
        let first = mm.lock_vma_under_rcu(at(1)).unwrap();
        thread::scope(|scope| {
            let writer = scope.spawn(|| mm.unmap(range(at(1), 0x2000), None).unwrap());
            until_a_writer_waits(&mm);
            let mut path = LookupPath::default();
            let options = WaitOptions::default();
            let second = mm.lock_vma_under_rcu_wait_with(at(2), options, &mut path);
            assert!(path.nested && path.waited.is_none(), "{strategy}");
            drop(first);
            assert_eq!(second.unwrap().unwrap().payload(), &Tag(2));
            assert_eq!(writer.join().unwrap().removed.len(), 2);
        });
    }
}

/// Holding several is for all of them, where no writer wants any.
#[test]
fn several_at_once() {
    for strategy in Strategy::ALL {
        let mm = space_by(strategy, 0..20);
        let mut held: Vec<_> = (0..20).map(|n| mm.lock_vma_under_rcu(at(n))).collect();
        assert!(held.iter().all(Option::is_some), "{strategy}");
        assert_eq!(mm.mmap_write_lock().unwrap_err(), WriteError::HoldsGuard);
        held.swap_remove(3);
        held.clear();
        assert_eq!(mm.unmap(range(0, 1 << 20), None).unwrap().removed.len(), 20);
    }
}

#[test]
fn one_sleep_where_it_is_bounded() {
    for strategy in Strategy::ALL {
        let mm = space_by(strategy, [1]);
        let mut section = mm.mmap_write_lock().unwrap();
        section.protect(page(1), ROM).unwrap();
        let drained = section.lock().unwrap();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let mut path = LookupPath::default();
                let options = WaitOptions::default();
                let vma = mm.lock_vma_under_rcu_wait_with(at(1), options, &mut path);
                assert!(vma.unwrap().is_some());
                done.store(true, Ordering::Relaxed);
                path
            });
            until(|| mm.stats().lookup_wait == 1);
            drained.publish();
            // A writer without rest.
            while !done.load(Ordering::Relaxed) {
                replace(&mm, 1, RAM.union(VmFlags::EXEC));
                replace(&mm, 1, RAM);
            }
            let path = waiter.join().unwrap();
            let stats = mm.stats();
            assert_eq!(u64::from(path.retries), stats.lookup_retry, "{strategy}");
            assert_eq!(path.retries > 0, strategy == Strategy::Retry);
            if strategy.capabilities().is_bounded {
                assert_eq!(stats.lookup_wait, 1, "{strategy}");
            }
        });
    }
}

/// The one whose holds are the map lock: its readers are known by their threads.
#[test]
fn deadlines_and_nesting_by_the_map_lock() {
    let mm = space_by(Strategy::Rwlock, [1, 2]);
    let guard = mm.lock_vma_under_rcu_wait(at(1)).unwrap().unwrap();
    assert!(mm.mmap_read_lock().unwrap().vma_lookup(at(2)).is_some());
    thread::scope(|scope| {
        let soon = Instant::now() + Duration::from_millis(2);
        let space = &mm;
        let late = move || space.unmap(page(1), Some(soon)).map(|_| ());
        let late = scope.spawn(late).join().unwrap();
        assert_eq!(late, Err(WriteError::LockTimedOut));
        // Who wanted to read behind that one is not left waiting.
        let reader = scope.spawn(|| mm.lock_vma_under_rcu_wait(at(2)).unwrap().is_some());
        assert!(reader.join().unwrap());
    });
    drop(guard);
    let map = mm.mmap_read_lock().unwrap();
    thread::scope(|scope| {
        let writer = scope.spawn(|| mm.unmap(page(1), None).unwrap());
        until_a_writer_waits(&mm);
        assert!(mm.lock_vma_under_rcu_wait(at(1)).unwrap().is_some());
        drop(map);
        writer.join().unwrap();
    });
    // A reader that waits behind a writer which gives up goes in.
    let guard = mm.lock_vma_under_rcu_wait(at(2)).unwrap().unwrap();
    thread::scope(|scope| {
        let soon = Instant::now() + Duration::from_millis(50);
        let mm = &mm;
        let writer = scope.spawn(move || mm.unmap(page(2), Some(soon)).map(|_| ()));
        until_a_writer_waits(mm);
        let reader = scope.spawn(|| mm.lock_vma_under_rcu_wait(at(2)).unwrap().is_some());
        assert!(reader.join().unwrap());
        assert_eq!(writer.join().unwrap(), Err(WriteError::LockTimedOut));
    });
    drop(guard);
}

#[test]
fn a_writer_elsewhere() {
    for strategy in Strategy::ALL {
        let mm = space_by(strategy, [1, 2]);
        let mut section = mm.mmap_write_lock().unwrap();
        section.protect(page(2), ROM).unwrap();
        let drained = section.lock().unwrap();
        let look = || {
            let mut path = LookupPath::default();
            let options = WaitOptions::default();
            let vma = mm.lock_vma_under_rcu_wait_with(at(1), options, &mut path);
            assert!(vma.unwrap().is_some());
            path.waited.is_some()
        };
        thread::scope(|scope| {
            let reader = scope.spawn(look);
            if strategy == Strategy::Rwlock {
                assert!(strategy.capabilities().waits_for_strangers);
                until(|| mm.stats().lookup_wait == 1);
                drop(drained);
                assert!(reader.join().unwrap());
            } else {
                assert!(!reader.join().unwrap(), "{strategy}");
                drop(drained);
            }
        });
    }
}

#[test]
fn inside_its_own_section() {
    for strategy in Strategy::ALL {
        let mm = space_by(strategy, [1]);
        let mut section = mm.mmap_write_lock().unwrap();
        section.unmap(page(1)).unwrap();
        let drained = section.lock().unwrap();
        let inside = mm.lock_vma_under_rcu_wait(at(1)).unwrap_err();
        assert_eq!(inside, LookupError::OwnWriteSection, "{strategy}");
        assert!(mm.lock_vma_under_rcu(at(1)).is_none(), "{strategy}");
        drop(drained);
        assert!(mm.lock_vma_under_rcu(at(1)).is_some(), "{strategy}");
    }
}

#[test]
fn a_pin_is_waited_for_and_named() {
    for strategy in Strategy::ALL {
        let mm = space_by(strategy, [1]);
        let there = mm.clone();
        let named = thread::Builder::new().name("disk".into());
        let made = named.spawn(move || there.lock_vma_under_rcu(at(1)).unwrap().pin());
        let pin = made.unwrap().join().unwrap();
        let soon = Instant::now() + Duration::from_millis(1);
        let Err(WriteError::TimedOut { report }) = mm.unmap(page(1), Some(soon)) else {
            panic!("it is pinned");
        };
        assert_eq!(report.holders[0].thread, "disk", "{strategy}");
        let copy = pin.clone();
        drop(pin);
        assert_eq!(copy.payload(), &Tag(1));
        drop(copy);
        assert_eq!(mm.unmap(page(1), None).unwrap().drain.holders, []);
    }
}

#[test]
fn threads_reuse_records() {
    for strategy in Strategy::ALL {
        let mm = space_by(strategy, [1]);
        for _ in 0..4 {
            let there = mm.clone();
            thread::spawn(move || drop(there.lock_vma_under_rcu(at(1)).unwrap()))
                .join()
                .unwrap();
        }
        assert!(mm.core.registry.records().count() <= 2, "{strategy}");
    }
}

#[test]
fn walking_over_a_range_with_locks() {
    for strategy in Strategy::ALL {
        let mm = space_by(strategy, [1, 2, 5]);
        let (mut next, mut found) = (0, Vec::new());
        while let Some(vma) = mm.lock_next_vma(next).unwrap() {
            found.push(vma.payload().0);
            next = vma.range().last() + 1;
        }
        assert_eq!(found, [1, 2, 5], "{strategy}");
        assert_eq!(mm.vmas(range(0, 1 << 40)).len(), 3);
    }
}
