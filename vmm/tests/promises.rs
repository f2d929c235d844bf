//! The promises of the map, one test each, by its public API alone: whatever is
//! inside has to keep them. No test looks at a clock but to end a hang.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use gracefault::mm::{
    AddrRange, AddressSpace, DrainReport, HoldKind, KillFlag, LockOptions, LookupError, LookupPath,
    OnSlow, Payload, VmFlags, WaitOptions, WriteError,
};

/// A number that says which mapping this is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tag(u64);
impl Payload for Tag {}

const PAGE: u64 = 0x1000;
const RW: VmFlags = VmFlags::READ.union(VmFlags::WRITE);

fn page(n: u64) -> AddrRange {
    AddrRange::new(n * PAGE, PAGE).unwrap()
}

/// A space of 1024 pages, those in `mapped` tagged with their numbers.
fn space(mapped: impl IntoIterator<Item = u64>) -> AddressSpace<Tag> {
    let mm = AddressSpace::new("test", AddrRange::new(0, 1024 * PAGE).unwrap());
    for n in mapped {
        mm.map(page(n), RW, 0, Tag(n)).unwrap();
    }
    mm
}

/// When a test that hangs gives up.
fn far() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn tag(mm: &AddressSpace<Tag>, n: u64) -> Option<u64> {
    mm.lock_vma_under_rcu_wait(n * PAGE)
        .unwrap()
        .map(|vma| vma.payload().0)
}

/// Replaces page `n` by one with another tag, in one section.
fn replace(mm: &AddressSpace<Tag>, n: u64, tag: u64) {
    let mut section = mm.mmap_write_lock().unwrap();
    section.unmap(page(n)).unwrap();
    section.map(page(n), RW, 0, Tag(tag)).unwrap();
    section.lock().unwrap().publish();
}

#[test]
fn promise_1_a_writer_at_work_is_never_a_reason_for_none() {
    let mm = space(0..4);
    let done = AtomicBool::new(false);
    thread::scope(|s| {
        for reader in 0..3 {
            let (mm, done) = (&mm, &done);
            s.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    assert!(
                        tag(mm, 1).is_some(),
                        "reader {reader}: page 1 was always mapped"
                    );
                    assert_eq!(tag(mm, 2), Some(2));
                    assert_eq!(tag(mm, 5), None);
                }
            });
        }
        for round in 0..2000 {
            replace(&mm, 1, round);
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn promise_2_what_a_guard_shows_does_not_change() {
    let mm = space([1]);
    let done = AtomicBool::new(false);
    let seen = AtomicU64::new(0);
    thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let vma = mm.lock_vma_under_rcu_wait(PAGE).unwrap().unwrap();
                    let (tag, generation) = (vma.payload().clone(), vma.generation());
                    thread::yield_now();
                    assert_eq!((vma.payload(), vma.generation()), (&tag, generation));
                    assert_eq!((vma.range(), vma.flags()), (page(1), RW));
                    seen.fetch_max(generation, Ordering::Relaxed);
                }
            });
        }
        let (mut round, end) = (0, far());
        // For longer where the readers do not get to run.
        while round < 1000 || (seen.load(Ordering::Relaxed) <= 1 && Instant::now() < end) {
            replace(&mm, 1, round);
            round += 1;
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(seen.into_inner() > 1, "the readers saw some of it");
}

#[test]
fn promise_4_and_5_a_drain_delays_nobody_elsewhere() {
    let mm = space(0..4);
    let guard = mm.lock_vma_under_rcu_wait(PAGE).unwrap().unwrap();
    let locked = Barrier::new(2);
    thread::scope(|s| {
        let unmap = s.spawn(|| {
            locked.wait();
            mm.unmap(page(1), Some(far())).unwrap()
        });
        locked.wait();
        // Until the drain has begun the try-lookup still succeeds.
        while mm.lock_vma_under_rcu(PAGE).is_some() {
            thread::yield_now();
        }
        // Its writer sleeps for us, and everything else goes on.
        assert_eq!(
            (tag(&mm, 0), tag(&mm, 2), tag(&mm, 9)),
            (Some(0), Some(2), None)
        );
        assert!(mm.lock_vma_under_rcu(2 * PAGE).is_some());
        assert!(!unmap.is_finished());
        drop(guard);
        assert_eq!(unmap.join().unwrap().removed[0].payload(), &Tag(1));
    });
    assert_eq!(tag(&mm, 1), None);
}

#[test]
fn promise_6_a_lookup_sleeps_once_whoever_comes_next() {
    let mm = space([1]);
    let done = AtomicBool::new(false);
    let waits = AtomicU64::new(0);
    thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                let mut path = LookupPath::default();
                while !done.load(Ordering::Relaxed) {
                    let options = WaitOptions {
                        deadline: Some(far()),
                        kill: None,
                    };
                    let vma = mm.lock_vma_under_rcu_wait_with(PAGE, options, &mut path);
                    assert!(vma.unwrap().is_some());
                    waits.fetch_add(u64::from(path.waited.is_some()), Ordering::Relaxed);
                }
            });
        }
        // Back to back, until some reader has waited: a retry could starve here.
        let give_up = far();
        let mut round = 0;
        while (waits.load(Ordering::Relaxed) < 20 || round < 500) && Instant::now() < give_up {
            replace(&mm, 1, round);
            round += 1;
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(waits.into_inner() >= 20);
}

/// Runs `reader` while a section has page 1 locked, and has it ended after.
fn while_locked<R: Send>(mm: &AddressSpace<Tag>, reader: impl FnOnce() -> R + Send) -> R {
    let mut section = mm.mmap_write_lock().unwrap();
    section.unmap(page(1)).unwrap();
    let drained = section.lock().unwrap();
    let result = thread::scope(|s| s.spawn(reader).join().unwrap());
    drop(drained);
    result
}

#[test]
fn promise_7_a_deadline_ends_the_wait_and_leaves_no_trace() {
    let mm = space([1]);
    let outcome = while_locked(&mm, || {
        let deadline = Some(Instant::now() + Duration::from_millis(5));
        let options = WaitOptions {
            deadline,
            kill: None,
        };
        let mut path = LookupPath::default();
        let outcome = mm
            .lock_vma_under_rcu_wait_with(PAGE, options, &mut path)
            .map(|_| ());
        assert!(path.waited.is_some());
        outcome
    });
    assert_eq!(outcome, Err(LookupError::TimedOut));
    // A mark that was left behind would hold this up for ever.
    let published = mm.unmap(page(1), Some(far())).unwrap();
    assert!(published.drain.holders.is_empty());
}

#[test]
fn promise_7_a_kill_flag_wakes_and_leaves_no_trace() {
    let mm = space([1]);
    let kill = KillFlag::new();
    let outcome = while_locked(&mm, || {
        thread::scope(|s| {
            s.spawn(|| kill.raise());
            let options = WaitOptions {
                deadline: None,
                kill: Some(&kill),
            };
            let found = mm.lock_vma_under_rcu_wait_with(PAGE, options, &mut LookupPath::default());
            found.map(|_| ())
        })
    });
    assert_eq!(outcome, Err(LookupError::Killed));
    assert!(
        mm.unmap(page(1), Some(far()))
            .unwrap()
            .drain
            .holders
            .is_empty()
    );
    // Without a writer there is nothing to kill.
    let mm = space([1]);
    let options = WaitOptions {
        deadline: None,
        kill: Some(&kill),
    };
    let found = mm.lock_vma_under_rcu_wait_with(PAGE, options, &mut LookupPath::default());
    assert!(found.unwrap().is_some());
}

#[test]
fn promise_8_a_holder_is_let_in_to_the_rest_of_the_write_set() {
    // A drain that lasts lets everybody in between two rounds, so one try may show
    // nothing; each must end.
    let nested = (0..100).any(|_| nested_lookup());
    assert!(nested, "never let in by what it holds");
}

/// Holds page 1, as a device's handler does, and looks page 2 up, while a writer
/// drains both. Whether it was let in by its hold.
fn nested_lookup() -> bool {
    let mm = space(0..4);
    let outer = mm.lock_vma_under_rcu_wait(PAGE).unwrap().unwrap();
    thread::scope(|s| {
        let writer = s.spawn(|| {
            let mut section = mm.mmap_write_lock().unwrap();
            section.unmap(page(1)).unwrap();
            section.unmap(page(2)).unwrap();
            section.lock_until(far()).unwrap().publish()
        });
        while mm.lock_vma_under_rcu(2 * PAGE).is_some() {
            thread::yield_now();
        }
        let mut path = LookupPath::default();
        let inner = mm
            .lock_vma_under_rcu_wait_with(2 * PAGE, WaitOptions::default(), &mut path)
            .unwrap();
        assert_eq!(inner.as_ref().unwrap().payload(), &Tag(2));
        // The outer hold first: the drain still waits for the inner one.
        drop(outer);
        assert!(!writer.is_finished());
        drop(inner);
        let mut removed: Vec<_> = writer
            .join()
            .unwrap()
            .removed
            .iter()
            .map(|vma| vma.payload().0)
            .collect();
        removed.sort_unstable();
        assert_eq!(removed, [1, 2]);
        assert_eq!(mm.stats().nested_admission, u64::from(path.nested));
        path.nested
    })
}

#[test]
fn promise_10_removal_returns_when_the_last_reader_is_gone_and_names_it() {
    let mm = space([1]);
    let (held, is_held) = mpsc::channel();
    let (found, is_found) = mpsc::channel();
    let (mm, released) = (&mm, &AtomicBool::new(false));
    thread::scope(|s| {
        let reader = move || {
            let guard = mm.lock_vma_under_rcu_wait(PAGE + 5).unwrap().unwrap();
            held.send(()).unwrap();
            is_found.recv().unwrap();
            released.store(true, Ordering::Release);
            drop(guard);
        };
        thread::Builder::new()
            .name("a device".to_owned())
            .spawn_scoped(s, reader)
            .unwrap();
        is_held.recv().unwrap();
        // Gone if this fails, so that the reader does not wait for ever.
        let found = found;
        let mut section = mm.mmap_write_lock().unwrap();
        section.unmap(page(1)).unwrap();
        // Told when the drain has found the reader, and not for the last time.
        let options = LockOptions {
            deadline: Some(far()),
            on_slow: Some(OnSlow {
                after: Duration::ZERO,
                call: &mut |_: &DrainReport| _ = found.send(()),
            }),
        };
        let published = section.lock_with(options).unwrap().publish();
        assert!(
            released.load(Ordering::Acquire),
            "returned with a reader still there"
        );
        let [holder] = &published.drain.holders[..] else {
            panic!("{:?}", published.drain)
        };
        assert_eq!(
            (holder.thread.as_str(), holder.addr),
            ("a device", PAGE + 5)
        );
        assert_eq!(holder.kind, HoldKind::Hold);
    });
}

#[test]
fn promise_10_a_drain_that_times_out_changes_nothing() {
    let mm = space([1]);
    let guard = mm.lock_vma_under_rcu_wait(PAGE).unwrap().unwrap();
    thread::scope(|s| {
        let mm_ref = &mm;
        let soon = || Some(Instant::now() + Duration::from_millis(5));
        let error = s
            .spawn(move || mm_ref.unmap(page(1), soon()).unwrap_err())
            .join()
            .unwrap();
        let WriteError::TimedOut { report } = error else {
            panic!("{error}")
        };
        assert_eq!(report.holders.len(), 1);
    });
    assert_eq!(guard.payload(), &Tag(1));
    assert!(mm.lock_vma_under_rcu(PAGE).is_some(), "unlocked again");
    drop(guard);
    assert_eq!(mm.unmap(page(1), Some(far())).unwrap().removed.len(), 1);
}

#[test]
fn promise_11_all_changes_of_a_section_come_at_once_or_not_at_all() {
    let mm = space([1]);
    let done = AtomicBool::new(false);
    thread::scope(|s| {
        s.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // Either page 1 or page 2 is there, at every moment.
                let map = mm.mmap_read_lock().unwrap();
                let there: Vec<_> = map.iter().map(|vma| vma.range().start() / PAGE).collect();
                assert!(there == [1] || there == [2], "{there:?}");
                drop(map);
                thread::yield_now();
            }
        });
        for round in 0..500 {
            let (from, to) = if round % 2 == 0 { (1, 2) } else { (2, 1) };
            let mut section = mm.mmap_write_lock().unwrap();
            section.unmap(page(from)).unwrap();
            section.map(page(to), RW, 0, Tag(to)).unwrap();
            section.lock().unwrap().publish();
        }
        done.store(true, Ordering::Relaxed);
    });
    // Given up at every stage: as before.
    for stage in 0..2 {
        let mut section = mm.mmap_write_lock().unwrap();
        section.unmap(page(1)).unwrap();
        section.map(page(7), RW, 0, Tag(7)).unwrap();
        assert!(matches!(
            section.map(page(7), RW, 0, Tag(8)),
            Err(WriteError::Overlaps { .. })
        ));
        if stage == 1 {
            drop(section.lock().unwrap());
        }
    }
    assert_eq!((tag(&mm, 1), tag(&mm, 7)), (Some(1), None));
}

#[test]
fn what_would_deadlock_with_oneself_is_an_error_at_once() {
    let mm = space(0..4);
    let guard = mm.lock_vma_under_rcu_wait(PAGE).unwrap().unwrap();
    assert_eq!(mm.mmap_write_lock().unwrap_err(), WriteError::HoldsGuard);
    drop(guard);
    let mut section = mm.mmap_write_lock().unwrap();
    assert_eq!(mm.mmap_write_lock().unwrap_err(), WriteError::Nested);
    section.unmap(page(1)).unwrap();
    let drained = section.lock().unwrap();
    let own = mm.lock_vma_under_rcu_wait(PAGE).map(|_| ());
    assert_eq!(own, Err(LookupError::OwnWriteSection));
    // Elsewhere the owner may look.
    assert_eq!(tag(&mm, 2), Some(2));
    drop(drained);
    // Another thread's guard is no obstacle to planning.
    let guard = mm.lock_vma_under_rcu_wait(PAGE).unwrap().unwrap();
    thread::scope(|s| {
        s.spawn(|| mm.map(page(9), RW, 0, Tag(9)).unwrap());
    });
    drop(guard);
    assert_eq!(tag(&mm, 9), Some(9));
}

#[test]
fn racing_maps_of_one_range_have_one_winner() {
    for _ in 0..200 {
        let mm = space([]);
        let start = Barrier::new(4);
        let won: usize = thread::scope(|s| {
            let racers: Vec<_> = (0..4)
                .map(|n| {
                    let (mm, start) = (&mm, &start);
                    s.spawn(move || {
                        start.wait();
                        mm.map(page(n % 2), RW, 0, Tag(n)).is_ok()
                    })
                })
                .collect();
            racers
                .into_iter()
                .map(|racer| usize::from(racer.join().unwrap()))
                .sum()
        });
        assert_eq!((won, mm.mmap_read_lock().unwrap().iter().count()), (2, 2));
    }
}
