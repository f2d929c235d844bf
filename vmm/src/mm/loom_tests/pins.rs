//! Pins, and records that change hands.

use super::*;

/// "A pin holder that needs a second region of the same unplug": it is let in by
/// the pin it presents, which it then drops first.
#[test]
fn loom_a_pin_lets_in() {
    for (outer, inner) in [(A, B), (B, A)] {
        model(move || {
            let mm = space(&[a(), b()]);
            let pin = lookup(&mm, outer).unwrap().pin();
            let there = mm.clone();
            let writer = thread::spawn(move || unmap(&there, range(A, 20)));
            let mut path = LookupPath::default();
            let second = pin
                .lock_vma_under_rcu_wait_with(inner, WaitOptions::default(), &mut path)
                .unwrap()
                .expect("goes with the other only");
            let second = second.pin();
            drop(pin);
            assert_eq!(*second.payload(), 7);
            drop(second);
            writer.join().unwrap();
        });
    }
}

/// "A hold moved": the pin is copied into an entry that the drain may have passed,
/// and the first one is dropped.
#[test]
fn loom_a_pin_is_copied() {
    model(|| {
        let mm = space(&[a()]);
        // The copy is in an entry before that of the first, or after it.
        let before = lookup(&mm, A).unwrap();
        let pin = lookup(&mm, A).unwrap().pin();
        drop(before);
        let there = mm.clone();
        let writer = thread::spawn(move || unmap(&there, a()));
        let copy = pin.clone();
        drop(pin);
        assert_eq!(*copy.payload(), 7);
        drop(copy);
        writer.join().unwrap();
    });
}

/// "A thread that exits while registered; a record reused by a new thread": the
/// pin of a thread that is gone stays, whoever comes next.
#[test]
fn loom_a_record_with_a_pin_in_it_is_not_reused() {
    model(|| {
        let mm = space(&[a(), b()]);
        let there = mm.clone();
        let made = thread::spawn(move || lookup(&there, A).unwrap().pin());
        let pin = made.join().unwrap();
        let (first, second) = (mm.clone(), mm.clone());
        let writer = thread::spawn(move || unmap(&first, a()));
        let reader = thread::spawn(move || {
            use_it(&lookup(&second, B).unwrap());
        });
        assert_eq!(*pin.payload(), 7);
        reader.join().unwrap();
        assert_eq!(*pin.payload(), 7);
        drop(pin);
        writer.join().unwrap();
    });
}

/// An entry that another thread empties is filled again by its owner: the address
/// that a writer then reads proves that the pin is over.
#[test]
fn loom_an_entry_is_filled_again() {
    model(|| {
        let mm = space(&[a(), b()]);
        let pin = lookup(&mm, A).unwrap().pin();
        let (first, second) = (mm.clone(), mm.clone());
        let writer = thread::spawn(move || {
            unmap(&first, a());
        });
        let other = thread::spawn(move || {
            assert_eq!(*pin.payload(), 7);
            drop(pin);
            drop(second);
        });
        use_it(&lookup(&mm, B).unwrap());
        other.join().unwrap();
        writer.join().unwrap();
    });
}

/// A pin that is in the record of this thread and in the hands of another: it lets
/// nobody in, since it may be gone at any moment, and the drain with it.
#[test]
fn loom_a_pin_in_other_hands_lets_nobody_in() {
    model(|| {
        let mm = space(&[a(), b()]);
        let pin = lookup(&mm, A).unwrap().pin();
        let there = mm.clone();
        let writer = thread::spawn(move || unmap(&there, range(A, 20)));
        let other = thread::spawn(move || drop(pin));
        let (guard, path) = lookup_path(&mm, B);
        assert!(!path.nested);
        if let Some(guard) = guard {
            use_it(&guard);
        }
        other.join().unwrap();
        writer.join().unwrap();
    });
}

/// "A record reused by a new thread", which comes while the other goes: it has the
/// record after it, or one of its own.
#[test]
fn loom_a_record_changes_hands() {
    model(|| {
        let mm = space(&[a()]);
        let readers = [mm.clone(), mm.clone()]
            .map(|mm| thread::spawn(move || use_it(&lookup(&mm, A).expect("always mapped"))));
        for reader in readers {
            reader.join().unwrap();
        }
        unmap(&mm, a());
    });
}

/// A thread's record is new to a writer that is already looking, and so is the piece
/// that its holds spill into.
#[test]
fn loom_holds_spill_beside_a_writer() {
    model(|| {
        let mm = space(&[a(), b()]);
        let there = mm.clone();
        let reader = thread::spawn(move || {
            let held = [A, B, A].map(|addr| lookup(&there, addr));
            // What is found in the end is what the writer has left.
            held.iter().flatten().for_each(use_it);
        });
        unmap(&mm, a());
        reader.join().unwrap();
    });
}
