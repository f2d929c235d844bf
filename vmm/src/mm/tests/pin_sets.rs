//! Sets of pins: what they hold, and what they leave.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::{HoldKind, Strategy, WriteError};
use super::{RAM, Space, Tag, at, page, range, space_with};

/// Of every strategy: what a set has pinned it finds again and again, and a writer waits
/// for it, and for nothing else.
#[test]
fn a_set_holds_what_it_has_come_by() {
    for strategy in Strategy::ALL {
        let mm = Space::with_strategy("test", range(0, 1 << 40), strategy);
        for number in 0..40 {
            mm.map(page(number), RAM, 0, Tag(number)).unwrap();
        }
        let set = mm.pin_set();
        for number in (0..20).chain(0..20) {
            let vma = set
                .lock_vma_under_rcu_wait(at(number) + 5)
                .unwrap()
                .unwrap();
            assert_eq!(vma.payload(), &Tag(number), "{strategy:?}");
        }
        assert_eq!(set.len(), 20, "{strategy:?}");
        assert!(set.lock_vma_under_rcu_wait(at(99)).unwrap().is_none());
        mm.unmap(page(20), None).unwrap();
        for held in [0, 1, 2, 19] {
            let soon = Some(Instant::now() + Duration::from_millis(2));
            let WriteError::TimedOut { report } = mm.unmap(page(held), soon).unwrap_err() else {
                panic!("{strategy:?}");
            };
            assert_eq!(report.holders.len(), 1, "{strategy:?}: {report}");
            assert_eq!(report.holders[0].kind, HoldKind::Pin);
        }
        // A guard beside it, which is none of its business.
        drop(mm.lock_vma_under_rcu_wait(at(0)).unwrap());
        drop(set);
        for gone in 0..20 {
            let gone = mm.unmap(page(gone), None).unwrap();
            assert!(
                gone.drain.holders.is_empty(),
                "{strategy:?}: {}",
                gone.drain
            );
        }
    }
}

/// What is not wanted is not pinned: neither where it was asked for, nor passed over.
#[test]
fn what_is_not_wanted_is_not_held() {
    let mm = space_with([1, 2, 4, 7]);
    let set = mm.pin_set();
    let even = |vma: &super::super::Vma<Tag>| vma.payload().0.is_multiple_of(2);
    assert!(set.lock_vma_if(at(1), even).unwrap().is_none());
    assert!(set.is_empty());
    let mut from = Some(0);
    let mut found = Vec::new();
    while let Some(vma) = from.and_then(|from| set.lock_next_vma_if(from, even).unwrap()) {
        found.push(vma.payload().0);
        from = vma.range().end();
    }
    assert_eq!((found, set.len()), (vec![2, 4], 2));
    // Found again where they are.
    assert_eq!(
        set.lock_next_vma_if(at(2), even)
            .unwrap()
            .unwrap()
            .payload(),
        &Tag(2)
    );
    assert!(set.lock_vma_if(at(2), |_| false).unwrap().is_none());
    assert_eq!(set.len(), 2);
    for odd in [1, 7] {
        assert!(mm.unmap(page(odd), None).unwrap().drain.holders.is_empty());
    }
}

/// What is put before the one that was found makes that one not the next: it is handed
/// out when its turn comes, and not held before.
#[test]
fn what_is_not_next_any_more_is_not_held() {
    let mm = space_with([4, 7]);
    let set = mm.pin_set();
    let before = |vma: &super::super::Vma<Tag>| {
        if vma.payload() == &Tag(4) && set.is_empty() {
            std::thread::scope(|s| {
                s.spawn(|| {
                    let _ = mm.map(page(2), RAM, 0, Tag(2));
                });
            });
        }
        true
    };
    let found = set.lock_next_vma_if(0, before).unwrap().unwrap();
    assert_eq!((found.payload(), set.len()), (&Tag(2), 1));
    assert!(mm.unmap(page(4), None).unwrap().drain.holders.is_empty());
}

/// A copy holds what the first one has pinned, by whichever thread, once, after that is
/// gone; and what either pins later is its own.
#[test]
fn a_copy_holds_what_the_first_one_did() {
    for strategy in Strategy::ALL {
        let mm = Space::with_strategy("test", range(0, 1 << 40), strategy);
        for number in 0..50 {
            mm.map(page(number), RAM, 0, Tag(number)).unwrap();
        }
        let set = mm.pin_set();
        assert!(set.clone().is_empty());
        for number in 0..30 {
            set.lock_vma_under_rcu_wait(at(number)).unwrap();
        }
        std::thread::scope(|s| {
            s.spawn(|| set.lock_vma_under_rcu_wait(at(40)).unwrap());
        });
        let copy = set.clone();
        set.lock_vma_under_rcu_wait(at(41)).unwrap();
        drop(set);
        assert_eq!(copy.len(), 31, "{strategy:?}");
        mm.unmap(page(41), None).unwrap();
        for held in [0, 1, 2, 29, 40] {
            let soon = Some(Instant::now() + Duration::from_millis(2));
            assert!(mm.unmap(page(held), soon).is_err(), "{strategy:?} {held}");
        }
        std::thread::spawn(move || drop(copy)).join().unwrap();
        for gone in (0..30).chain([40]) {
            assert!(mm.unmap(page(gone), None).unwrap().drain.holders.is_empty());
        }
    }
}

/// One who is asked may look up by the same set: nothing is pinned that is not known to
/// be, and so would be held for ever.
#[test]
fn who_is_asked_may_look_up_by_the_same_set() {
    for (outer, inner) in [(1, 2), (2, 1), (1, 1)] {
        let mm = space_with([1, 2]);
        let set = mm.pin_set();
        let asked = |_: &super::super::Vma<Tag>| {
            let vma = set.lock_vma_under_rcu_wait(at(inner)).unwrap().unwrap();
            *vma.payload() == Tag(inner)
        };
        let found = set.lock_vma_if(at(outer), asked).unwrap().unwrap();
        assert_eq!(found.payload(), &Tag(outer));
        assert!(set.len() >= if outer == inner { 1 } else { 2 });
        drop(set);
        for number in [1, 2] {
            let soon = Some(Instant::now() + Duration::from_millis(100));
            assert!(mm.unmap(page(number), soon).is_ok(), "{outer} {inner}");
        }
    }
}

/// One who panics when asked leaves no mark behind.
#[test]
fn a_panic_of_who_is_asked_leaves_nothing() {
    let mm = space_with([1]);
    let set = mm.pin_set();
    for _ in 0..2 {
        let asked = || {
            set.lock_vma_if(at(1), |_| panic!("asked"))
                .map(|vma| vma.is_some())
        };
        assert!(catch_unwind(AssertUnwindSafe(asked)).is_err());
    }
    assert!(set.is_empty());
    let next = || {
        set.lock_next_vma_if(0, |_| panic!("asked"))
            .map(|vma| vma.is_some())
    };
    assert!(catch_unwind(AssertUnwindSafe(next)).is_err());
    assert!(mm.unmap(page(1), None).unwrap().drain.holders.is_empty());
}

/// The entries that a scan of all records looks at.
fn scanned(mm: &Space) -> usize {
    let mut scanned = 0;
    for record in mm.core.registry.records() {
        record.each_entry(|_| scanned += 1);
    }
    scanned
}

/// An operation that came by thousands of VMAs slows no writer once it is over, wherever
/// it ended, and whoever has something parked meanwhile.
#[test]
fn a_scan_looks_at_nothing_of_a_set_that_is_gone() {
    let mm = space_with(0..5000);
    let fresh = scanned(&mm);
    let big = || {
        let set = mm.pin_set();
        for number in 0..5000 {
            assert!(set.lock_vma_under_rcu_wait(at(number)).unwrap().is_some());
        }
        set
    };
    let (set, parked) = (big(), mm.pin_set());
    for number in 0..5 {
        parked.lock_vma_under_rcu_wait(at(number)).unwrap();
    }
    assert!(scanned(&mm) >= 5005);
    // By another thread too, and dropped by a third.
    std::thread::scope(|s| {
        s.spawn(|| {
            for number in 0..5000 {
                assert!(
                    parked
                        .lock_vma_under_rcu_wait(at(number))
                        .unwrap()
                        .is_some()
                );
            }
        });
    });
    std::thread::scope(|s| s.spawn(|| drop(set)).join().unwrap());
    let set = big();
    drop(parked);
    drop(set);
    let left = scanned(&mm);
    assert!(left <= fresh + 16, "{left} entries after {fresh}");
    for number in [0, 4, 2500, 4999] {
        let gone = mm.unmap(page(number), None).unwrap();
        assert!(gone.drain.holders.is_empty(), "{}", gone.drain);
    }
}

/// An operation of a few pins looks for entries as long beside thousands that are parked
/// as beside none.
#[test]
fn a_few_pins_are_taken_up_beside_many() {
    let mm = space_with(0..6);
    let mut parked = Vec::new();
    let operation = || {
        let (set, other) = (mm.pin_set(), mm.pin_set());
        for number in 0..6 {
            set.lock_vma_under_rcu_wait(at(number)).unwrap();
            other.lock_vma_under_rcu_wait(at(number)).unwrap();
        }
    };
    for _ in 0..1500 {
        let set = mm.pin_set();
        set.lock_vma_under_rcu_wait(at(0)).unwrap();
        parked.push(set);
        operation();
        let looked = mm.core.record().looked();
        operation();
        let looked = mm.core.record().looked() - looked;
        assert!(looked <= 16, "{looked} beside {}", parked.len());
    }
}

/// A record's entries are used again: a thousand sets of a hundred pins, and one that
/// stays, take no more room than the largest two need.
#[test]
fn entries_are_used_again() {
    let mm = space_with(0..100);
    let kept = mm.pin_set();
    kept.lock_vma_under_rcu_wait(at(50)).unwrap();
    for _ in 0..1000 {
        let set = mm.pin_set();
        for number in 0..100 {
            assert!(set.lock_vma_under_rcu_wait(at(number)).unwrap().is_some());
        }
    }
    assert!(scanned(&mm) <= 16, "{}", scanned(&mm));
    let annexes: usize = mm.core.registry.records().map(|r| r.annexes().len()).sum();
    assert!(annexes <= 8, "{annexes}");
    assert_eq!(kept.len(), 1);
}

/// What a record keeps for good is bounded by the most that its thread has had in use at
/// once, and not by how often, nor by who let go of it and in which order.
#[test]
fn a_record_keeps_what_it_needed_at_once() {
    const SETS: u64 = 500;
    let mm = Arc::new(space_with(0..8));
    // Two of each set's pins are in the record's own entries, of which there are never
    // more than twice as many as are in use, and some to begin with.
    let bound = 2 * 2 * SETS as usize + 16;
    let mut room = 0;
    for round in 0..6 {
        let mut sets: Vec<_> = (0..SETS)
            .map(|set| {
                let pins = mm.pin_set();
                for number in [set % 8, (set + 1 + round) % 8] {
                    pins.lock_vma_under_rcu_wait(at(number)).unwrap().unwrap();
                }
                pins
            })
            .collect();
        assert!(scanned(&mm) <= bound, "{} entries", scanned(&mm));
        match round % 3 {
            0 => drop(sets),
            1 => sets.into_iter().rev().for_each(drop),
            // One by one, here and there, with others begun between.
            _ => {
                while let Some(set) = sets.pop() {
                    if sets.len() % 3 == 0 {
                        std::thread::scope(|s| s.spawn(|| drop(set)).join().unwrap());
                    }
                    let few = mm.pin_set();
                    few.lock_vma_under_rcu_wait(at(1)).unwrap().unwrap();
                }
            }
        }
        let guards: Vec<_> = (0..8).map(|n| mm.lock_vma_under_rcu(at(n))).collect();
        assert!(guards.iter().all(Option::is_some));
        if round == 0 {
            room = scanned(&mm);
        }
        assert_eq!(scanned(&mm), room, "as after the first round");
    }
}

/// What the space carried may use other spaces when it is dropped with the last set, and
/// so make this thread forget the spaces that are gone.
#[test]
fn what_goes_with_the_last_set_may_look_up() {
    #[derive(Clone)]
    struct Looks;
    impl super::super::Payload for Looks {}
    impl Drop for Looks {
        fn drop(&mut self) {
            let other = space_with([1]);
            assert!(other.lock_vma_under_rcu_wait(at(1)).unwrap().is_some());
        }
    }
    let mm = super::super::AddressSpace::new("test", range(0, 1 << 20));
    mm.map(page(1), RAM, 0, Looks).unwrap();
    let set = mm.pin_set();
    set.lock_vma_under_rcu_wait(at(1)).unwrap().unwrap();
    drop(mm);
    drop(set);
}

/// The space goes with the last set, wherever that is dropped.
#[test]
fn the_space_goes_with_the_last_set() {
    let told = Arc::new(());
    #[derive(Clone)]
    struct Told(#[allow(dead_code, reason = "counted")] Arc<()>);
    impl super::super::Payload for Told {}
    for elsewhere in [false, true] {
        let mm = super::super::AddressSpace::new("test", range(0, 1 << 20));
        mm.map(page(1), RAM, 0, Told(told.clone())).unwrap();
        let first = mm.pin_set();
        first.lock_vma_under_rcu_wait(at(1)).unwrap().unwrap();
        let second = first.another();
        drop(mm);
        drop(first);
        assert_eq!(Arc::strong_count(&told), 2);
        second.lock_vma_under_rcu_wait(at(1)).unwrap().unwrap();
        match elsewhere {
            true => std::thread::spawn(move || drop(second)).join().unwrap(),
            false => drop(second),
        }
        assert_eq!(Arc::strong_count(&told), 1);
    }
}
