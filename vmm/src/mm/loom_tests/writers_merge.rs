//! Merging beside readers: promise 12.

use super::*;

/// The same as any other with the same number.
#[derive(Clone, Debug, PartialEq)]
struct Part(u32);

impl Payload for Part {
    fn same(&self, other: &Self) -> bool {
        self == other
    }
}

type Parts = Arc<AddressSpace<Part>>;

/// One at [`A`], one at [`B`], which are the same but for their flags.
fn parts() -> Parts {
    parts_by(Strategy::Native)
}

/// Far from both.
const C: u64 = 50;

fn parts_by(strategy: Strategy) -> Parts {
    let mm = AddressSpace::starting_at("model", range(0, 100), strategy, 0, pace(1));
    let mut section = mm.mmap_write_lock().unwrap();
    section.map(range(C, 10), RAM, 0, Part(1)).unwrap();
    section.map(a(), RAM, A, Part(7)).unwrap();
    section.map(b(), ROM, B, Part(7)).unwrap();
    section.lock().unwrap().publish();
    Arc::new(mm)
}

/// Makes them the same; returns whether they were merged.
fn merge(mm: &Parts) -> bool {
    let mut section = mm.mmap_write_lock().unwrap();
    section.protect(b(), RAM).unwrap();
    let done = section.lock().unwrap().publish();
    assert!(done.removed.is_empty());
    assert!(done.replaced.iter().all(|vma| *vma.payload() == Part(7)));
    done.replaced.len() == 2
}

fn look(mm: &Parts, addr: u64) -> VmaReadGuard<'_, Part> {
    mm.lock_vma_under_rcu_wait(addr)
        .unwrap()
        .expect("always mapped")
}

fn use_part(guard: &VmaReadGuard<'_, Part>) {
    assert_eq!(*guard.payload(), Part(7));
    let generation = guard.generation();
    thread::yield_now();
    assert_eq!(*guard.payload(), Part(7));
    assert_eq!(guard.generation(), generation);
}

/// "A reader across a border that a writer merges": holding both sides, it has two
/// that meet, or the one. A writer that merged under its first hold, or a lookup
/// let in because of that hold to what is drained already, would break this.
#[test]
fn loom_across_a_border_that_is_merged() {
    for addrs in [[A, B], [B, A]] {
        model(move || {
            let mm = parts();
            let there = mm.clone();
            let writer = thread::spawn(move || merge(&there));
            let held = addrs.map(|addr| look(&mm, addr));
            let mut ranges = held.each_ref().map(|guard| guard.range());
            ranges.sort();
            let both = ranges == [range(A, 20), range(A, 20)];
            assert!(both || ranges == [a(), b()], "{ranges:?}");
            held.iter().for_each(use_part);
            drop(held);
            assert!(writer.join().unwrap() || !both);
        });
    }
}

/// Both sides of a border: what the reader holds of either is of one version.
fn both_sides(mm: &Parts, left: u64, right: u64) -> [(AddrRange, VmFlags); 2] {
    let held = [look(mm, left), look(mm, right)];
    held.iter().for_each(use_part);
    held.map(|guard| (guard.range(), guard.flags()))
}

/// "A reader across a border that a writer splits", which is not there before and
/// lies between what it wants.
#[test]
fn loom_across_a_border_that_is_split() {
    for [left, right] in [[A, A + 7], [A + 7, A]] {
        model(move || {
            let mm = parts();
            let there = mm.clone();
            let writer = thread::spawn(move || {
                let mut section = there.mmap_write_lock().unwrap();
                section.protect(range(A, 5), VmFlags::NONE).unwrap();
                section.lock().unwrap().publish();
            });
            let seen = both_sides(&mm, left.min(right), left.max(right));
            let (old, new) = ((a(), RAM), (range(A, 5), VmFlags::NONE));
            let split = [new, (range(A + 5, 5), RAM)];
            assert!(seen == [old; 2] || seen == split, "{seen:?}");
            writer.join().unwrap();
        });
    }
}

/// "A reader across a border that a writer moves", from B down into what it wants.
#[test]
fn loom_across_a_border_that_is_moved() {
    model(|| {
        let mm = parts();
        let there = mm.clone();
        let writer = thread::spawn(move || {
            let mut section = there.mmap_write_lock().unwrap();
            section.protect(range(A + 5, 5), ROM).unwrap();
            section.lock().unwrap().publish();
        });
        let seen = both_sides(&mm, A, A + 7);
        let left = (range(A, 5), RAM);
        let moved = [left, (range(A + 5, 15), ROM)];
        assert!(seen == [(a(), RAM); 2] || seen == moved, "{seen:?}");
        writer.join().unwrap();
    });
}

/// A reader of the neighbour alone: it has it at once or after one sleep, while
/// one section may merge it and the next wants it as it is.
#[test]
fn loom_a_neighbour_that_is_tried() {
    model(|| {
        let mm = parts();
        let there = mm.clone();
        let writer = thread::spawn(move || {
            merge(&there);
            let mut section = there.mmap_write_lock().unwrap();
            section.protect(a(), ROM).unwrap();
            section.lock().unwrap().publish();
        });
        use_part(&look(&mm, A));
        writer.join().unwrap();
        assert_eq!(look(&mm, A).flags(), ROM);
    });
}

/// Who holds the neighbour keeps it apart, and is not waited for: its guard is
/// dropped only when the section is over.
#[test]
fn loom_a_held_neighbour_stays_apart() {
    model(|| {
        let mm = parts();
        let guard = look(&mm, A);
        let there = mm.clone();
        let writer = thread::spawn(move || merge(&there));
        assert!(!writer.join().unwrap());
        use_part(&guard);
        drop(guard);
        assert_eq!(look(&mm, B).range(), b());
    });
}

/// The same for a hold that no entry says, and for one that becomes a pin while the
/// writer looks.
#[test]
fn loom_a_neighbour_held_by_its_count_stays_apart() {
    model(|| {
        let mm = parts_by(Strategy::Refcount);
        let guard = look(&mm, A);
        let there = mm.clone();
        let writer = thread::spawn(move || merge(&there));
        let pin = guard.pin();
        assert!(!writer.join().unwrap());
        assert_eq!(*pin.payload(), Part(7));
        drop(pin);
        assert_eq!(look(&mm, B).range(), b());
    });
}

/// A lookup by each of the others, of a neighbour that may be merged meanwhile.
#[test]
fn loom_strategies_beside_a_border_that_is_merged() {
    for strategy in Strategy::ALL {
        model_bound(2, move || {
            let mm = parts_by(strategy);
            let there = mm.clone();
            let writer = thread::spawn(move || merge(&there));
            use_part(&look(&mm, A));
            let merged = writer.join().unwrap();
            assert_eq!(look(&mm, A).range() == range(A, 20), merged);
        });
    }
}

/// A pin of the neighbour that moves from entry to entry, past the scan.
#[test]
fn loom_a_pin_of_the_neighbour_is_copied() {
    model(|| {
        let mm = parts();
        let pin = look(&mm, A).pin();
        let there = mm.clone();
        let writer = thread::spawn(move || merge(&there));
        let copy = pin.clone();
        drop(pin);
        assert_eq!(*copy.payload(), Part(7));
        assert!(
            !writer.join().unwrap(),
            "one of the two was there all the while"
        );
        assert_eq!(*copy.payload(), Part(7));
    });
}

/// A hold of the neighbour that comes when the writer has looked once, and moves to an
/// earlier entry while it looks again: neither entry says so when it is looked at.
#[test]
fn loom_a_hold_moves_past_the_scan_of_the_neighbour() {
    model_bound(2, || {
        let mm = parts();
        let first = look(&mm, C);
        let there = mm.clone();
        let writer = thread::spawn(move || merge(&there));
        let pin = look(&mm, A).pin();
        let before = pin.range();
        drop(first);
        let copy = pin.clone();
        drop(pin);
        writer.join().unwrap();
        assert_eq!((copy.range(), copy.payload()), (before, &Part(7)));
    });
}
