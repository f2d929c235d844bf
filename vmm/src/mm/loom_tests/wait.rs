//! Waiting: promises 6 and 7, and what may be freed under a waiter.

use super::*;
use crate::mm::{KillFlag, LookupError};

/// Promise 6, "waiter woken while the next writer marks the same address", "split
/// or merge under a waiter": it has one sleep, then takes what is there.
#[test]
fn loom_a_waiter_is_not_overtaken() {
    model(|| {
        let mm = space(&[a()]);
        let there = mm.clone();
        let writer = thread::spawn(move || {
            replace(&there, range(A, 5), ROM);
            replace(&there, a(), VmFlags::NONE);
        });
        let (guard, _) = lookup_path(&mm, A + 7);
        use_it(&guard.expect("always mapped"));
        writer.join().unwrap();
    });
}

/// "Move under a waiter": where it was there is nothing any more, or what comes next
/// is at its place; where it went it is found by whoever looks there after.
#[test]
fn loom_moved_under_a_waiter() {
    for refilled in [false, true] {
        model(move || {
            let mm = space(&[a()]);
            let there = mm.clone();
            let writer = thread::spawn(move || {
                let mut section = there.mmap_write_lock().unwrap();
                section.relocate(a(), 50).unwrap();
                if refilled {
                    section.map(range(A, 20), ROM, 0, 7).unwrap();
                }
                section.lock().unwrap().publish();
            });
            let (guard, _) = lookup_path(&mm, A + 1);
            assert!(guard.is_some() || !refilled, "always mapped");
            if let Some(guard) = guard {
                use_it(&guard);
                assert!(guard.range() == a() || refilled && guard.range() == range(A, 20));
            } else {
                use_it(&lookup(&mm, 51).expect("moved there"));
            }
            writer.join().unwrap();
        });
    }
}

/// A section elsewhere, after the one that was waited for, retires the tree that
/// the woken waiter is walking.
#[test]
fn loom_the_tree_stays_under_a_woken_waiter() {
    model(|| {
        let mm = space(&[a(), b()]);
        let there = mm.clone();
        let writer = thread::spawn(move || {
            replace(&there, a(), ROM);
            replace(&there, b(), ROM);
        });
        use_it(&lookup(&mm, A).expect("always mapped"));
        writer.join().unwrap();
    });
}

/// Promise 7, "waiter killed while its mark is set": it comes back, and leaves
/// nothing that the next writer would wait for.
#[test]
fn loom_a_killed_waiter_leaves_no_mark() {
    model(|| {
        let mm = space(&[a()]);
        let kill = Arc::new(KillFlag::new());
        let (first, second) = (mm.clone(), kill.clone());
        let writer = thread::spawn(move || {
            replace(&first, a(), ROM);
            replace(&first, a(), RAM);
        });
        let killer = thread::spawn(move || second.raise());
        let options = WaitOptions {
            kill: Some(&kill),
            ..WaitOptions::default()
        };
        let mut path = LookupPath::default();
        match mm.lock_vma_under_rcu_wait_with(A, options, &mut path) {
            Ok(guard) => use_it(&guard.expect("always mapped")),
            Err(error) => assert_eq!(error, LookupError::Killed),
        }
        killer.join().unwrap();
        writer.join().unwrap();
    });
}

/// Whoever raises the flag also wakes: the section that is waited for does not end
/// before the waiter has come back.
#[test]
fn loom_raising_the_flag_wakes() {
    model(|| {
        let mm = space(&[a()]);
        let kill = Arc::new(KillFlag::new());
        let (there, flag) = (mm.clone(), kill.clone());
        let mut section = mm.mmap_write_lock().unwrap();
        section.unmap(a()).unwrap();
        let drained = section.lock().unwrap();
        let reader = thread::spawn(move || {
            let options = WaitOptions {
                kill: Some(&flag),
                ..WaitOptions::default()
            };
            let mut path = LookupPath::default();
            let result = there.lock_vma_under_rcu_wait_with(A, options, &mut path);
            assert_eq!(result.err(), Some(LookupError::Killed));
        });
        kill.raise();
        reader.join().unwrap();
        drop(drained);
    });
}

/// A drain in rounds: each ends with nothing changed, and whoever waits gets in.
#[test]
fn loom_rounds_let_waiters_in() {
    model(|| {
        let mm = AddressSpace::starting_at("model", range(0, 100), Strategy::Native, 0, pace(0));
        mm.map(a(), RAM, 0, 7).unwrap();
        let mm = Arc::new(mm);
        let there = mm.clone();
        let writer = thread::spawn(move || unmap(&there, a()));
        if let Some(guard) = lookup(&mm, A) {
            use_it(&guard);
        }
        writer.join().unwrap();
    });
}
