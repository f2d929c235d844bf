//! Readers that wait, nest, pin, forget and exit.

use std::thread;
use std::time::Instant;

use super::super::{KillFlag, LookupError, LookupPath, SpaceOptions, WaitOptions};
use super::*;

#[test]
fn a_waiter_gets_in_when_the_section_ends() {
    let mm = space_with([1]);
    let mut section = mm.mmap_write_lock().unwrap();
    section.protect(page(1), ROM).unwrap();
    let number = section.number();
    let drained = section.lock().unwrap();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let mut path = LookupPath::default();
            let options = WaitOptions::default();
            let vma = mm.lock_vma_under_rcu_wait_with(at(1), options, &mut path);
            let vma = vma.unwrap().unwrap();
            (vma.flags(), vma.generation(), path.waited.unwrap().section)
        });
        until(|| mm.stats().lookup_wait == 1);
        drained.publish();
        assert_eq!(waiter.join().unwrap(), (ROM, number, number));
    });
}

#[test]
fn a_waiter_gives_up_at_its_deadline_or_when_killed() {
    let mm = space_with([1]);
    let kill = KillFlag::new();
    let mut section = mm.mmap_write_lock().unwrap();
    section.unmap(page(1)).unwrap();
    let drained = section.lock().unwrap();
    let look = |options| {
        let mut path = LookupPath::default();
        let result = mm.lock_vma_under_rcu_wait_with(at(1), options, &mut path);
        assert!(path.waited.is_some());
        result.map(|_| ()).unwrap_err()
    };
    thread::scope(|scope| {
        let deadline = Some(Instant::now());
        let late = WaitOptions {
            deadline,
            kill: None,
        };
        let late = scope.spawn(move || look(late));
        assert_eq!(late.join().unwrap(), LookupError::TimedOut);
        let killed = WaitOptions {
            deadline: None,
            kill: Some(&kill),
        };
        let killed = scope.spawn(move || look(killed));
        until(|| mm.stats().lookup_wait == 2);
        kill.raise();
        assert_eq!(killed.join().unwrap(), LookupError::Killed);
    });
    drop(drained);
    // Neither left a mark that this would wait for.
    let done = mm.unmap(page(1), None).unwrap();
    assert_eq!(done.drain.holders, []);
}

#[test]
fn a_holder_of_a_member_is_let_in() {
    let mm = patient_space_with([1, 2]);
    let first = mm.lock_vma_under_rcu(at(1)).unwrap();
    thread::scope(|scope| {
        let writer = scope.spawn(|| mm.unmap(range(at(1), 0x2000), None).unwrap());
        until(|| mm.core.bell.is_sleeping());
        let mut path = LookupPath::default();
        let options = WaitOptions::default();
        let second = mm.lock_vma_under_rcu_wait_with(at(2), options, &mut path);
        assert!(path.nested && path.waited.is_none());
        drop(first);
        assert_eq!(second.unwrap().unwrap().payload(), &Tag(2));
        assert_eq!(writer.join().unwrap().removed.len(), 2);
    });
    assert_eq!(mm.stats().nested_admission, 1);
}

#[test]
fn a_pin_goes_to_another_thread_and_is_waited_for() {
    let mm = patient_space_with([1, 2]);
    let there = mm.clone();
    let named = thread::Builder::new().name("disk".into());
    let made = named.spawn(move || there.lock_vma_under_rcu(at(1)).unwrap().pin());
    let pin = made.unwrap().join().unwrap();
    let copy = pin.clone();
    thread::scope(|scope| {
        let writer = scope.spawn(|| mm.unmap(range(at(1), 0x2000), None).unwrap());
        until(|| mm.core.bell.is_sleeping());
        drop(pin);
        // A second region of the same unplug, presented by the pin.
        let mut path = LookupPath::default();
        let options = WaitOptions::default();
        let second = copy.lock_vma_under_rcu_wait_with(at(2), options, &mut path);
        assert!(path.nested);
        drop(second);
        assert_eq!(copy.payload(), &Tag(1));
        drop(copy);
        let done = writer.join().unwrap();
        let names: Vec<_> = done.drain.holders.iter().map(|h| &*h.thread).collect();
        assert!(names.contains(&"disk"), "{names:?}");
    });
}

#[test]
fn a_pin_keeps_the_space() {
    let mm = space_with([1]);
    let pin = mm.lock_vma_under_rcu(at(1)).unwrap().pin();
    drop(mm);
    assert_eq!(pin.payload(), &Tag(1));
}

/// "A hold forgotten", "a record reused by a new thread".
#[test]
fn a_forgotten_guard_holds_after_its_thread() {
    let mm = space_with([1]);
    thread::scope(|scope| {
        let named = thread::Builder::new().name("forgetful".into());
        let forget = || std::mem::forget(mm.lock_vma_under_rcu(at(1)));
        named.spawn_scoped(scope, forget).unwrap();
    });
    // A new thread does not get that record, and so is not taken for the holder.
    thread::scope(|scope| {
        scope.spawn(|| {
            assert!(mm.lock_vma_under_rcu(at(9)).is_none());
            mm.map(page(2), RAM, 0, Tag(2)).unwrap();
        });
    });
    let soon = Instant::now() + Duration::from_millis(1);
    let Err(super::super::WriteError::TimedOut { report }) = mm.unmap(page(1), Some(soon)) else {
        panic!("it is held");
    };
    assert_eq!(report.holders[0].thread, "forgetful");
    assert!(mm.lock_vma_under_rcu(at(1)).is_some(), "nothing changed");
}

/// "Two threads and two spaces crosswise".
#[test]
fn two_spaces_crosswise() {
    let (pio, ram) = (space_with([1]), space_with([1]));
    let rounds = 300;
    thread::scope(|scope| {
        for mm in [&pio, &ram] {
            scope.spawn(move || {
                for _ in 0..rounds {
                    mm.unmap(page(1), None).unwrap();
                    mm.map(page(1), RAM, 0, Tag(1)).unwrap();
                }
            });
        }
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..rounds {
                    let outer = pio.lock_vma_under_rcu_wait(at(1)).unwrap();
                    let inner = ram.lock_vma_under_rcu_wait(at(1)).unwrap();
                    drop(outer);
                    drop(inner);
                }
            });
        }
    });
}

/// "Across spaces there is a rank": the port first, then the memory.
#[test]
fn spaces_are_looked_up_in_the_order_of_their_ranks() {
    for strategy in super::super::Strategy::ALL {
        looked_up_in_order(strategy);
    }
}

fn looked_up_in_order(strategy: super::super::Strategy) {
    let ranked = |name, rank| {
        let options = SpaceOptions {
            rank: Some(rank),
            ..strategy.into()
        };
        let mm = Space::with_options(name, range(0, 1 << 20), options);
        assert_eq!(mm.strategy(), strategy);
        mm.map(page(1), RAM, 0, Tag(1)).unwrap();
        mm
    };
    let (pio, ram, other) = (ranked("pio", 0), ranked("ram", 1), space_with([1]));
    let outer = pio.lock_vma_under_rcu_wait(at(1)).unwrap();
    let inner = ram.lock_vma_under_rcu_wait(at(1)).unwrap();
    drop(outer);
    // What cannot wait, and what has no rank, is nobody's business; nor is a pin.
    assert!(pio.lock_vma_under_rcu(at(1)).is_some());
    assert!(other.lock_vma_under_rcu_wait(at(1)).unwrap().is_some());
    assert!(ram.lock_vma_under_rcu_wait(at(1)).unwrap().is_some());
    let look = || {
        pio.lock_vma_under_rcu_wait(at(1))
            .map(|found| found.is_some())
    };
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(look));
    if cfg!(debug_assertions) {
        let message = *caught.unwrap_err().downcast::<String>().unwrap();
        assert!(
            message.contains("\"pio\" with a VMA of \"ram\" held"),
            "{message}"
        );
    }
    let pin = inner.unwrap().pin();
    assert_eq!(look(), Ok(true));
    drop(pin);
}

#[test]
fn a_reader_handle_is_the_same_record() {
    let mm = space_with([1]);
    let reader = mm.reader();
    let guard = reader.lock_vma_under_rcu(at(1)).unwrap();
    assert!(mm.mmap_write_lock().is_err());
    drop(reader);
    assert_eq!(guard.payload(), &Tag(1));
    drop(guard);
    assert_eq!(mm.core.registry.records().count(), 1);
}

#[test]
fn an_owned_reader_is_the_same_record_and_keeps_the_space() {
    let mm = space_with([1, 2]);
    let core = Arc::downgrade(&mm.core);
    let reader = mm.owned_reader();
    let find = |page| {
        let (options, mut path) = (WaitOptions::default(), LookupPath::default());
        let found = reader.lock_vma_under_rcu_wait_with(at(page), options, &mut path);
        found.unwrap().unwrap()
    };
    let guard = find(1);
    assert!(mm.mmap_write_lock().is_err());
    assert_eq!(reader.range(), mm.range());
    assert_eq!(mm.core.registry.records().count(), 1);
    drop(mm);
    assert_eq!((guard.payload(), find(2).payload()), (&Tag(1), &Tag(2)));
    drop(guard);
    assert_eq!(core.strong_count(), 1);
    drop(reader);
    assert_eq!(core.strong_count(), 0);
}

/// Neither the reader's claim nor the thread's own is given back twice.
#[test]
fn a_record_is_free_when_reader_and_thread_are_done_with_it() {
    let mm = space_with([1]);
    let can_be_claimed = |at: usize| {
        let mut records = mm.core.registry.records();
        let record = records.find(|record| std::ptr::from_ref(*record).addr() == at);
        record.unwrap().claim()
    };
    let there = || {
        let reader = mm.owned_reader();
        let record = std::ptr::from_ref(mm.core.record().get()).addr();
        assert!(!can_be_claimed(record), "twice");
        drop(reader);
        assert!(!can_be_claimed(record), "the thread has it");
        record
    };
    let record = thread::scope(|scope| scope.spawn(there).join().unwrap());
    assert!(can_be_claimed(record));
}

#[test]
fn an_owned_reader_stays_with_its_thread() {
    <super::super::OwnedReader<Tag> as crate::not_send::AmbiguousIfSend<_>>::look();
}
