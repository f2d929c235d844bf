//! Which threads run a vCPU: KVM waits for those of them that sleep inside of it.

use std::collections::BTreeSet;
use std::marker::PhantomData;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Their numbers, as the kernel has them. Held for a look-up.
static THREADS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

fn threads() -> MutexGuard<'static, BTreeSet<i32>> {
    // Nothing that runs under the lock can panic half-way.
    THREADS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// That the calling thread runs a vCPU, until this is dropped.
#[derive(Debug)]
#[must_use = "the thread is taken for one that runs a vCPU while this lives"]
pub struct RunsVcpu {
    thread: i32,
    stays: PhantomData<*const ()>,
}

impl RunsVcpu {
    /// Says so of the calling thread. To be called by a VMM with threads of its own
    /// for its vCPUs ([`VcpuThread`](crate::kvm::VcpuThread) does it itself): an
    /// unplug with a deadline looks whether one of these sleeps for a page.
    #[cfg_attr(not(feature = "kvm"), allow(rustdoc::broken_intra_doc_links))]
    pub fn here() -> Self {
        let thread = this_thread();
        threads().insert(thread);
        Self {
            thread,
            stays: PhantomData,
        }
    }
}

impl Drop for RunsVcpu {
    fn drop(&mut self) {
        threads().remove(&self.thread);
    }
}

/// Whether that thread runs a vCPU.
pub(super) fn runs_a_vcpu(thread: i32) -> bool {
    threads().contains(&thread)
}

/// The calling thread's number.
pub(super) fn this_thread() -> i32 {
    // SAFETY: touches nothing.
    unsafe { libc::gettid() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_runs_a_vcpu_while_it_says_so() {
        let here = this_thread();
        assert!(!runs_a_vcpu(here));
        let runs = RunsVcpu::here();
        assert!(runs_a_vcpu(here));
        std::thread::scope(|scope| {
            let other = scope.spawn(|| runs_a_vcpu(this_thread()));
            assert!(!other.join().unwrap());
        });
        drop(runs);
        assert!(!runs_a_vcpu(here));
    }
}
