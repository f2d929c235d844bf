//! The map lock (`mmap_lock`): one writer, or any number of readers of the map.
//!
//! It is fair by phases: who comes to read waits behind a writer that waits, and
//! when a writer is done, all readers that wait get the lock before the next writer.
//! So a reader waits for one write section, and readers that come without rest do not
//! keep a writer out. A thread that has it for reading may take it so again, past
//! writers that wait, since they wait for that thread.

use std::time::Instant;

use super::local;
use super::sync::atomic::{AtomicU64, Ordering};
use super::sync::{Condvar, Mutex, lock, mutant, wait_ignoring_poison, wait_until};
use super::{LookupError, WriteError};

/// Serialises writers. No native lookup takes it.
#[derive(Debug)]
pub(super) struct MapLock {
    state: Mutex<State>,
    changed: Condvar,
    /// The token of the thread that has it for writing, 0 for none. A thread finds
    /// its own token here exactly while it has the lock, since nobody else writes
    /// that one; what it finds of others means nothing.
    owner: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    written: bool,
    /// The token of each thread that has it for reading, once for each time.
    readers: Vec<u64>,
    /// Writers that wait. Readers who come after them let them go first: a `map`
    /// command in a loop must not keep hotplug out.
    waiting: usize,
    /// The tokens of readers that wait. Who ends a phase lets all of them in.
    queue: Vec<u64>,
    /// How often readers that waited were let in.
    phase: u64,
}

impl State {
    /// Lets in the readers that wait.
    fn admit(&mut self) {
        let queue = std::mem::take(&mut self.queue);
        self.readers.extend(queue);
        self.phase = self.phase.wrapping_add(1);
    }
}

impl MapLock {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State::default()),
            changed: Condvar::new(),
            owner: AtomicU64::new(0),
        }
    }

    /// Whether the calling thread has it for writing.
    pub(super) fn is_mine(&self) -> bool {
        self.owner.load(Ordering::Relaxed) == local::token()
    }

    /// Takes it for writing. An error if the thread has it in either way, or if it
    /// is not free by `deadline`.
    pub(super) fn write(&self, deadline: Option<Instant>) -> Result<(), WriteError> {
        if self.is_mine() {
            return Err(WriteError::Nested);
        }
        let mut state = lock(&self.state);
        if state.readers.contains(&local::token()) {
            return Err(WriteError::HoldsGuard);
        }
        state.waiting += 1;
        let mut late = false;
        while (state.written || !state.readers.is_empty()) && !late {
            (state, late) = wait_until(&self.changed, state, deadline);
        }
        state.waiting -= 1;
        if state.written || !state.readers.is_empty() {
            // Readers that let this writer go first.
            if !state.written && state.waiting == 0 {
                state.admit();
            }
            drop(state);
            self.changed.notify_all();
            return Err(WriteError::LockTimedOut);
        }
        state.written = true;
        self.owner.store(local::token(), Ordering::Relaxed);
        Ok(())
    }

    /// Whether a writer waits for it.
    #[cfg(all(test, not(any(loom, shuttle))))]
    pub(super) fn is_waited_for(&self) -> bool {
        lock(&self.state).waiting > 0
    }

    pub(super) fn end_write(&self) {
        self.owner.store(0, Ordering::Relaxed);
        let mut state = lock(&self.state);
        state.written = false;
        // Everybody who sleeps is counted, or in the queue.
        let some = state.waiting > 0 || !state.queue.is_empty();
        if !mutant("phase-admit") {
            state.admit();
        }
        drop(state);
        if some {
            self.changed.notify_all();
        }
    }

    /// Takes it for reading; again, if the thread has it so. An error if the thread
    /// has it for writing.
    pub(super) fn read(&self) -> Result<(), LookupError> {
        if self.is_mine() {
            return Err(LookupError::OwnWriteSection);
        }
        if !self.try_read_again() {
            self.read_in_turn();
        }
        Ok(())
    }

    /// Takes it for reading if no writer has it or waits.
    pub(super) fn try_read(&self) -> bool {
        let mut state = lock(&self.state);
        let free = !state.written && state.waiting == 0;
        if free {
            state.readers.push(local::token());
        }
        free
    }

    /// Takes it for reading if the thread has it so.
    pub(super) fn try_read_again(&self) -> bool {
        let me = local::token();
        let mut state = lock(&self.state);
        let mine = state.readers.contains(&me);
        if mine {
            state.readers.push(me);
        }
        mine
    }

    /// Takes it for reading, behind a writer that waits. Not for a thread that has
    /// it in either way.
    pub(super) fn read_in_turn(&self) {
        let me = local::token();
        let mut state = lock(&self.state);
        if !state.written && state.waiting == 0 {
            state.readers.push(me);
            return;
        }
        state.queue.push(me);
        let phase = state.phase;
        while state.phase == phase {
            state = wait_ignoring_poison(&self.changed, state);
        }
        // Who ended the phase has let this thread in.
    }

    /// Gives it up; called by the thread that took it.
    pub(super) fn end_read(&self) {
        let me = local::token();
        let mut state = lock(&self.state);
        if let Some(at) = state.readers.iter().position(|reader| *reader == me) {
            state.readers.swap_remove(at);
        }
        // Readers that wait do so for the end of a section.
        if state.readers.is_empty() && state.waiting > 0 {
            drop(state);
            self.changed.notify_all();
        }
    }
}
