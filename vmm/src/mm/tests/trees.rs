//! Shapes that a tree of ranges goes through: one leaf, split, high, collapsed; and
//! what changes across many nodes at once.

use super::super::Gap;
use super::super::audit::{Shape, audit};
use super::super::node::WIDTH;
use super::*;

const FULL: u64 = WIDTH as u64;

/// What the tree in force looks like, which keeps its claims.
fn shape(mm: &Space) -> Shape {
    let _still = mm.mmap_read_lock().unwrap();
    // SAFETY: the version in force, under the map lock.
    unsafe { audit(mm.core.root()) }
}

fn numbers(mm: &Space) -> Vec<u64> {
    let map = mm.mmap_read_lock().unwrap();
    map.iter().map(|vma| vma.payload().0).collect()
}

fn pages(numbers: std::ops::Range<u64>) -> AddrRange {
    range(at(numbers.start), at(numbers.end - numbers.start))
}

/// With these pages, mapped in one section.
fn at_once(numbers: impl IntoIterator<Item = u64>) -> Arc<Space> {
    let mm = space();
    let mut section = mm.mmap_write_lock().unwrap();
    for number in numbers {
        section.map(page(number), RAM, 0, Tag(number)).unwrap();
    }
    section.lock().unwrap().publish();
    mm
}

#[test]
fn one_leaf_and_none() {
    let mm = space();
    assert_eq!(shape(&mm), Shape::default());
    for count in 1..=FULL {
        mm.map(page(count), RAM, 0, Tag(count)).unwrap();
        let shape = shape(&mm);
        assert_eq!((shape.depth, shape.slots), (1, count as usize));
    }
    for count in (1..=FULL).rev() {
        assert_eq!(shape(&mm).nodes, 1);
        mm.unmap(page(count), None).unwrap();
    }
    assert_eq!(shape(&mm), Shape::default());
    assert!(mm.lock_next_vma(0).unwrap().is_none());
}

#[test]
fn a_full_node_splits_wherever_the_next_one_comes() {
    for place in 0..=FULL {
        let mm = at_once((0..FULL).map(|number| 2 * number + 1));
        assert_eq!(shape(&mm).nodes, 1);
        mm.map(page(2 * place), RAM, 0, Tag(2 * place)).unwrap();
        let split = shape(&mm);
        assert_eq!((split.depth, split.nodes), (2, 3), "at {place}");
        let mut expected: Vec<_> = (0..FULL).map(|number| 2 * number + 1).collect();
        expected.insert(place as usize, 2 * place);
        assert_eq!(numbers(&mm), expected);
    }
}

#[test]
fn a_split_at_both_ends_in_a_full_leaf_and_in_a_full_tree() {
    for leaves in [1, FULL] {
        for place in 0..FULL {
            let mm = at_once(0..FULL * leaves);
            let number = place * leaves;
            mm.unmap(range(at(number) + 0x400, 0x800), None).unwrap();
            assert_eq!(shape(&mm).slots as u64, FULL * leaves + 1);
            let parts = mm.vmas(page(number));
            let parts: Vec<_> = parts.iter().map(|part| part.range).collect();
            let rest = |start| range(start, 0x400);
            assert_eq!(parts, [rest(at(number)), rest(at(number) + 0xc00)]);
        }
    }
}

#[test]
fn it_grows_high_and_collapses() {
    let count = FULL * FULL * 3;
    for downwards in [false, true] {
        let mm = space();
        let mut deepest = 0;
        for number in 0..count {
            let number = if downwards { count - number } else { number };
            mm.map(page(number), RAM, 0, Tag(number)).unwrap();
            let shape = shape(&mm);
            assert!(shape.depth >= deepest, "grows");
            deepest = shape.depth;
        }
        assert!(deepest > 2);
        let all = numbers(&mm);
        for number in &all[1..] {
            mm.unmap(page(*number), None).unwrap();
        }
        let left = shape(&mm);
        assert_eq!((left.depth, left.nodes, left.slots), (1, 1, 1), "collapsed");
    }
}

/// One store over all that lies between two VMAs anywhere in the tree.
#[test]
fn a_store_spans_many_nodes() {
    let count = FULL * FULL * 3;
    let edges = [0, 1, FULL - 1, FULL, FULL + 1, FULL * FULL, FULL * FULL + 7];
    for first in edges {
        for end in edges.map(|edge| count - edge) {
            if end <= first {
                continue;
            }
            let mm = at_once(0..count);
            let mut section = mm.mmap_write_lock().unwrap();
            section.unmap(pages(first..end)).unwrap();
            section.map(pages(first..end), ROM, 0, Tag(count)).unwrap();
            let done = section.lock().unwrap().publish();
            assert_eq!(done.removed.len() as u64, end - first);
            let left = shape(&mm);
            assert_eq!(left.slots as u64, count - (end - first) + 1);
            let expected = (0..first).chain([count]).chain(end..count);
            assert_eq!(numbers(&mm), expected.collect::<Vec<_>>());
            let flags = mm.lock_vma_under_rcu(at(end) - 1).unwrap().flags();
            assert_eq!(flags, ROM);
        }
    }
}

#[test]
fn protect_and_relocate_span_many_nodes() {
    let count = FULL * FULL * 2;
    let mm = at_once(0..count);
    let mut section = mm.mmap_write_lock().unwrap();
    let some = range(at(5) + 0x800, at(count - 10));
    section.protect(some, ROM).unwrap();
    section.relocate(pages(0..count), at(2 * count)).unwrap();
    section.lock().unwrap().publish();
    assert_eq!(shape(&mm).slots as u64, count + 2, "split at both ends");
    assert!(mm.vmas(pages(0..2 * count)).is_empty());
    let map = mm.mmap_read_lock().unwrap();
    let changed = map.iter().filter(|vma| vma.flags() == ROM);
    let len: u64 = changed.map(|vma| vma.range().len().unwrap()).sum();
    assert_eq!(Some(len), some.len());
}

/// Gaps in one leaf, between leaves and between inner nodes grow together, in the
/// tree and in a plan, whatever goes first.
#[test]
fn gaps_coalesce() {
    let count = FULL * FULL * 2;
    let gap = |len, highest| Gap {
        len: at(len),
        align: at(1),
        window: pages(0..count),
        highest,
    };
    for middle in [1, FULL - 1, FULL, FULL + 1, FULL * FULL - 1, FULL * FULL] {
        for order in [[0, 1, 2], [2, 1, 0], [0, 2, 1], [1, 0, 2]] {
            let mm = at_once(0..count);
            let mut planned = mm.mmap_write_lock().unwrap();
            for (freed, step) in order.into_iter().enumerate() {
                planned.unmap(page(middle - 1 + step)).unwrap();
                let found = planned.find_gap(gap(freed as u64 + 2, false));
                assert_eq!(found, None, "no more than was freed");
            }
            let all = Some(pages(middle - 1..middle + 2));
            assert_eq!(planned.find_gap(gap(3, true)), all);
            drop(planned);
            for step in order {
                mm.unmap(page(middle - 1 + step), None).unwrap();
                shape(&mm);
            }
            let mut section = mm.mmap_write_lock().unwrap();
            for highest in [false, true] {
                assert_eq!(section.find_gap(gap(3, highest)), all);
                assert_eq!(section.find_gap(gap(4, highest)), None);
            }
            // And are filled again.
            section.map(page(middle), RAM, 0, Tag(0)).unwrap();
            assert_eq!(section.find_gap(gap(2, false)), None);
            let (low, high) = (page(middle - 1), page(middle + 1));
            assert_eq!(section.find_gap(gap(1, false)), Some(low));
            assert_eq!(section.find_gap(gap(1, true)), Some(high));
            section.lock().unwrap().publish();
            shape(&mm);
        }
    }
}
