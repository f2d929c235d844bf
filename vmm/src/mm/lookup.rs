//! The lookups that read-lock a VMA.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::state::{Reader, State, Wake};
use super::sync::{self, MutexGuard, lock, thread};
use super::{AddressSpace, KillFlag, LookupError, Payload, Vma, VmaReadGuard};

/// What may end the wait of a lookup early. The default is nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct WaitOptions<'a> {
    /// When to give up.
    pub deadline: Option<Instant>,
    /// A flag whose raising ends the wait.
    pub kill: Option<&'a KillFlag>,
}

/// A sleep for the end of a write section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waited {
    /// The section's number (odd; see [`Vma::generation`]).
    pub section: u64,
    /// From falling asleep to being awake again.
    pub time: Duration,
}

/// How a lookup went, for those who record it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LookupPath {
    /// The one sleep that there may be.
    pub waited: Option<Waited>,
    /// Let in to a write-locked VMA, since the thread held another member of the
    /// same write set.
    pub nested: bool,
}

impl<T: Payload> AddressSpace<T> {
    /// Read-locks the VMA that covers `addr`, if there is one and no writer is at
    /// work on it (Linux: `lock_vma_under_rcu`). `None` means either. Never
    /// blocks.
    pub fn lock_vma_under_rcu(&self, addr: u64) -> Option<VmaReadGuard<'_, T>> {
        let mut state = lock(&self.core.state);
        let Some(vma) = state.find(addr).cloned() else {
            state.stats.lookup_miss += 1;
            return None;
        };
        if state.is_locked(addr) {
            state.stats.lookup_abort += 1;
            return None;
        }
        state.stats.lookup_success += 1;
        Some(self.hold(state, vma, addr))
    }

    /// Read-locks the VMA that covers `addr`, waiting for the writer that is at
    /// work on it, if one is (Linux: `lock_vma_under_rcu_wait`, as posted in April
    /// 2026; renamed `vma_start_read_unlocked` in its second version).
    ///
    /// `Ok(None)` only if at some moment during the call no VMA covered `addr`. It
    /// never waits for a writer elsewhere, sleeps for the end of one section at
    /// most, and holds nothing but the VMA when it returns. Fails only with
    /// [`LookupError::OwnWriteSection`].
    pub fn lock_vma_under_rcu_wait(
        &self,
        addr: u64,
    ) -> Result<Option<VmaReadGuard<'_, T>>, LookupError> {
        self.lock_vma_under_rcu_wait_with(addr, WaitOptions::default(), &mut LookupPath::default())
    }

    /// As [`lock_vma_under_rcu_wait`](Self::lock_vma_under_rcu_wait), but the wait
    /// ends with an error at the deadline, or when the flag is raised; then no
    /// trace of it is left for a writer to wait for. A VMA that can be had without
    /// waiting is had in any case. What happened is written to `path`.
    pub fn lock_vma_under_rcu_wait_with(
        &self,
        addr: u64,
        options: WaitOptions<'_>,
        path: &mut LookupPath,
    ) -> Result<Option<VmaReadGuard<'_, T>>, LookupError> {
        *path = LookupPath::default();
        let mut state = lock(&self.core.state);
        let Some(vma) = state.find(addr).cloned() else {
            state.stats.lookup_miss += 1;
            return Ok(None);
        };
        if !state.is_locked(addr) {
            state.stats.lookup_success += 1;
            return Ok(Some(self.hold(state, vma, addr)));
        }
        let me = thread::current().id();
        if state.owner == Some(me) {
            return Err(LookupError::OwnWriteSection);
        }
        if state.holds_member(me) {
            path.nested = true;
            state.stats.nested_admission += 1;
            return Ok(Some(self.hold(state, vma, addr)));
        }
        // The reference goes before the sleep: the writer will own the VMA.
        drop(vma);
        drop(state);
        self.wait_and_hold(addr, options, path)
    }

    /// The slow path: sleeps under a mark, then takes what is there.
    fn wait_and_hold(
        &self,
        addr: u64,
        options: WaitOptions<'_>,
        path: &mut LookupPath,
    ) -> Result<Option<VmaReadGuard<'_, T>>, LookupError> {
        let place: Arc<dyn Wake> = self.core.clone();
        if let Some(kill) = options.kill {
            kill.register(place.clone());
        }
        let result = self.sleep(addr, options, path);
        if let Some(kill) = options.kill {
            kill.unregister(&place);
        }
        let mut state = result?;
        // No look at the lock: every section over this address that came since
        // has seen the mark and waits for it.
        match state.find(addr).cloned() {
            Some(vma) => Ok(Some(self.hold(state, vma, addr))),
            None => {
                state.stats.lookup_miss += 1;
                Ok(None)
            }
        }
    }

    /// Sleeps until the section that has `addr` locked is over. The mark that is
    /// set meanwhile is gone when this returns, but with the state locked on
    /// success: what is taken before unlocking it is taken under the mark.
    fn sleep(
        &self,
        addr: u64,
        options: WaitOptions<'_>,
        path: &mut LookupPath,
    ) -> Result<MutexGuard<'_, State<T>>, LookupError> {
        let mut state = lock(&self.core.state);
        if !state.is_locked(addr) {
            return Ok(state);
        }
        let since = Instant::now();
        let section = state.seq;
        let mark = state.add_reader(Reader::here(addr, Some(section)));
        state.stats.lookup_wait += 1;
        let mut outcome = Ok(());
        while state.seq == section && outcome.is_ok() {
            if options.kill.is_some_and(KillFlag::is_raised) {
                outcome = Err(LookupError::Killed);
                break;
            }
            let timed_out;
            (state, timed_out) = sync::wait_until(&self.core.changed, state, options.deadline);
            if timed_out && state.seq == section {
                outcome = Err(LookupError::TimedOut);
            }
        }
        state.readers.remove(&mark);
        path.waited = Some(Waited {
            section,
            time: since.elapsed(),
        });
        if outcome.is_err() || !state.locked.is_empty() {
            self.core.changed.notify_all();
        }
        outcome.map(|()| state)
    }

    /// Takes `vma` for the calling thread.
    fn hold(
        &self,
        mut state: MutexGuard<'_, State<T>>,
        vma: Arc<Vma<T>>,
        addr: u64,
    ) -> VmaReadGuard<'_, T> {
        let reader = state.add_reader(Reader::here(addr, None));
        VmaReadGuard {
            core: &self.core,
            vma: Some(vma),
            reader,
            stays: PhantomData,
        }
    }
}
