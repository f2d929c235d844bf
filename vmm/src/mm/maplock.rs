//! The map lock (`mmap_lock`): one writer, or any number of readers of the map.

use super::WriteError;
use super::local;
use super::sync::atomic::{AtomicU64, Ordering};
use super::sync::{Condvar, Mutex, lock, wait_ignoring_poison};

/// Serialises writers. No lookup that waits for a writer takes it.
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
    readers: usize,
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

    /// Takes it for writing; an error if the thread has it so.
    pub(super) fn write(&self) -> Result<(), WriteError> {
        if self.is_mine() {
            return Err(WriteError::Nested);
        }
        let mut state = lock(&self.state);
        while state.written || state.readers > 0 {
            state = wait_ignoring_poison(&self.changed, state);
        }
        state.written = true;
        self.owner.store(local::token(), Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn end_write(&self) {
        self.owner.store(0, Ordering::Relaxed);
        lock(&self.state).written = false;
        self.changed.notify_all();
    }

    pub(super) fn read(&self) {
        let mut state = lock(&self.state);
        while state.written {
            state = wait_ignoring_poison(&self.changed, state);
        }
        state.readers += 1;
    }

    pub(super) fn end_read(&self) {
        let mut state = lock(&self.state);
        state.readers -= 1;
        if state.readers == 0 {
            drop(state);
            self.changed.notify_all();
        }
    }
}
