//! Two spaces, and threads that come and go.

use std::sync::Arc;

use shuttle::thread;

use super::pages::{ALWAYS, Held, PAGE, PAGES, Pages, RAM, ROM, pages};
use super::*;

/// Ports and memory, looked up in this order.
#[derive(Clone)]
struct Machine {
    ports: Arc<Pages>,
    memory: Arc<Pages>,
}

/// What may be unmapped.
fn some() -> AddrRange {
    let first = ALWAYS + random(PAGES - ALWAYS);
    pages(first, PAGES.min(first + 1 + random(2)))
}

/// Changes all that is always there, and something that is not.
fn change(space: &Pages, inside: impl FnOnce()) {
    let mut section = space.mm.mmap_write_lock().unwrap();
    let flags = if once_in(2) { RAM } else { ROM };
    section.protect(pages(0, ALWAYS), flags).unwrap();
    // Either may be refused.
    let _ = section.unmap(some());
    let new = some();
    let _ = section.map(new, flags, new.start(), space.part(1));
    let drained = section.lock().unwrap();
    space.change(&drained);
    inside();
    drained.publish();
}

impl Machine {
    fn new() -> Self {
        let space = || Arc::new(Pages::new(Strategy::Native, 0, pace(random(2))));
        Self {
            ports: space(),
            memory: space(),
        }
    }

    /// An exit: its port, and the memory that the device behind it reads.
    fn exit(&self) {
        let find = |space: &Arc<Pages>| {
            let addr = random(PAGES) * PAGE;
            let found = space.mm.lock_vma_under_rcu_wait(addr).unwrap();
            assert!(found.is_some() || addr >= ALWAYS * PAGE);
            addr
        };
        let addr = find(&self.ports);
        let Some(port) = self.ports.mm.lock_vma_under_rcu_wait(addr).unwrap() else {
            return;
        };
        let port = Held::new(&self.ports, addr, port);
        let addr = find(&self.memory);
        let memory = self.memory.mm.lock_vma_under_rcu_wait(addr).unwrap();
        let memory = memory.map(|guard| Held::new(&self.memory, addr, guard));
        thread::yield_now();
        port.check(&self.ports);
        drop(port);
        if let Some(memory) = memory {
            memory.check(&self.memory);
        }
    }
}

/// "Two threads and two spaces crosswise": exits hold one of each; one writer changes
/// both, the memory inside the section of the ports; another the memory, then the
/// ports; a third thread is a vCPU that is replaced.
#[test]
fn shuttle_two_spaces_crosswise() {
    check(|| {
        let machine = Machine::new();
        let spawn = |f: fn(&Machine)| {
            let machine = machine.clone();
            thread::spawn(move || f(&machine))
        };
        let threads = [
            spawn(|machine| (0..3).for_each(|_| machine.exit())),
            spawn(|machine| {
                change(&machine.ports, || change(&machine.memory, || {}));
                change(&machine.ports, || {});
            }),
            spawn(|machine| {
                change(&machine.memory, || {});
                change(&machine.ports, || {});
            }),
            spawn(|machine| {
                for _ in 0..2 {
                    let there = machine.clone();
                    thread::spawn(move || there.exit()).join().unwrap();
                }
            }),
        ];
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        let Machine { ports, memory } = machine;
        for space in [ports, memory] {
            Arc::into_inner(space).expect("all threads are gone").end();
        }
    });
}

/// "A hold forgotten", "a thread that exits while registered", "a record reused by a
/// new thread": what it forgot is held for ever, under its name, and by nobody who
/// comes later.
#[test]
fn shuttle_a_forgotten_guard_and_threads_that_come_and_go() {
    check(|| {
        let space = Arc::new(Pages::new(Strategy::Native, 0, pace(1)));
        let there = space.clone();
        let forgetful = thread::spawn(move || {
            let guard = there.mm.lock_vma_under_rcu_wait(0).unwrap();
            std::mem::forget(guard.expect("always mapped"));
        });
        let there = space.clone();
        let writer = thread::spawn(move || {
            for _ in 0..3 {
                // Nothing of the page that may be held.
                let mut section = there.mm.mmap_write_lock().unwrap();
                let flags = if once_in(2) { RAM } else { ROM };
                section.protect(pages(6, 7), flags).unwrap();
                section.split(6 * PAGE + random(PAGE)).unwrap();
                let drained = section.lock().unwrap();
                there.change(&drained);
                drained.publish();
            }
        });
        let mut threads = Vec::new();
        for _ in 0..3 {
            let there = space.clone();
            threads.push(thread::spawn(move || {
                let addr = 6 * PAGE + random(PAGE);
                let found = there.mm.lock_vma_under_rcu_wait(addr).unwrap();
                let held = Held::new(&there, addr, found.expect("always mapped"));
                held.check(&there);
                drop(held);
                // Not taken for the holder of what another forgot.
                assert!(there.mm.mmap_write_lock().is_ok());
            }));
        }
        threads.extend([forgetful, writer]);
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        let mut held = Vec::new();
        for record in space.mm.core.registry.records() {
            record.each_entry(|entry| held.push(entry.load()));
        }
        held.retain(|(state, _)| state.is_guard());
        assert_eq!(held.len(), 1, "what was forgotten, and nothing else");
        assert_eq!(held[0].1, 0);
    });
}
