//! Drains that last.

use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use super::super::{DrainReport, LockOptions, OnSlow, Strategy, WriteError};
use super::*;

/// "Last reader leaving while the writer goes to sleep": no slice of sleep is short
/// enough here to end the drain, the reader's ring is what does.
#[test]
fn the_last_reader_wakes_the_writer() {
    let mm = Space::starting_at("patient", range(0, 1 << 20), Strategy::Native, 0, patient());
    mm.map(page(1), RAM, 0, Tag(1)).unwrap();
    let guard = mm.lock_vma_under_rcu(at(1)).unwrap();
    thread::scope(|scope| {
        let writer = scope.spawn(|| mm.unmap(page(1), None).unwrap());
        until(|| mm.core.bell.is_sleeping());
        drop(guard);
        assert_eq!(writer.join().unwrap().drain.holders.len(), 1);
    });
    assert_eq!(mm.stats().drains, 1);
}

#[test]
fn a_deadline_fails_cleanly_and_names_the_holder() {
    let mm = space_with([1]);
    let guard = mm.lock_vma_under_rcu(at(1)).unwrap();
    thread::scope(|scope| {
        let soon = Instant::now() + Duration::from_millis(2);
        let mm = &mm;
        let writer = scope.spawn(move || mm.unmap(page(1), Some(soon)).map(|_| ()));
        let Err(WriteError::TimedOut { report }) = writer.join().unwrap() else {
            panic!("it is held");
        };
        assert_eq!(report.holders.len(), 1);
        assert_eq!(report.holders[0].addr, at(1));
    });
    assert_eq!(guard.payload(), &Tag(1));
    drop(guard);
    assert_eq!(mm.unmap(page(1), None).unwrap().removed.len(), 1);
}

/// "A drain that lasts": told after a while, and again, who is there; and while it is told, nothing is
/// locked: what is to be removed may be looked up.
#[test]
fn a_drain_that_lasts_names_who_holds() {
    let mm = space_with([1, 2]);
    let (held, go) = mpsc::channel();
    let (done, wait) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let space = &mm;
        let disk = thread::Builder::new().name("disk".into());
        let disk = disk.spawn_scoped(scope, move || {
            let one = space.lock_vma_under_rcu(at(1)).unwrap();
            held.send(()).unwrap();
            wait.recv().unwrap();
            drop(one);
        });
        go.recv().unwrap();
        let mut told = Vec::new();
        let mut call = |report: &DrainReport| {
            let looked = thread::scope(|scope| {
                let look = || space.lock_vma_under_rcu_wait(at(2)).unwrap().is_some();
                scope.spawn(look).join().unwrap()
            });
            assert!(looked && space.lock_vma_under_rcu(at(2)).is_some());
            told.push(report.clone());
            if told.len() == 2 {
                done.send(()).unwrap();
            }
        };
        let mut section = mm.mmap_write_lock().unwrap();
        section.unmap(range(at(1), 0x2000)).unwrap();
        let options = LockOptions {
            deadline: None,
            on_slow: Some(OnSlow {
                after: Duration::from_millis(1),
                call: &mut call,
            }),
        };
        let published = section.lock_with(options).unwrap().publish();
        assert!(published.rounds > 2);
        disk.unwrap().join().unwrap();
        assert!(told[0].waited >= Duration::from_millis(1));
        assert!(told[1].waited > told[0].waited);
        for report in &told[..2] {
            assert_eq!(report.holders.len(), 1, "only who is there now");
            assert_eq!(
                (&*report.holders[0].thread, report.holders[0].addr),
                ("disk", at(1))
            );
        }
    });
}

/// The section is given up, and the numbers go on from where they were.
#[test]
fn a_panic_of_who_is_told_gives_the_section_up() {
    let mm = space_with([1]);
    let pin = mm.lock_vma_under_rcu(at(1)).unwrap().pin();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut section = mm.mmap_write_lock().unwrap();
        section.unmap(page(1)).unwrap();
        let options = LockOptions {
            deadline: None,
            on_slow: Some(OnSlow {
                after: Duration::from_millis(30),
                call: &mut |_| panic!("told"),
            }),
        };
        let _ = section.lock_with(options);
    }));
    assert!(outcome.is_err());
    assert!(mm.lock_vma_under_rcu(at(1)).is_some(), "not locked");
    drop(pin);
    let section = mm.mmap_write_lock().unwrap();
    assert!(section.number() > 5, "more than one round was there before");
}

/// A holds 1 and waits, by means the map cannot know, for B, which waits for 2;
/// the writer wants both. Rounds let B in.
#[test]
fn a_hold_and_wait_nobody_foresaw_is_no_hang() {
    let mm = space_with([1, 2]);
    let (done, wait) = mpsc::channel();
    let (held, go) = mpsc::channel();
    thread::scope(|scope| {
        let space = &mm;
        scope.spawn(move || {
            let one = space.lock_vma_under_rcu(at(1)).unwrap();
            held.send(()).unwrap();
            wait.recv().unwrap();
            drop(one);
        });
        go.recv().unwrap();
        let writer = scope.spawn(|| mm.unmap(range(at(1), 0x2000), None).unwrap());
        until(|| mm.core.bell.is_sleeping());
        scope.spawn(|| {
            let two = mm.lock_vma_under_rcu_wait(at(2)).unwrap().unwrap();
            assert_eq!(two.payload(), &Tag(2));
            done.send(()).unwrap();
        });
        let published = writer.join().unwrap();
        assert!(published.rounds > 1);
        assert_eq!(mm.stats().drain_rounds, published.rounds - 1);
    });
}

/// Side effects have failed: one VMA is another now, one is as it was, and who waited
/// finds them.
#[test]
fn a_section_does_something_else_instead() {
    let mm = patient_space_with([1, 2, 4]);
    let before = mm.vmas(range(0, 1 << 20));
    let mut section = mm.mmap_write_lock().unwrap();
    section.unmap(range(at(1), 2 << 12)).unwrap();
    section.map(page(3), RAM, 0, Tag(3)).unwrap();
    let drained = section.lock().unwrap();
    thread::scope(|scope| {
        let readers = [1, 2].map(|number| {
            let mm = &mm;
            scope.spawn(move || {
                let guard = mm.lock_vma_under_rcu_wait(at(number)).unwrap().unwrap();
                (guard.payload().clone(), guard.flags())
            })
        });
        let asleep = || mm.waiters().len() == 2;
        until(asleep);
        let published =
            drained.publish_instead(|vma| (vma.range() == page(1)).then_some((ROM, Tag(7))));
        assert_eq!(published.removed.len(), 0);
        let replaced: Vec<_> = published.replaced.iter().map(|vma| vma.range()).collect();
        assert_eq!(replaced, [page(1)]);
        let found = readers.map(|reader| reader.join().unwrap());
        assert_eq!(found, [(Tag(7), ROM), (Tag(2), RAM)]);
    });
    let after = mm.vmas(range(0, 1 << 20));
    assert_eq!(after.len(), 3, "what was planned is not there");
    assert_eq!(after[1..], before[1..]);
    assert!(after[0].generation > before[0].generation);
    // All are unlocked, and go as ever.
    assert_eq!(mm.unmap(range(0, 1 << 20), None).unwrap().removed.len(), 3);
    // With nothing instead, nothing has happened.
    let mm = space_with([1]);
    let before = mm.vmas(page(1));
    let mut section = mm.mmap_write_lock().unwrap();
    section.unmap(page(1)).unwrap();
    section.lock().unwrap().publish_instead(|_| None);
    assert_eq!(mm.vmas(page(1)), before);
}
