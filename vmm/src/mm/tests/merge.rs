//! Merging: what a plan makes of its own steps, and readers that come meanwhile.

use std::sync::OnceLock;
use std::thread;

use super::*;

/// The same as any other, and looks at the map when it is dropped, which must be
/// free by then.
#[derive(Clone)]
struct Looks(Arc<OnceLock<Arc<AddressSpace<Looks>>>>);

impl Payload for Looks {
    fn same(&self, _: &Self) -> bool {
        true
    }
}

impl Drop for Looks {
    fn drop(&mut self) {
        if let Some(mm) = self.0.get() {
            let inside = mm.core.writer.map_lock.is_mine();
            assert!(!inside, "dropped under the map lock");
        }
    }
}

/// A space with these pages mapped, each by a section of its own and so that it
/// would be merged, and with what maps more.
fn mergeable(pages: &[u64]) -> (Arc<AddressSpace<Looks>>, Looks) {
    let looks = Looks(Arc::new(OnceLock::new()));
    let mm = Arc::new(AddressSpace::new("merge", range(0, 1 << 40)));
    for number in pages {
        mm.map(page(*number), RAM, at(*number), looks.clone())
            .unwrap();
    }
    assert!(looks.0.set(mm.clone()).is_ok());
    (mm, looks)
}

fn ranges(mm: &AddressSpace<Looks>) -> Vec<AddrRange> {
    mm.vmas(mm.range()).iter().map(|vma| vma.range).collect()
}

#[test]
fn a_plan_merges_its_own_steps() {
    let (mm, looks) = mergeable(&[2]);
    let mut section = mm.mmap_write_lock().unwrap();
    for number in [1, 3, 5] {
        section
            .map(page(number), RAM, at(number), looks.clone())
            .unwrap();
    }
    section.relocate(range(at(5), 0x800), at(7)).unwrap();
    let drained = section.lock().unwrap();
    assert_eq!(drained.write_set(), [page(2)], "between two that are new");
    let done = drained.publish();
    assert_eq!((done.removed.len(), done.replaced.len()), (0, 1));
    let (half, other) = (range(at(5) + 0x800, 0x800), range(at(7), 0x800));
    assert_eq!(ranges(&mm), [range(at(1), 0x3000), half, other]);
}

#[test]
fn a_border_moves_along_and_one_that_was_asked_for_stays() {
    let (mm, looks) = mergeable(&[]);
    let mut section = mm.mmap_write_lock().unwrap();
    for number in [1, 2, 3] {
        section
            .map(page(number), RAM, at(number), looks.clone())
            .unwrap();
    }
    section.split(at(3)).unwrap();
    section.relocate(range(at(1), 0x3000), at(8)).unwrap();
    section.lock().unwrap().publish();
    assert_eq!(ranges(&mm), [range(at(8), 0x2000), page(10)]);
    // Nothing that a later section does elsewhere takes it away.
    let mut section = mm.mmap_write_lock().unwrap();
    section.map(page(11), RAM, at(4), looks.clone()).unwrap();
    assert_eq!(section.lock().unwrap().publish().replaced.len(), 1);
    assert_eq!(ranges(&mm), [range(at(8), 0x2000), range(at(10), 0x2000)]);
}

#[test]
fn removed_and_mapped_again_is_removed_all_the_same() {
    let (mm, looks) = mergeable(&[1, 2, 3]);
    assert_eq!(ranges(&mm), [range(at(1), 0x3000)]);
    let mut section = mm.mmap_write_lock().unwrap();
    section.unmap(page(2)).unwrap();
    section.map(page(2), RAM, at(2), looks.clone()).unwrap();
    let done = section.lock().unwrap().publish();
    assert_eq!(done.removed[0].range(), page(2));
    assert_eq!(ranges(&mm), [range(at(1), 0x3000)]);
}

#[test]
fn up_to_the_last_address() {
    let looks = Looks(Arc::new(OnceLock::new()));
    let mm = AddressSpace::new("all", AddrRange::inclusive(0, u64::MAX).unwrap());
    let one = |addr| AddrRange::inclusive(addr, addr).unwrap();
    mm.map(one(u64::MAX), RAM, 1, looks.clone()).unwrap();
    mm.map(one(u64::MAX - 1), RAM, 0, looks.clone()).unwrap();
    mm.map(one(1), RAM, u64::MAX, looks.clone()).unwrap();
    mm.map(one(0), RAM, u64::MAX - 1, looks.clone()).unwrap();
    // Offsets that wrap do not follow.
    mm.map(one(2), RAM, 0, looks).unwrap();
    let top = AddrRange::inclusive(u64::MAX - 1, u64::MAX).unwrap();
    assert_eq!(ranges(&mm), [range(0, 2), one(2), top]);
}

/// A guard on another thread, and a plain wait for the section: it does not come.
#[test]
fn a_reader_of_the_neighbour_is_not_waited_for() {
    let (mm, looks) = mergeable(&[1]);
    let guard = mm.lock_vma_under_rcu(at(1)).unwrap();
    thread::scope(|scope| {
        let there = scope.spawn(|| mm.map(page(2), RAM, at(2), looks.clone()));
        there.join().unwrap().unwrap();
    });
    drop(guard);
    assert_eq!(ranges(&mm), [page(1), page(2)]);
    assert_eq!(mm.stats().drains, 0);
    // What was left apart stays so until one of the two is changed.
    mm.map(page(3), RAM, at(3), looks.clone()).unwrap();
    assert_eq!(ranges(&mm), [page(1), range(at(2), 0x2000)]);
}

/// While a drain lasts, the neighbour may be had at once; and who has it when the
/// drain is over keeps it apart, although the version with the two merged is built
/// by then.
#[test]
fn a_reader_that_comes_during_the_drain_keeps_the_neighbour_apart() {
    for stays in [false, true] {
        let (mm, _looks) = mergeable(&[1, 2]);
        let mut section = mm.mmap_write_lock().unwrap();
        section.protect(page(2), ROM).unwrap();
        section.lock().unwrap().publish();
        let held = mm.lock_vma_under_rcu(at(2)).unwrap();
        thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut section = mm.mmap_write_lock().unwrap();
                section.protect(page(2), RAM).unwrap();
                let drained = section.lock().unwrap();
                let locked = drained.write_set();
                drained.publish();
                locked
            });
            until(|| mm.core.bell.is_sleeping());
            let pin = mm.lock_vma_under_rcu(at(1)).expect("not locked").pin();
            let pin = stays.then_some(pin);
            drop(held);
            let locked = writer.join().unwrap();
            drop(pin);
            match stays {
                true => assert_eq!(locked, [page(2)]),
                false => assert_eq!(locked, [page(1), page(2)]),
            }
        });
        assert_eq!(ranges(&mm).len(), 1 + usize::from(stays));
        assert_eq!(mm.lock_vma_under_rcu(at(2)).unwrap().flags(), RAM);
    }
}

/// A section that is given up, whether before or after its neighbours are locked.
#[test]
fn given_up_nothing_is_merged() {
    let (mm, looks) = mergeable(&[1]);
    let mut section = mm.mmap_write_lock().unwrap();
    section.map(page(2), RAM, at(2), looks.clone()).unwrap();
    let drained = section.lock().unwrap();
    assert!(mm.lock_vma_under_rcu(at(1)).is_none(), "locked");
    drop(drained);
    assert_eq!(mm.lock_vma_under_rcu(at(1)).unwrap().range(), page(1));
    assert_eq!(ranges(&mm), [page(1)]);
}
