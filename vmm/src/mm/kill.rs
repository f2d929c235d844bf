//! A flag that calls a waiting thread back.

use std::fmt;
use std::sync::Arc;

use super::gate::Gate;
use super::sync::atomic::{AtomicBool, Ordering};
use super::sync::{Mutex, lock, mutant};

/// Ends the waits of the lookups that were given it. Once raised it stays so,
/// and every later wait with it ends at once.
pub struct KillFlag {
    raised: AtomicBool,
    /// Where threads sleep that watch this flag. Taken with no other lock held
    /// by those who register, and before an address space's own by `raise`.
    sleepers: Mutex<Vec<Arc<Gate>>>,
}

impl KillFlag {
    /// A flag that is not raised.
    pub fn new() -> Self {
        Self {
            raised: AtomicBool::new(false),
            sleepers: Mutex::new(Vec::new()),
        }
    }

    /// Raises the flag and wakes every thread that waits with it. Blocks for as
    /// long as those threads take to fall asleep: microseconds.
    pub fn raise(&self) {
        self.raised.store(true, Ordering::Release);
        if mutant("kill-wake") {
            return;
        }
        for place in lock(&self.sleepers).iter() {
            place.shake();
        }
    }

    /// Whether the flag has been raised.
    pub fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Acquire)
    }

    pub(super) fn register(&self, place: Arc<Gate>) {
        lock(&self.sleepers).push(place);
    }

    pub(super) fn unregister(&self, place: &Arc<Gate>) {
        let mut sleepers = lock(&self.sleepers);
        if let Some(i) = sleepers.iter().position(|p| Arc::ptr_eq(p, place)) {
            sleepers.swap_remove(i);
        }
    }
}

impl Default for KillFlag {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for KillFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KillFlag")
            .field("raised", &self.is_raised())
            .finish_non_exhaustive()
    }
}
