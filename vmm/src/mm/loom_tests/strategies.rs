//! The other strategies: each one's lookup beside a writer, and the map lock that
//! three of them wait for.

use super::*;
use crate::mm::maplock::MapLock;

/// What is held stays, and what is removed is the writer's alone.
fn hold_or_miss(strategy: Strategy) {
    model(move || {
        let mm = space_by(strategy, &[a()], 0);
        let there = mm.clone();
        let writer = thread::spawn(move || unmap(&there, a()));
        if let Some(guard) = lookup(&mm, A + 1) {
            use_it(&guard);
        }
        writer.join().unwrap();
        assert!(lookup(&mm, A + 1).is_none());
    });
}

/// What stays mapped is not missed, and what is held does not change.
fn no_false_none(strategy: Strategy) {
    model_bound(2, move || {
        let mm = space_by(strategy, &[a()], 0);
        let there = mm.clone();
        let writer = thread::spawn(move || {
            replace(&there, range(A, 5), ROM);
            replace(&there, range(A + 5, 5), ROM);
        });
        let (guard, path) = lookup_path(&mm, A + 1);
        use_it(&guard.expect("always mapped"));
        assert!(path.retries == 0 || strategy == Strategy::Retry);
        writer.join().unwrap();
    });
}

/// A hold that becomes a pin, beside an unmap: one or the other is seen.
fn pinned(strategy: Strategy) {
    model(move || {
        let mm = space_by(strategy, &[a()], 0);
        let there = mm.clone();
        let writer = thread::spawn(move || unmap(&there, a()));
        if let Some(guard) = mm.lock_vma_under_rcu(A) {
            let pin = guard.pin();
            assert_eq!(*pin.payload(), 7);
        }
        writer.join().unwrap();
    });
}

/// Two members of one write set, the outer hold released first.
fn nested(strategy: Strategy) {
    model_bound(2, move || {
        let mm = space_by(strategy, &[a(), b()], 0);
        let there = mm.clone();
        let writer = thread::spawn(move || unmap(&there, range(A, 20)));
        if let Some(outer) = lookup(&mm, B) {
            let inner = lookup(&mm, A).expect("the writer waits for the outer hold");
            drop(outer);
            use_it(&inner);
        }
        writer.join().unwrap();
    });
}

#[test]
fn loom_retry_beside_an_unmap() {
    hold_or_miss(Strategy::Retry);
}

#[test]
fn loom_retry_beside_changes() {
    no_false_none(Strategy::Retry);
}

#[test]
fn loom_pin_beside_an_unmap() {
    hold_or_miss(Strategy::Pin);
}

#[test]
fn loom_pin_beside_changes() {
    no_false_none(Strategy::Pin);
}

/// A second section wants the same VMA as soon as the one that is waited for is over.
#[test]
fn loom_pin_is_not_overtaken() {
    model_bound(2, || {
        let mm = space_by(Strategy::Pin, &[a()], 0);
        let there = mm.clone();
        let writer = thread::spawn(move || {
            replace(&there, a(), ROM);
            replace(&there, a(), VmFlags::NONE);
        });
        use_it(&lookup(&mm, A).expect("always mapped"));
        writer.join().unwrap();
    });
}

#[test]
fn loom_refcount_beside_an_unmap() {
    hold_or_miss(Strategy::Refcount);
}

#[test]
fn loom_refcount_beside_changes() {
    no_false_none(Strategy::Refcount);
}

#[test]
fn loom_refcount_nested() {
    nested(Strategy::Refcount);
}

#[test]
fn loom_refcount_pinned() {
    pinned(Strategy::Refcount);
}

#[test]
fn loom_rwlock_beside_an_unmap() {
    hold_or_miss(Strategy::Rwlock);
}

#[test]
fn loom_rwlock_beside_changes() {
    no_false_none(Strategy::Rwlock);
}

#[test]
fn loom_rwlock_nested() {
    nested(Strategy::Rwlock);
}

#[test]
fn loom_rwlock_pinned() {
    pinned(Strategy::Rwlock);
}

/// Writers and a reader of the map exclude each other, and nobody is left asleep.
#[test]
fn loom_the_map_lock() {
    model(|| {
        let lock = Arc::new(MapLock::new());
        let data = Arc::new(loom::cell::UnsafeCell::new(0));
        let write = |lock: &MapLock, data: &loom::cell::UnsafeCell<u32>| {
            lock.write(None).unwrap();
            // SAFETY: what the model is to show: nobody else is here.
            data.with_mut(|value| unsafe { *value += 1 });
            lock.end_write();
        };
        let there = (lock.clone(), data.clone());
        let writer = thread::spawn(move || write(&there.0, &there.1));
        let there = (lock.clone(), data.clone());
        let reader = thread::spawn(move || {
            there.0.read_in_turn();
            // SAFETY: as above: no writer is here.
            there.1.with(|value| assert!(unsafe { *value } <= 2));
            // One who has it may take it once more, past a writer that waits.
            there.0.read().unwrap();
            there.0.end_read();
            there.0.end_read();
        });
        write(&lock, &data);
        writer.join().unwrap();
        reader.join().unwrap();
        assert!(lock.try_read(), "nobody is said to have it, or to wait");
        // SAFETY: as above.
        data.with(|value| assert_eq!(unsafe { *value }, 2));
    });
}
