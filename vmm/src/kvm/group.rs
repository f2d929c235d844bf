//! All vCPUs of a machine: started, waited for and stopped together.
use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::exit::Exit;
use super::handler::{Closure, Ended, Handler};
use super::thread::{ThreadError, VcpuThread};
use super::vcpu::{Registers, Vcpu};

/// What the threads of a group tell those who wait for it.
#[derive(Debug, Default)]
struct Board {
    counts: Mutex<Counts>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Counts {
    running: usize,
    failed: usize,
}

impl Board {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One running vCPU of a group. Dropped, also when no thread came of it, it
/// tells those who wait.
#[derive(Debug)]
pub(super) struct Ticket {
    board: Arc<Board>,
    failed: bool,
}

impl Ticket {
    fn new(board: &Arc<Board>) -> Self {
        board.counts().running += 1;
        Self {
            board: board.clone(),
            failed: false,
        }
    }

    /// The vCPU has ended.
    pub(super) fn hand_in(mut self, failed: bool) {
        self.failed = failed;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut counts = self.board.counts();
        counts.running -= 1;
        counts.failed += usize::from(self.failed);
        self.board.changed.notify_all();
    }
}

/// What ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// No vCPU runs any more.
    AllEnded,
    /// One ended by an error or a panic, and others run on.
    Failed,
    /// The time was over first.
    TimedOut,
}

/// vCPU threads. Dropping it stops them all.
#[derive(Debug)]
pub struct VcpuGroup<B> {
    threads: Vec<VcpuThread<B>>,
    board: Arc<Board>,
}

impl<B> Default for VcpuGroup<B> {
    fn default() -> Self {
        Self {
            threads: Vec::new(),
            board: Arc::default(),
        }
    }
}

impl<B: Send + 'static> VcpuGroup<B> {
    /// Starts a vCPU.
    ///
    /// # Errors
    /// See [`ThreadError`]; the others run on.
    pub fn spawn<F>(&mut self, vcpu: Vcpu, handler: F) -> Result<(), ThreadError>
    where
        F: FnMut(Exit<'_>, &Registers) -> ControlFlow<B> + Send + 'static,
    {
        self.spawn_with(vcpu, Closure(handler))
    }

    /// As [`VcpuGroup::spawn`], with a handler that also judges errors.
    ///
    /// # Errors
    /// See [`ThreadError`]; the others run on.
    pub fn spawn_with<H>(&mut self, vcpu: Vcpu, handler: H) -> Result<(), ThreadError>
    where
        H: Handler<Output = B> + Send + 'static,
    {
        self.spawn_from(vcpu, move || handler)
    }

    /// As [`VcpuGroup::spawn_with`], with a handler that the vCPU's thread makes and keeps:
    /// see [`VcpuThread::spawn_from`].
    ///
    /// # Errors
    /// See [`ThreadError`]; the others run on.
    pub fn spawn_from<H>(
        &mut self,
        vcpu: Vcpu,
        make: impl FnOnce() -> H + Send + 'static,
    ) -> Result<(), ThreadError>
    where
        H: Handler<Output = B>,
    {
        self.threads.reserve(1);
        let ticket = Ticket::new(&self.board);
        let thread = VcpuThread::spawn_on(vcpu, make, Some(ticket))?;
        self.threads.push(thread);
        Ok(())
    }
}

impl<B> VcpuGroup<B> {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The threads, in the order of their start.
    pub fn threads(&self) -> &[VcpuThread<B>] {
        &self.threads
    }

    /// Waits until all have ended or one has failed, for `timeout` at most.
    pub fn wait(&self, timeout: Duration) -> Waited {
        let deadline = Instant::now().checked_add(timeout);
        let mut counts = self.board.counts();
        loop {
            match *counts {
                Counts { running: 0, .. } => return Waited::AllEnded,
                Counts { failed: 1.., .. } => return Waited::Failed,
                _ => {}
            }
            // A deadline beyond the clock's end is none: look again in an hour.
            let left = deadline.map_or(Duration::from_secs(3600), |d| {
                d.saturating_duration_since(Instant::now())
            });
            if left.is_zero() {
                return Waited::TimedOut;
            }
            let wait = self.board.changed.wait_timeout(counts, left);
            counts = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Stops all, at the same time, and tells how and where each ended, in the
    /// order of their start. Takes as long as the slowest handler.
    pub fn stop(mut self) -> Vec<Ended<B>> {
        self.threads.iter().for_each(VcpuThread::request_stop);
        self.threads.drain(..).map(VcpuThread::stop).collect()
    }
}

impl<B> Drop for VcpuGroup<B> {
    fn drop(&mut self) {
        // All at once; dropping the threads then waits for each.
        self.threads.iter().for_each(VcpuThread::request_stop);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_tells_the_end_from_a_failure_and_from_time() {
        let group = VcpuGroup::<()>::new();
        let [first, second, never_ran] = [0; 3].map(|_| Ticket::new(&group.board));
        drop(never_ran);
        assert_eq!(group.wait(Duration::from_millis(1)), Waited::TimedOut);
        first.hand_in(true);
        assert_eq!(group.wait(Duration::MAX), Waited::Failed);
        second.hand_in(false);
        assert_eq!(group.wait(Duration::ZERO), Waited::AllEnded);
    }
}
