//! One thread: what the operations do, and what they refuse.

use super::super::Strategy;
use super::super::{LookupError, WriteError};
use super::*;

fn ranges(mm: &Space) -> Vec<(AddrRange, VmFlags, u64)> {
    let map = mm.mmap_read_lock().unwrap();
    map.iter()
        .map(|vma| (vma.range(), vma.flags(), vma.offset()))
        .collect()
}

#[test]
fn map_look_up_unmap() {
    let mm = space_with([1, 2, 4]);
    for number in 0..6 {
        let found = mm.lock_vma_under_rcu_wait(at(number) + 5).unwrap();
        let there = [1, 2, 4].contains(&number);
        assert_eq!(found.map(|vma| vma.payload().0), there.then_some(number));
    }
    assert_eq!(
        mm.mmap_read_lock()
            .unwrap()
            .find_vma(at(3))
            .unwrap()
            .range(),
        page(4)
    );
    assert_eq!(
        mm.unmap(page(2), None).unwrap().removed[0].payload(),
        &Tag(2)
    );
    assert!(mm.lock_vma_under_rcu(at(2)).is_none());
    let stats = mm.stats();
    assert_eq!((stats.lookup_success, stats.lookup_miss), (3, 4));
    assert_eq!((stats.sections, stats.drains), (4, 0));
}

#[test]
fn what_overlaps_or_sticks_out_is_refused() {
    let mm = space_with([1]);
    let map = |range| mm.map(range, RAM, 0, Tag(0));
    let existing = page(1);
    for bad in [page(1), range(0xfff, 2), range(0x1fff, 1), range(0, 0x5000)] {
        assert_eq!(
            map(bad),
            Err(WriteError::Overlaps {
                range: bad,
                existing
            })
        );
    }
    let bad = AddrRange::inclusive(0, u64::MAX).unwrap();
    assert!(matches!(map(bad), Err(WriteError::OutOfSpace { .. })));
    let gap = page(7);
    let unmapped = mm.unmap(gap, None).map(|_| ());
    assert_eq!(unmapped, Err(WriteError::NotMapped { range: gap }));
    assert_eq!(ranges(&mm).len(), 1);
}

#[test]
fn the_last_address_can_be_mapped() {
    let mm = Space::new("all", AddrRange::inclusive(0, u64::MAX).unwrap());
    let last = AddrRange::inclusive(u64::MAX, u64::MAX).unwrap();
    mm.map(last, RAM, 0, Tag(1)).unwrap();
    mm.map(range(0, 1), RAM, 0, Tag(2)).unwrap();
    assert_eq!(mm.lock_vma_under_rcu(u64::MAX).unwrap().payload(), &Tag(1));
    assert!(mm.lock_vma_under_rcu(u64::MAX - 1).is_none());
    assert_eq!(ranges(&mm).len(), 2);
    mm.unmap(last, None).unwrap();
    assert!(mm.lock_vma_under_rcu(u64::MAX).is_none());
    assert_eq!(mm.lock_vma_under_rcu(0).unwrap().payload(), &Tag(2));
}

#[test]
fn unmapping_a_part_splits() {
    let mm = space();
    mm.map(range(0x1000, 0x4000), RAM, 0x100, Tag(9)).unwrap();
    let gone = mm.unmap(range(0x2000, 0x1000), None).unwrap();
    assert_eq!(gone.removed.len(), 1);
    assert_eq!(gone.removed[0].range(), range(0x2000, 0x1000));
    assert_eq!(gone.removed[0].offset(), 0x1100);
    assert_eq!(gone.replaced[0].range(), range(0x1000, 0x4000));
    let left = (range(0x1000, 0x1000), RAM, 0x100);
    let right = (range(0x3000, 0x2000), RAM, 0x2100);
    assert_eq!(ranges(&mm), [left, right]);
    // Both ends at once, and a whole one between them.
    mm.map(range(0x2800, 0x100), RAM, 0, Tag(1)).unwrap();
    let gone = mm.unmap(range(0x1800, 0x2000), None).unwrap();
    let starts: Vec<_> = gone.removed.iter().map(|v| v.range().start()).collect();
    assert_eq!(starts, [0x1800, 0x2800, 0x3000]);
    assert_eq!(ranges(&mm).len(), 2);
}

#[test]
fn a_plan_sees_its_own_steps() {
    let mm = space_with([1, 2]);
    let mut section = mm.mmap_write_lock().unwrap();
    section.unmap(page(1)).unwrap();
    section.map(page(1), ROM, 0, Tag(10)).unwrap();
    section.map(page(3), ROM, 0, Tag(30)).unwrap();
    section.protect(range(at(1), 0x3000), RAM).unwrap();
    section.unmap(page(3)).unwrap();
    section.split(at(2) + 0x800).unwrap();
    section.relocate(range(at(1), 0x2000), at(5)).unwrap();
    assert_eq!(section.find_vma(0).unwrap().range(), page(5));
    let drained = section.lock().unwrap();
    assert_eq!(drained.removed().count(), 1);
    let done = drained.publish();
    assert_eq!(done.removed[0].payload(), &Tag(1));
    let half = |start: u64, offset| (range(start, 0x800), RAM, offset);
    let there = [
        (page(5), RAM, 0),
        half(at(6), 0),
        half(at(6) + 0x800, 0x800),
    ];
    assert_eq!(ranges(&mm), there);
}

#[test]
fn protect_and_relocate_need_all_of_it() {
    let mm = space_with([1, 3]);
    let mut section = mm.mmap_write_lock().unwrap();
    let hole = range(at(1), 0x3000);
    let missing = Err(WriteError::NotMapped { range: hole });
    assert_eq!(section.protect(hole, ROM), missing);
    assert_eq!(section.relocate(hole, at(9)), missing);
    assert_eq!(
        section.relocate(page(1), at(3)),
        Err(WriteError::Overlaps {
            range: page(3),
            existing: page(3)
        })
    );
    // Onto itself, a bit further, is fine.
    section.relocate(page(1), at(1) + 0x800).unwrap();
    section.lock().unwrap().publish();
    assert_eq!(ranges(&mm)[0].0, range(at(1) + 0x800, 0x1000));
}

#[test]
fn what_a_section_does_not_change_it_does_not_lock() {
    let mm = space_with([1, 2, 3]);
    let mut section = mm.mmap_write_lock().unwrap();
    section.protect(range(at(1), 0x3000), RAM).unwrap();
    section.unmap(page(2)).unwrap();
    let drained = section.lock().unwrap();
    assert!(mm.lock_vma_under_rcu(at(1)).is_some());
    assert!(mm.lock_vma_under_rcu(at(2)).is_none());
    assert!(mm.lock_vma_under_rcu(at(3)).is_some());
    let own = mm.lock_vma_under_rcu_wait(at(2)).map(|_| ());
    assert_eq!(own, Err(LookupError::OwnWriteSection));
    drop(drained);
    assert!(mm.lock_vma_under_rcu(at(2)).is_some(), "given up, unlocked");
}

/// "A write section opened inside a guard".
#[test]
fn a_section_inside_a_guard_is_an_error_at_once() {
    let mm = space_with([1, 2]);
    let guard = mm.lock_vma_under_rcu(at(1)).unwrap();
    let opened = mm.mmap_write_lock().map(|_| ());
    assert_eq!(opened, Err(WriteError::HoldsGuard));
    drop(guard);
    let mut section = mm.mmap_write_lock().unwrap();
    assert_eq!(mm.mmap_write_lock().map(|_| ()), Err(WriteError::Nested));
    section.unmap(page(1)).unwrap();
    let guard = mm.lock_vma_under_rcu(at(1)).unwrap();
    let locked = section.lock().map(|_| ());
    assert_eq!(locked, Err(WriteError::HoldsGuard));
    drop(guard);
    mm.unmap(page(1), None).unwrap();
}

#[test]
fn many_holds_spill() {
    let mm = space_with(0..40);
    let guards: Vec<_> = (0..40).map(|n| mm.lock_vma_under_rcu(at(n))).collect();
    assert!(guards.iter().all(Option::is_some));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| mm.unmap(range(0, at(40)), None).unwrap());
        until(|| mm.stats().sections == 40 && mm.core.bell.is_sleeping());
        drop(guards);
        let done = writer.join().unwrap();
        assert_eq!((done.removed.len(), done.drain.holders.len()), (40, 40));
    });
}

#[test]
fn a_hold_delays_no_grace_period() {
    let mm = space_with(0..3);
    let guard = mm.lock_vma_under_rcu(at(0)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| mm.unmap(page(1), None).unwrap());
    });
    assert_eq!(mm.core.retired(), 0);
    drop(guard);
}

#[test]
fn the_next_vma_and_a_bare_walk() {
    let mm = space_with([1, 2, 5]);
    let mut from = 0;
    let mut seen = Vec::new();
    while let Some(vma) = mm.lock_next_vma(from).unwrap() {
        seen.push(vma.payload().0);
        from = vma.range().last() + 1;
    }
    assert_eq!(seen, [1, 2, 5]);
    let bare = mm.vmas(range(at(2) + 1, at(9)));
    let bare: Vec<_> = bare.iter().map(|info| (info.range, info.flags)).collect();
    assert_eq!(bare, [(page(2), RAM), (page(5), RAM)]);
}

#[test]
fn the_counter_wraps() {
    let (range, seq) = (range(0, 1 << 20), u64::MAX - 5);
    let mm = Space::starting_at("late", range, Strategy::Native, seq, Pace::default());
    for _ in 0..6 {
        mm.map(page(1), RAM, 0, Tag(1)).unwrap();
        assert!(mm.lock_vma_under_rcu(at(1)).is_some());
        mm.unmap(page(1), None).unwrap();
        assert!(mm.lock_vma_under_rcu(at(1)).is_none());
    }
}

#[test]
fn what_is_dropped_may_use_the_map() {
    #[derive(Clone)]
    struct Looks(Arc<std::sync::OnceLock<Arc<AddressSpace<Looks>>>>);
    impl Payload for Looks {}
    impl Drop for Looks {
        fn drop(&mut self) {
            if let Some(mm) = self.0.get() {
                let _ = mm.mmap_write_lock().unwrap();
                assert!(mm.lock_vma_under_rcu_wait(at(1)).is_ok());
            }
        }
    }
    let cell = Arc::new(std::sync::OnceLock::new());
    let mm = Arc::new(AddressSpace::new("drops", range(0, 1 << 20)));
    let looks = || Looks(cell.clone());
    mm.map(range(at(1), 0x4000), RAM, 0, looks()).unwrap();
    assert!(cell.set(mm.clone()).is_ok());
    mm.unmap(page(2), None).unwrap();
    let mut given_up = mm.mmap_write_lock().unwrap();
    given_up.map(page(8), RAM, 0, looks()).unwrap();
    given_up.unmap(page(8)).unwrap();
    given_up.map(page(9), RAM, 0, looks()).unwrap();
    drop(given_up.lock().unwrap());
    mm.unmap(range(0, 1 << 20), None).unwrap();
}
