//! Readers parked in the middle of a walk while the writer changes everything.
//!
//! A bare walk cannot be stopped from outside, so it is taken apart: an entry says
//! that this thread walks, as in a bare walk, and an iterator over the version of
//! that moment is left standing at each VMA in turn, which is every place in every
//! node there is.

use super::super::node::WIDTH;
use super::super::{VmaInfo, tree};
use super::*;

/// Enough for three levels of nodes.
const COUNT: u64 = (WIDTH * WIDTH + WIDTH + 1) as u64;

fn all() -> AddrRange {
    range(0, at(4 * COUNT))
}

fn many() -> Arc<Space> {
    let mm = space();
    let mut section = mm.mmap_write_lock().unwrap();
    for number in 0..COUNT {
        section.map(page(number), RAM, 0, Tag(number)).unwrap();
    }
    section.lock().unwrap().publish();
    mm
}

/// What a writer may do to all that the map has.
type Change = fn(&Space);

fn everything() -> [Change; 4] {
    [
        |mm| drop(mm.unmap(all(), None).unwrap()),
        |mm| {
            let mut section = mm.mmap_write_lock().unwrap();
            section.unmap(all()).unwrap();
            section.map(all(), ROM, 0, Tag(COUNT)).unwrap();
            section.lock().unwrap().publish();
        },
        |mm| {
            let mut section = mm.mmap_write_lock().unwrap();
            for number in 0..COUNT {
                section.split(at(number) + 0x800).unwrap();
            }
            section.lock().unwrap().publish();
        },
        |mm| {
            for number in 0..COUNT {
                mm.unmap(page(number), None).unwrap();
                mm.map(page(2 * COUNT - number), ROM, 0, Tag(0)).unwrap();
            }
        },
    ]
}

#[test]
fn a_bare_walk_sees_one_version_wherever_it_is_parked() {
    for (i, change) in everything().into_iter().enumerate() {
        // Everywhere beside the first, and at some places beside the others.
        let step = if i == 0 { 1 } else { 37 };
        for place in (0..=COUNT as usize).step_by(step) {
            let mm = many();
            let before = mm.vmas(all());
            let record = mm.core.record();
            let entry = record.get().vacant();
            entry.walk_bare();
            // SAFETY: the entry says since before the root is loaded, and until
            // after the last use, that this thread walks.
            let mut walk = unsafe { tree::slots(mm.core.root(), all()) }.map(|slot| slot.info());
            let mut seen: Vec<VmaInfo> = walk.by_ref().take(place).collect();
            std::thread::scope(|scope| {
                scope.spawn(|| change(&mm));
            });
            assert!(mm.core.retired() > 0, "kept for the walk");
            seen.extend(walk);
            assert_eq!(seen, before);
            entry.clear();
            assert_ne!(mm.vmas(all()), before);
        }
    }
}

#[test]
fn a_walk_with_locks_goes_on_in_what_the_writer_has_left() {
    for place in 0..COUNT {
        let mm = many();
        let first = mm.lock_next_vma(at(place)).unwrap().unwrap();
        assert_eq!(first.range(), page(place));
        // All but what it holds, which the writer would wait for.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut section = mm.mmap_write_lock().unwrap();
                if place > 0 {
                    section.unmap(range(0, at(place))).unwrap();
                }
                let rest = AddrRange::inclusive(at(place + 1), all().last()).unwrap();
                let _ = section.unmap(rest);
                section.map(page(COUNT + 5), ROM, 0, Tag(1)).unwrap();
                section.lock().unwrap().publish();
            });
        });
        assert_eq!(first.payload(), &Tag(place));
        let next = mm.lock_next_vma(first.range().last() + 1).unwrap().unwrap();
        assert_eq!(next.range(), page(COUNT + 5));
        assert!(mm.lock_next_vma(next.range().last() + 1).unwrap().is_none());
    }
}

#[test]
fn an_iteration_under_the_map_lock_holds_the_writer_off() {
    for place in (0..COUNT as usize).step_by(19) {
        let mm = many();
        std::thread::scope(|scope| {
            let map = mm.mmap_read_lock().unwrap();
            let mut walk = map.iter();
            let before: Vec<_> = walk.by_ref().take(place).collect();
            let writer = scope.spawn(|| mm.unmap(all(), None).unwrap().removed.len());
            // From both ends; what is left is met in the middle.
            let middle = walk.next_back().unwrap().payload().0;
            let after: Vec<_> = walk.collect();
            assert_eq!(middle, COUNT - 1);
            assert_eq!((before.len() + after.len() + 1) as u64, COUNT);
            let seen = before.into_iter().chain(after).map(|vma| vma.payload().0);
            assert!(seen.eq(0..COUNT - 1));
            assert_eq!(mm.stats().sections, 1);
            drop(map);
            assert_eq!(writer.join().unwrap() as u64, COUNT);
        });
        assert!(mm.mmap_read_lock().unwrap().iter().next().is_none());
    }
}
