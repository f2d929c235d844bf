//! One reader, one writer: promises 1, 2, 10 and 11.

use super::*;

/// Promise 2, and "VMA removed between publish and walk", "writer between the
/// reader's two loads", "last reader leaving": what is held stays, and what is
/// removed is the writer's alone.
#[test]
fn loom_hold_or_miss_beside_an_unmap() {
    model(|| {
        let mm = space(&[a()]);
        let there = mm.clone();
        let writer = thread::spawn(move || unmap(&there, a()));
        if let Some(guard) = lookup(&mm, A + 1) {
            use_it(&guard);
        }
        writer.join().unwrap();
        assert!(lookup(&mm, A + 1).is_none());
    });
}

/// The same for the try-lookup, whose entry is published and cleared by the one
/// rule.
#[test]
fn loom_try_lookup_beside_an_unmap() {
    model(|| {
        let mm = space(&[a()]);
        let there = mm.clone();
        let writer = thread::spawn(move || unmap(&there, a()));
        if let Some(guard) = mm.lock_vma_under_rcu(A + 1) {
            use_it(&guard);
        }
        writer.join().unwrap();
        assert!(mm.lock_vma_under_rcu(A + 1).is_none());
    });
}

/// Promise 1: an address that stays mapped is never missed, however the VMAs over
/// it change.
#[test]
fn loom_no_false_none() {
    model(|| {
        let mm = space(&[a()]);
        let there = mm.clone();
        let writer = thread::spawn(move || {
            replace(&there, range(A, 5), ROM);
            replace(&there, range(A + 5, 5), ROM);
        });
        let guard = lookup(&mm, A + 1).expect("always mapped");
        use_it(&guard);
        drop(guard);
        writer.join().unwrap();
    });
}

/// "Removed and a new one mapped at the same address", in two sections: what is
/// found is one or the other, whole.
#[test]
fn loom_removed_and_mapped_anew() {
    model(|| {
        let mm = space(&[a()]);
        let there = mm.clone();
        let writer = thread::spawn(move || {
            unmap(&there, a());
            there.map(a(), ROM, 0, 7).unwrap();
        });
        if let Some(guard) = lookup(&mm, A + 1) {
            use_it(&guard);
            assert_eq!(guard.flags() == RAM, guard.generation() == 1);
        }
        writer.join().unwrap();
    });
}

/// Promise 11, and "a reader parked at the border": the two sides of a border that
/// a section changes are both old or both new.
#[test]
fn loom_both_sides_old_or_both_new() {
    model(|| {
        let mm = space(&[a(), b()]);
        let there = mm.clone();
        let writer = thread::spawn(move || replace(&there, range(A, 20), ROM));
        let left = lookup(&mm, A).expect("always mapped");
        let right = lookup(&mm, B).expect("always mapped");
        assert_eq!(left.generation(), right.generation());
        use_it(&left);
        use_it(&right);
        drop(right);
        drop(left);
        writer.join().unwrap();
    });
}

/// Two readers of one VMA beside its removal: a drain waits for both.
#[test]
fn loom_two_readers_beside_an_unmap() {
    model(|| {
        let mm = space(&[a()]);
        let (first, second) = (mm.clone(), mm.clone());
        let writer = thread::spawn(move || unmap(&first, a()));
        let reader = thread::spawn(move || {
            if let Some(guard) = lookup(&second, A) {
                use_it(&guard);
            }
        });
        if let Some(guard) = lookup(&mm, A + 9) {
            use_it(&guard);
        }
        writer.join().unwrap();
        reader.join().unwrap();
    });
}

/// Promise 5: a writer elsewhere makes nobody wait, and frees nothing that a
/// reader walks over.
#[test]
fn loom_a_writer_elsewhere_is_not_waited_for() {
    model(|| {
        let mm = space(&[a(), b()]);
        let there = mm.clone();
        let writer = thread::spawn(move || {
            replace(&there, b(), ROM);
            unmap(&there, b());
        });
        let (guard, path) = lookup_path(&mm, A);
        use_it(&guard.expect("always mapped"));
        assert_eq!(path.waited, None);
        writer.join().unwrap();
    });
}

/// "The counter near wrap-around": sections on both sides of it.
#[test]
fn loom_the_counter_wraps() {
    model(|| {
        let mm = space_at(&[a()], u64::MAX - 3);
        let there = mm.clone();
        let writer = thread::spawn(move || {
            replace(&there, a(), ROM);
            replace(&there, a(), RAM);
        });
        use_it(&lookup(&mm, A).expect("always mapped"));
        writer.join().unwrap();
    });
}

/// A thread that finds again what it found last: not once a section has changed it,
/// however late the thread is.
#[test]
fn loom_what_was_found_last_may_be_gone() {
    model(|| {
        // With two left, the tree is none of the small ones, in which nothing is
        // remembered.
        let mm = space(&[a(), b(), range(50, 10)]);
        use_it(&lookup(&mm, A).unwrap());
        let there = mm.clone();
        let writer = thread::spawn(move || {
            replace(&there, b(), ROM);
            unmap(&there, a());
        });
        if let Some(guard) = lookup(&mm, A + 1) {
            use_it(&guard);
        }
        writer.join().unwrap();
        assert!(lookup(&mm, A + 1).is_none());
    });
}

/// An entry that its owner fills again, for another address: a drain that reads the
/// new address beside the old state may only pass by if it has seen what went before.
#[test]
fn loom_an_entry_goes_on_to_another_address() {
    model(|| {
        let mm = space(&[a(), b()]);
        let there = mm.clone();
        let writer = thread::spawn(move || unmap(&there, a()));
        if let Some(guard) = lookup(&mm, A) {
            use_it(&guard);
        }
        use_it(&lookup(&mm, B).expect("always mapped"));
        writer.join().unwrap();
    });
}

/// A walk that locks nothing sees one version, and nothing is freed under it.
#[test]
fn loom_a_bare_walk_beside_changes() {
    model(|| {
        let mm = space(&[a(), b()]);
        let there = mm.clone();
        let writer = thread::spawn(move || {
            replace(&there, range(A, 20), ROM);
            unmap(&there, a());
        });
        let all = mm.vmas(range(0, 100));
        let generations: Vec<_> = all.iter().map(|vma| vma.generation).collect();
        match *generations {
            [left, right] => assert_eq!(left, right),
            [right] => assert_eq!((right, all[0].range), (3, b())),
            _ => panic!("{all:?}"),
        }
        writer.join().unwrap();
    });
}

/// A section that removes and maps, then publishes something else instead: what stays is
/// never missed, what is made anew is there before or after, and what was planned never.
#[test]
fn loom_published_instead() {
    model(|| {
        let mm = space(&[a(), b()]);
        let there = mm.clone();
        let writer = thread::spawn(move || {
            let mut section = there.mmap_write_lock().unwrap();
            section.unmap(range(A, 20)).unwrap();
            section.map(range(A, 30), ROM, 0, 8).unwrap();
            let drained = section.lock().unwrap();
            let done = drained.publish_instead(|vma| (vma.range() == a()).then_some((ROM, 7)));
            assert!(done.removed.is_empty());
            assert_eq!(done.replaced.len(), 1);
            assert_eq!(*done.replaced[0].payload(), 7);
        });
        let made = lookup(&mm, A).expect("always mapped");
        use_it(&made);
        assert_eq!(made.range(), a());
        assert_eq!(made.generation() == 1, made.flags() == RAM);
        drop(made);
        let kept = lookup(&mm, B).expect("always mapped");
        use_it(&kept);
        assert_eq!((kept.range(), kept.generation()), (b(), 1));
        drop(kept);
        writer.join().unwrap();
        assert!(lookup(&mm, 20).is_none());
    });
}
