//! Sets of pins, and what keeps the space for them.

use super::super::PinSet;
use super::*;

fn pinned(set: &PinSet<u32>, addr: u64) -> bool {
    let found = set.lock_vma_under_rcu_wait(addr).unwrap();
    found.is_some_and(|vma| *vma.payload() == 7)
}

/// Promise 2 for what a set has pinned: it stays until the set is dropped, beside a
/// writer who wants it.
#[test]
fn loom_a_set_beside_an_unmap() {
    model(|| {
        let mm = space(&[a()]);
        let there = mm.clone();
        let writer = thread::spawn(move || unmap(&there, a()));
        let set = mm.pin_set();
        if let Some(vma) = set.lock_vma_under_rcu_wait(A + 1).unwrap() {
            assert_eq!(*vma.payload(), 7);
            thread::yield_now();
            assert_eq!(*vma.payload(), 7);
            // Without a lookup this time, and by one of another address.
            assert!(pinned(&set, A + 1) && pinned(&set, A + 2));
        }
        drop(set);
        writer.join().unwrap();
        assert!(!pinned(&mm.pin_set(), A + 1));
    });
}

/// "A pin holder that needs a second region of the same unplug": a set that has one
/// of two that go together, in either order, is let in to the other. It has room for
/// one pin in itself, so the second goes to a table.
#[test]
fn loom_a_set_lets_in() {
    for (first, second) in [(A, B), (B, A)] {
        model(move || {
            let mm = space(&[a(), b()]);
            let set = mm.pin_set();
            assert!(pinned(&set, first));
            let there = mm.clone();
            let writer = thread::spawn(move || unmap(&there, range(A, 20)));
            assert!(pinned(&set, second), "goes with the other only");
            assert!(pinned(&set, first));
            drop(set);
            writer.join().unwrap();
        });
    }
}

/// What lies in the table is evidence too.
#[test]
fn loom_a_set_lets_in_by_what_is_in_its_table() {
    model(|| {
        let mm = space(&[range(50, 10), a(), b()]);
        let set = mm.pin_set();
        assert!(pinned(&set, 50) && pinned(&set, A));
        let there = mm.clone();
        let writer = thread::spawn(move || unmap(&there, range(A, 20)));
        assert!(pinned(&set, B), "goes with the other only");
        drop(set);
        writer.join().unwrap();
    });
}

/// What is said in an annex is waited for, and over when the annex is seen to be given
/// back: the last pin of the set is there, and the writer wants that alone.
#[test]
fn loom_a_set_with_an_annex_beside_an_unmap() {
    model(|| {
        let mm = space(&[a(), b()]);
        let set = mm.pin_set();
        assert!(pinned(&set, A));
        let there = mm.clone();
        let writer = thread::spawn(move || unmap(&there, b()));
        if let Some(vma) = set.lock_vma_under_rcu_wait(B).unwrap() {
            assert_eq!(*vma.payload(), 7);
            thread::yield_now();
            assert_eq!(*vma.payload(), 7);
        }
        drop(set);
        writer.join().unwrap();
    });
}

/// A set is copied, into entries that the drain may have passed, and the first one is
/// dropped: what it had pinned stays, in the set itself and in an annex.
#[test]
fn loom_a_set_is_copied() {
    for wanted in [a(), b()] {
        model_bound(2, move || {
            let mm = space(&[a(), b()]);
            let set = mm.pin_set();
            assert!(pinned(&set, A) && pinned(&set, B));
            let there = mm.clone();
            let writer = thread::spawn(move || unmap(&there, wanted));
            let copy = set.clone();
            drop(set);
            assert!(pinned(&copy, wanted.start()));
            drop(copy);
            writer.join().unwrap();
        });
    }
}

/// A set that two threads use, beside a writer of both VMAs: what one has pinned lets
/// the other in.
#[test]
fn loom_a_set_is_shared() {
    model_bound(1, || {
        let mm = space(&[a(), b()]);
        let set = Arc::new(mm.pin_set());
        assert!(pinned(&set, A));
        let (there, theirs) = (mm.clone(), set.clone());
        let writer = thread::spawn(move || unmap(&there, range(A, 20)));
        let other = thread::spawn(move || {
            assert!(pinned(&theirs, B), "goes with the other only");
        });
        drop(set);
        other.join().unwrap();
        writer.join().unwrap();
    });
}

/// A payload that says when the space is gone.
#[derive(Clone)]
struct Told(std::sync::Arc<std::sync::atomic::AtomicBool>);

impl Payload for Told {}

impl Drop for Told {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::SeqCst);
    }
}

type TellingSpace = AddressSpace<Told>;

fn telling_space() -> (TellingSpace, impl Fn() -> bool) {
    let gone = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let told = gone.clone();
    let mm = AddressSpace::starting_at("model", range(0, 100), Strategy::Native, 0, pace(1));
    mm.map(a(), RAM, 0, Told(gone)).unwrap();
    (mm, move || told.load(std::sync::atomic::Ordering::SeqCst))
}

fn holds(set: &PinSet<Told>, is_gone: &impl Fn() -> bool) {
    let vma = set.lock_vma_under_rcu_wait(A).unwrap().unwrap();
    assert!(!vma.payload().0.load(std::sync::atomic::Ordering::SeqCst));
    assert!(!is_gone());
}

/// The space is dropped while its last set is: one of the two ends it, and neither
/// leaves it to the other.
#[test]
fn loom_the_last_lease() {
    model(|| {
        let (mm, is_gone) = telling_space();
        let mm = Arc::new(mm);
        let there = mm.clone();
        let reader = thread::spawn(move || {
            let set = there.pin_set();
            drop(there);
            assert!(set.lock_vma_under_rcu_wait(A).unwrap().is_some());
        });
        drop(mm);
        reader.join().unwrap();
        assert!(is_gone());
    });
}

/// Sets that begin by others, on other threads, while the space is dropped: it stays
/// as long as one of them does.
#[test]
fn loom_a_lease_begun_by_another() {
    model(|| {
        let (mm, is_gone) = telling_space();
        let is_gone = std::sync::Arc::new(is_gone);
        let first = mm.pin_set();
        let told = is_gone.clone();
        let other = thread::spawn(move || {
            let second = first.another();
            drop(first);
            holds(&second, &*told);
        });
        drop(mm);
        other.join().unwrap();
        assert!(is_gone());
    });
}

/// The same with a third, so that a look at each record by turns finds none in any.
#[test]
fn loom_leases_change_records() {
    model_bound(2, || {
        let (mm, is_gone) = telling_space();
        let is_gone = std::sync::Arc::new(is_gone);
        let first = mm.pin_set();
        let extra = mm.pin_set();
        let told = is_gone.clone();
        let other = thread::spawn(move || {
            let second = first.another();
            drop(first);
            holds(&second, &*told);
        });
        drop(mm);
        drop(extra);
        other.join().unwrap();
        assert!(is_gone());
    });
}
