//! A thread that runs one vCPU until its handler, an error or somebody else
//! ends it.
//!
//! [`VcpuThread::stop`] sets a flag and kicks ([`kick`]); the thread looks at the flag
//! where there has been a kick. A thread that is in the guest stops at once; one that is in
//! its handler stops when the handler returns.
//! [`VcpuThread::kick`] alone makes the handler see [`Exit::Interrupted`].
//! Kicks that come close together may be seen as one.
//!
//! If the vCPU has a filter ([`Vcpu::confine`]), the thread installs it last of all
//! before it runs the guest, and keeps it to its end: see [`seccomp`](super::seccomp).
//!
//! A vCPU that is stopped from outside may have an access half done (its data
//! not given to the guest yet). Its registers are those of the last exit.
use std::fmt;
use std::hint::black_box;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::thread::JoinHandleExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::error::VcpuError;
use super::exit::Exit;
use super::group::Ticket;
use super::handler::{Closure, End, Ended, Handler, panic_message, run};
use super::kick::{self, KickError};
use super::own_page::on_own_page;
use super::vcpu::{Registers, Vcpu};
use crate::memory::faults::{self, Step};
use crate::memory::{RunsVcpu, sigbus};

/// Why a vCPU's thread could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ThreadError {
    /// It could not be stopped again.
    #[error(transparent)]
    Kick(#[from] KickError),
    /// There is no thread for it.
    #[error(
        "no thread could be started for vCPU {vcpu}: {source}; raise the limits on threads (ulimit -u, cgroup pids.max) or use fewer vCPUs"
    )]
    Spawn {
        /// The vCPU.
        vcpu: u32,
        /// The system's error.
        source: io::Error,
    },
}

/// What has been asked of a vCPU's thread, each set before the signal is sent.
#[derive(Debug, Default)]
struct Asked {
    /// It was kicked, ever: for kicks that come before the thread can notice.
    kick: AtomicBool,
    /// It is to end.
    stop: AtomicBool,
}

/// A running vCPU. Dropping it stops it, as [`VcpuThread::stop`] does.
pub struct VcpuThread<B> {
    id: u32,
    asked: Arc<Asked>,
    thread: Option<JoinHandle<Ended<B>>>,
}

impl<B: Send + 'static> VcpuThread<B> {
    /// Starts `vcpu` on a thread named "vcpu *id*". Does not wait for the thread
    /// to run, which takes long beside many busy ones; it can be kicked at once.
    ///
    /// # Errors
    /// See [`ThreadError`]; the vCPU is gone then.
    pub fn spawn<F>(vcpu: Vcpu, handler: F) -> Result<Self, ThreadError>
    where
        F: FnMut(Exit<'_>, &Registers) -> ControlFlow<B> + Send + 'static,
    {
        Self::spawn_with(vcpu, Closure(handler))
    }

    /// As [`VcpuThread::spawn`], with a handler that also judges errors.
    ///
    /// # Errors
    /// See [`ThreadError`].
    pub fn spawn_with<H>(vcpu: Vcpu, handler: H) -> Result<Self, ThreadError>
    where
        H: Handler<Output = B> + Send + 'static,
    {
        Self::spawn_from(vcpu, move || handler)
    }

    /// As [`VcpuThread::spawn_with`], with a handler that the vCPU's thread makes, before it
    /// is confined, and which stays there. By then the vCPU may have been asked to stop. A
    /// `make` that panics ends it with [`End::Panicked`].
    ///
    /// # Errors
    /// See [`ThreadError`]; `make` is dropped then, by the caller.
    pub fn spawn_from<H>(
        vcpu: Vcpu,
        make: impl FnOnce() -> H + Send + 'static,
    ) -> Result<Self, ThreadError>
    where
        H: Handler<Output = B>,
    {
        Self::spawn_on(vcpu, make, None)
    }

    pub(super) fn spawn_on<H>(
        vcpu: Vcpu,
        make: impl FnOnce() -> H + Send + 'static,
        ticket: Option<Ticket>,
    ) -> Result<Self, ThreadError>
    where
        H: Handler<Output = B>,
    {
        kick::install()?;
        let id = vcpu.id();
        let asked = Arc::new(Asked::default());
        let of_thread = asked.clone();
        let answer = move || {
            // To this stack: it is looked at for each exit, as the handler is.
            let mut vcpu = black_box(vcpu);
            // SAFETY: the byte is in the vCPU's run page, which stays mapped
            // until after `armed` is dropped, below.
            let armed = unsafe { kick::arm(vcpu.immediate_exit()) };
            sigbus::watch_vcpu();
            let _runs = RunsVcpu::here();
            // A kick that came before that found nothing to set.
            if of_thread.kick.load(SeqCst) {
                vcpu.immediate_exit().store(1, SeqCst);
            }
            let run = AssertUnwindSafe(|| {
                let handler = make();
                match confine(&vcpu) {
                    Ok(()) => run(&mut vcpu, &of_thread.stop, handler),
                    Err(error) => End::Failed(error),
                }
            });
            let end = catch_unwind(run).unwrap_or_else(|p| End::Panicked(panic_message(&*p)));
            drop(armed);
            let rip = vcpu.regs().ok().map(|r| r.rip);
            if let Some(ticket) = ticket {
                ticket.hand_in(end.is_failure());
            }
            Ended { id, rip, end, vcpu }
        };
        let body = || on_own_page(answer);
        let _unblocked = kick::Unblocked::new()?;
        let builder = thread::Builder::new().name(format!("vcpu {id}"));
        let thread = faults::check(Step::StartVcpu)
            .and_then(|()| builder.spawn(body))
            .map_err(|source| ThreadError::Spawn { vcpu: id, source })?;
        Ok(Self {
            id,
            asked,
            thread: Some(thread),
        })
    }
}

/// Confines the calling thread, which is about to run `vcpu`: after all else that it
/// has to do first.
fn confine(vcpu: &Vcpu) -> Result<(), VcpuError> {
    let Some(filter) = vcpu.filter() else {
        return Ok(());
    };
    let id = vcpu.id();
    let failed = |source| VcpuError::Seccomp { vcpu: id, source };
    filter.install(id).map_err(failed)
}

impl<B> VcpuThread<B> {
    /// The vCPU's number.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Whether it has ended by itself.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Makes the vCPU leave the guest: its handler sees
    /// [`Exit::Interrupted`], now or after the exit it is handling. Does not
    /// wait for that, and does nothing if the vCPU has ended.
    pub fn kick(&self) {
        if let Some(thread) = &self.thread {
            self.asked.kick.store(true, SeqCst);
            // SAFETY: the handle is of a thread that has not been joined, and
            // the signal's handler is installed. (ESRCH: it has ended.)
            unsafe { libc::pthread_kill(thread.as_pthread_t() as libc::pthread_t, kick::signal()) };
        }
    }

    /// Makes the vCPU end, without waiting for it.
    pub fn request_stop(&self) {
        self.asked.stop.store(true, SeqCst);
        self.kick();
    }

    /// Ends the vCPU and waits for that: at once if it is in the guest, else as
    /// long as its handler takes. Must not be called by the handler.
    pub fn stop(mut self) -> Ended<B> {
        self.request_stop();
        self.wait_kicking();
        self.join_thread()
    }

    /// Waits until the vCPU ends by itself.
    pub fn join(mut self) -> Ended<B> {
        self.join_thread()
    }

    fn join_thread(&mut self) -> Ended<B> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(ended)) => ended,
            // Not the handler's panic, which is caught, but one of ours.
            Some(Err(panic)) => resume_unwind(panic),
            None => unreachable!("only what consumes it joins the thread"),
        }
    }

    /// Waits for the thread's end, kicking on: no kick is lost, but one that
    /// came while the handler was about to block in a system call interrupted
    /// nothing.
    fn wait_kicking(&self) {
        let (begun, mut pause) = (Instant::now(), Duration::from_micros(50));
        let mut warn_after = Duration::from_secs(1);
        while !self.is_finished() {
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
            self.kick();
            if begun.elapsed() > warn_after {
                let id = self.id;
                log::warn!(
                    "vCPU {id} has not stopped for {warn_after:?}: its exit handler has not returned"
                );
                warn_after *= 4;
            }
        }
    }
}

impl<B> Drop for VcpuThread<B> {
    fn drop(&mut self) {
        let Some(thread) = &self.thread else { return };
        self.request_stop();
        // A handler that owns its own thread's handle cannot wait for itself.
        if thread.thread().id() != thread::current().id() {
            self.wait_kicking();
            // What it ended with is nobody's any more.
            let _ = self.thread.take().map(JoinHandle::join);
        }
    }
}

impl<B> fmt::Debug for VcpuThread<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VcpuThread")
            .field("id", &self.id)
            .field("finished", &self.is_finished())
            .finish_non_exhaustive()
    }
}
