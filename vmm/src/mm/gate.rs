//! Where lookups sleep until a section ends.

use std::time::{Duration, Instant};

use super::sync::atomic::{AtomicU64, Ordering};
use super::sync::{self, Condvar, Mutex, Watch, lock, mutant, unless};
use super::{KillFlag, LookupError};

/// The sleeping place of one address space. `mm_lock_seq` leaves an odd number
/// only with it closed, so a sleeper misses no end.
#[derive(Debug)]
pub(super) struct Gate {
    waiters: Mutex<usize>,
    opened: Condvar,
}

impl Gate {
    pub(super) fn new() -> Self {
        Self {
            waiters: Mutex::new(0),
            opened: Condvar::new(),
        }
    }

    /// Ends section `of`: makes `seq` the even number after it and wakes who
    /// waits. All VMA locks of the section are gone with that store. Returns how long
    /// the waking took.
    pub(super) fn open(&self, seq: &AtomicU64, of: u64) -> Duration {
        let waiters = lock(&self.waiters);
        let order = unless("unlock-release", Ordering::Release);
        seq.store(of.wrapping_add(1), order);
        let wakes = *waiters > 0 && !mutant("wake-waiters");
        // Who comes from here on finds the number changed; who wakes should not have
        // to wait for this lock.
        drop(waiters);
        if !wakes {
            return Duration::ZERO;
        }
        let since = Watch::start();
        self.opened.notify_all();
        since.elapsed()
    }

    /// Sleeps until `seq` has left `of`, the deadline has passed or the flag is
    /// raised. Calls `linger`, with the gate's lock held, each time before it sleeps.
    pub(super) fn wait(
        &self,
        seq: &AtomicU64,
        of: u64,
        deadline: Option<Instant>,
        kill: Option<&KillFlag>,
        linger: impl Fn(),
    ) -> Result<(), LookupError> {
        let mut waiters = lock(&self.waiters);
        *waiters += 1;
        let mut outcome = Ok(());
        // Relaxed: `open` stores it under the same lock.
        while seq.load(Ordering::Relaxed) == of {
            if kill.is_some_and(KillFlag::is_raised) {
                outcome = Err(LookupError::Killed);
                break;
            }
            linger();
            let timed_out;
            (waiters, timed_out) = sync::wait_until(&self.opened, waiters, deadline);
            if timed_out && seq.load(Ordering::Relaxed) == of {
                outcome = Err(LookupError::TimedOut);
                break;
            }
        }
        *waiters -= 1;
        outcome
    }

    /// Makes every sleeper look at its flag.
    pub(super) fn shake(&self) {
        // Taking the lock orders this after a sleeper's last look at its flag.
        if !mutant("shake-lock") {
            drop(lock(&self.waiters));
        }
        self.opened.notify_all();
    }
}
