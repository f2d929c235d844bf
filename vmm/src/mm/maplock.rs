//! The map lock (`mmap_lock`): one writer, or any number of readers of the map.

use std::time::Instant;

use super::local;
use super::sync::atomic::{AtomicU64, Ordering};
use super::sync::{Condvar, Mutex, lock, wait_ignoring_poison, wait_until};
use super::{LookupError, WriteError};

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
    /// The token of each thread that has it for reading, once for each time.
    readers: Vec<u64>,
    /// Writers that wait. Readers who come after them let them go first: a `map`
    /// command in a loop must not keep hotplug out.
    waiting: usize,
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
            drop(state);
            // Readers that let this writer go first.
            self.changed.notify_all();
            return Err(WriteError::LockTimedOut);
        }
        state.written = true;
        self.owner.store(local::token(), Ordering::Relaxed);
        Ok(())
    }

    /// Whether a writer waits for it.
    #[cfg(all(test, not(loom)))]
    pub(super) fn is_waited_for(&self) -> bool {
        lock(&self.state).waiting > 0
    }

    pub(super) fn end_write(&self) {
        self.owner.store(0, Ordering::Relaxed);
        lock(&self.state).written = false;
        self.changed.notify_all();
    }

    /// Takes it for reading; again, if the thread has it so. An error if the thread
    /// has it for writing.
    pub(super) fn read(&self) -> Result<(), LookupError> {
        if self.is_mine() {
            return Err(LookupError::OwnWriteSection);
        }
        let me = local::token();
        let mut state = lock(&self.state);
        while state.written || (state.waiting > 0 && !state.readers.contains(&me)) {
            state = wait_ignoring_poison(&self.changed, state);
        }
        state.readers.push(me);
        Ok(())
    }

    /// Gives it up; called by the thread that took it.
    pub(super) fn end_read(&self) {
        let me = local::token();
        let mut state = lock(&self.state);
        if let Some(at) = state.readers.iter().position(|reader| *reader == me) {
            state.readers.swap_remove(at);
        }
        if state.readers.is_empty() {
            drop(state);
            self.changed.notify_all();
        }
    }
}
