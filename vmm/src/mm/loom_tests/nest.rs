//! Holding several: promise 8.

use super::*;

/// "A set locked in every order": a reader takes both members, in either order,
/// while a writer wants both. No deadlock, and both are what they were.
#[test]
fn loom_nested_lookups_beside_a_writer_of_both() {
    for (outer, inner) in [(A, B), (B, A)] {
        model(move || {
            let mm = space(&[a(), b()]);
            let there = mm.clone();
            let writer = thread::spawn(move || unmap(&there, range(A, 20)));
            if let Some(first) = lookup(&mm, outer) {
                let second = lookup(&mm, inner).expect("goes with the other only");
                use_it(&second);
                use_it(&first);
            }
            writer.join().unwrap();
        });
    }
}

/// "A hold released out of order": the outer one first, so that the drain may have
/// passed where the inner one is, and then finds the outer one gone.
#[test]
fn loom_the_outer_hold_is_released_first() {
    for (outer, inner) in [(A, B), (B, A)] {
        model(move || {
            let mm = space(&[a(), b()]);
            let there = mm.clone();
            let writer = thread::spawn(move || unmap(&there, range(A, 20)));
            if let Some(first) = lookup(&mm, outer) {
                let second = lookup(&mm, inner).expect("goes with the other only");
                drop(first);
                use_it(&second);
            }
            writer.join().unwrap();
        });
    }
}

/// The inner VMA is replaced by one section, and a second one then wants both.
#[test]
fn loom_nested_with_the_target_replaced() {
    model(|| {
        let mm = space(&[a(), b()]);
        let there = mm.clone();
        let writer = thread::spawn(move || {
            replace(&there, b(), ROM);
            replace(&there, range(A, 20), VmFlags::NONE);
        });
        let first = lookup(&mm, A).expect("always mapped");
        let second = lookup(&mm, B).expect("always mapped");
        use_it(&second);
        drop(first);
        use_it(&second);
        drop(second);
        writer.join().unwrap();
    });
}
