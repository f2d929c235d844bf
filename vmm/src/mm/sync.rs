//! The atomics, fences, locks, threads and clock that `mm` runs on: std's, or
//! loom's under `--cfg loom`, or shuttle's under `--cfg shuttle`, so that the models
//! check the code that ships. No other file of `mm` names any of the three.
//!
//! Loom takes few threads through all that they and the memory may do; shuttle takes
//! many of them through some thousands of orders, told by a seed, and every load sees
//! the last store. An ordering can only be shown to be needed by the former.

#[cfg(loom)]
pub(crate) use loom::{
    sync::{Condvar, Mutex, MutexGuard, atomic},
    thread, thread_local,
};
#[cfg(shuttle)]
pub(crate) use shuttle::{
    sync::{Condvar, Mutex, MutexGuard, atomic},
    thread, thread_local,
};
#[cfg(not(any(loom, shuttle)))]
pub(crate) use std::{
    sync::{Condvar, Mutex, MutexGuard, atomic},
    thread,
};

use std::time::{Duration, Instant};

use atomic::{AtomicU64, Ordering};

/// Whether this is a model: no time passes, and things are small, so that few VMAs
/// make a deep tree and few holds a long list.
pub(crate) const MODEL: bool = cfg!(any(loom, shuttle));

/// Whether this run is to leave the step of the protocol with that name out, so as
/// to see which test notices (`vmm/mutants.sh`). Never in a normal build: it takes
/// `--cfg gracefault_mutants` and the name in `GRACEFAULT_MUTANT`.
#[inline(always)]
pub(crate) fn mutant(name: &str) -> bool {
    #[cfg(gracefault_mutants)]
    {
        let chosen = || std::env::var("GRACEFAULT_MUTANT").unwrap_or_default();
        CHOSEN.get_or_init(chosen) == name
    }
    #[cfg(not(gracefault_mutants))]
    {
        let _ = name;
        false
    }
}

#[cfg(gracefault_mutants)]
static CHOSEN: std::sync::OnceLock<String> = std::sync::OnceLock::new();

/// Leaves out the step with that name, from now on, in place of what the environment
/// says. Returns whether it was in time: before anything of `mm` was used.
#[cfg(gracefault_mutants)]
pub fn choose_mutant(name: &str) -> bool {
    CHOSEN.get_or_init(|| name.to_owned()) == name
}

/// `order`, or Relaxed if the mutant with that name is on.
#[inline(always)]
pub(crate) fn unless(name: &str, order: Ordering) -> Ordering {
    if mutant(name) {
        Ordering::Relaxed
    } else {
        order
    }
}

/// Stores `value`, then makes one full fence: what this thread loads afterwards
/// is loaded after every other processor can see the store.
///
/// On x86-64 an exchange is both at once and the cheapest fence there is; the
/// compiler moves no later load above it, since it acquires. Elsewhere, and under
/// loom (which takes SeqCst accesses for AcqRel ones), a store and a fence.
#[inline]
pub(crate) fn publish(word: &AtomicU64, value: u64) {
    if mutant("reader-fence") {
        word.store(value, Ordering::Release);
        return;
    }
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    word.swap(value, Ordering::SeqCst);
    #[cfg(not(all(target_arch = "x86_64", not(loom))))]
    {
        word.store(value, Ordering::Release);
        full_fence();
    }
}

/// Sleeps. Not in a model, where no time passes.
pub(crate) fn pause(time: Duration) {
    if !MODEL {
        std::thread::sleep(time);
    }
}

/// A full fence.
pub(crate) fn full_fence() {
    atomic::fence(Ordering::SeqCst);
}

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
/// spuriously, as condition variables do. In a model no time passes: a wait with
/// a deadline is one without.
pub(crate) fn wait_until<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    deadline: Option<Instant>,
) -> (MutexGuard<'a, T>, bool) {
    #[cfg(not(any(loom, shuttle)))]
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
    #[cfg(any(loom, shuttle))]
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

/// Sleeps on `condvar` for one slice: until notified, or until `slice` is over.
/// Returns whether it was notified. In a model there is no time: use no slices.
pub(crate) fn sleep_slice<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    slice: Duration,
) -> (MutexGuard<'a, T>, bool) {
    let (guard, over) = wait_until(condvar, guard, Instant::now().checked_add(slice));
    (guard, !over)
}

/// A stop watch. In a model it stands still, since a model must run the same way
/// twice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watch(#[cfg(not(any(loom, shuttle)))] Instant);

impl Watch {
    pub(crate) fn start() -> Self {
        Self(
            #[cfg(not(any(loom, shuttle)))]
            Instant::now(),
        )
    }

    pub(crate) fn elapsed(&self) -> Duration {
        #[cfg(not(any(loom, shuttle)))]
        return self.0.elapsed();
        #[cfg(any(loom, shuttle))]
        Duration::ZERO
    }

    /// Whether `deadline` has passed. Never in a model.
    pub(crate) fn is_past(deadline: Option<Instant>) -> bool {
        !MODEL && deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }
}

/// The life of something that readers walk over and writers free. It costs
/// nothing in a normal build; in a model it shows that no reader comes too late:
/// under loom, that each use is ordered before the end.
#[derive(Debug)]
pub(crate) struct Life {
    #[cfg(loom)]
    cell: loom::cell::UnsafeCell<()>,
    #[cfg(any(loom, shuttle))]
    ended: std::sync::atomic::AtomicBool,
}

impl Life {
    /// It is being made, which must happen before every use.
    #[inline(always)]
    pub(crate) fn begin() -> Self {
        let this = Self {
            #[cfg(loom)]
            cell: loom::cell::UnsafeCell::new(()),
            #[cfg(any(loom, shuttle))]
            ended: std::sync::atomic::AtomicBool::new(false),
        };
        this.own();
        this
    }

    /// Who does this has it alone at that moment.
    #[inline(always)]
    pub(crate) fn own(&self) {
        #[cfg(loom)]
        self.cell.with_mut(|_| ());
    }

    /// A reader uses it.
    #[inline(always)]
    pub(crate) fn touch(&self) {
        #[cfg(any(loom, shuttle))]
        {
            let ended = self.ended.load(std::sync::atomic::Ordering::SeqCst);
            assert!(!ended, "used after its life has ended");
        }
        #[cfg(loom)]
        self.cell.with(|_| ());
    }

    /// Nobody uses it any more.
    #[inline(always)]
    pub(crate) fn end(&self) {
        self.own();
        #[cfg(any(loom, shuttle))]
        self.ended.store(true, std::sync::atomic::Ordering::SeqCst);
    }
}
