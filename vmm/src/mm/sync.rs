//! The atomics, locks, threads and clock that `mm` runs on: std's, or loom's
//! under `--cfg loom`, so that the models check the code that ships.

#[cfg(loom)]
pub(crate) use loom::{
    sync::{Condvar, Mutex, MutexGuard, atomic},
    thread,
};
#[cfg(not(loom))]
pub(crate) use std::{
    sync::{Condvar, Mutex, MutexGuard, atomic},
    thread,
};

use std::time::Instant;

/// Locks `mutex` whether or not a thread panicked while it held it: every
/// critical section of `mm` leaves its data consistent at each step that can
/// panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Waits on `condvar` until notified, or until `deadline` has passed where there
/// is one. Returns the guard and whether the deadline has passed. Wakes up
/// spuriously, as condition variables do. Under loom no time passes: a wait with
/// a deadline is one without.
pub(crate) fn wait_until<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    deadline: Option<Instant>,
) -> (MutexGuard<'a, T>, bool) {
    #[cfg(not(loom))]
    if let Some(deadline) = deadline {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return (guard, true);
        }
        let (guard, result) = condvar
            .wait_timeout(guard, left)
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        return (guard, result.timed_out() && Instant::now() >= deadline);
    }
    #[cfg(loom)]
    let _ = deadline;
    (wait_ignoring_poison(condvar, guard), false)
}

/// Waits on `condvar` until notified, or spuriously.
pub(crate) fn wait_ignoring_poison<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
) -> MutexGuard<'a, T> {
    condvar
        .wait(guard)
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}
