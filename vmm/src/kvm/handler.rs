//! What answers a vCPU's exits, and how a vCPU ends.
use std::any::Any;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use super::error::VcpuError;
use super::exit::Exit;
use super::vcpu::{Registers, Returned, Vcpu};

/// What answers a vCPU's exits, on the vCPU's thread. A closure will do, by
/// [`VcpuThread::spawn`](super::VcpuThread::spawn); one that is to stay with that thread is
/// made there, by [`VcpuThread::spawn_from`](super::VcpuThread::spawn_from).
pub trait Handler {
    /// What it ends the vCPU with.
    type Output: Send;

    /// Called once, on the vCPU's thread, before its first exit.
    fn begin(&mut self) {}

    /// Called as soon as `KVM_RUN` has returned, however it did, and before anything is
    /// looked at: the time to have loaded what [`exit`](Self::exit) will want.
    #[inline]
    fn returned(&mut self) {}

    /// Answers an exit; `Break` ends the vCPU.
    fn exit(&mut self, exit: Exit<'_>, regs: &Registers) -> ControlFlow<Self::Output>;

    /// Judges an error, with the registers as they were. `Ok`: the cause has been
    /// removed, run again. By default every error ends the vCPU.
    ///
    /// # Errors
    /// The error that the vCPU is to end with.
    fn error(&mut self, error: VcpuError, regs: &Registers) -> Result<(), VcpuError> {
        let _ = regs;
        Err(error)
    }
}

pub(super) struct Closure<F>(pub(super) F);

impl<F, B: Send> Handler for Closure<F>
where
    F: FnMut(Exit<'_>, &Registers) -> ControlFlow<B>,
{
    type Output = B;

    fn exit(&mut self, exit: Exit<'_>, regs: &Registers) -> ControlFlow<B> {
        (self.0)(exit, regs)
    }
}

/// Why a vCPU's thread ended.
#[derive(Debug)]
pub enum End<B> {
    /// Its handler ended it, with this.
    Handler(B),
    /// It was stopped from outside.
    Stopped,
    /// It could not go on.
    Failed(VcpuError),
    /// Its handler panicked, with this message.
    Panicked(String),
}

impl<B> End<B> {
    /// Whether it ended by an error or a panic.
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Failed(_) | Self::Panicked(_))
    }
}

/// A vCPU whose thread has ended.
#[derive(Debug)]
pub struct Ended<B> {
    /// The vCPU's number.
    pub id: u32,
    /// Where it was, if KVM still tells.
    pub rip: Option<u64>,
    /// Why it ended.
    pub end: End<B>,
    /// The vCPU, which may run again.
    pub vcpu: Vcpu,
}

/// Runs `vcpu` until something ends it.
///
/// The flag is looked at only where there has been a kick, as whoever sets the flag gives
/// one afterwards. That shows in the vCPU's run page, which each exit looks at anyway; or
/// `KVM_RUN` has ended by it, without an exit. (That alone would not do: KVM first goes on
/// with what it has begun, and an instruction that reads a device many times has another
/// exit for each.)
pub(super) fn run<H: Handler>(
    vcpu: &mut Vcpu,
    stop: &AtomicBool,
    mut handler: H,
) -> End<H::Output> {
    handler.begin();
    while !stop.load(SeqCst) {
        loop {
            let returned = vcpu.enter();
            handler.returned();
            if returned.is_mmio() {
                let (mmio, regs) = returned.mmio();
                if let ControlFlow::Break(output) = handler.exit(mmio.into(), regs) {
                    return End::Handler(output);
                }
            } else {
                match otherwise(returned, &mut handler) {
                    Next::Go => {}
                    Next::Look => break,
                    Next::End(end) => return end,
                }
            }
            if vcpu.immediate_exit().load(SeqCst) != 0 {
                break;
            }
        }
    }
    End::Stopped
}

/// What to do after an exit.
enum Next<B> {
    Go,
    /// There may have been a kick.
    Look,
    End(End<B>),
}

/// An exit that is not by MMIO, or an error. Apart, so that MMIO touches few lines, and what
/// becomes of it is not handed on through the memory that takes any result.
#[inline(never)]
fn otherwise<H: Handler>(returned: Returned<'_>, handler: &mut H) -> Next<H::Output> {
    match returned.other() {
        Ok((exit, regs)) => {
            let interrupted = matches!(exit, Exit::Interrupted);
            match handler.exit(exit, regs) {
                ControlFlow::Break(output) => Next::End(End::Handler(output)),
                ControlFlow::Continue(()) if interrupted => Next::Look,
                ControlFlow::Continue(()) => Next::Go,
            }
        }
        Err((error, regs)) => match handler.error(error, regs) {
            Ok(()) => Next::Look,
            Err(error) => Next::End(End::Failed(error)),
        },
    }
}

/// A panic's message, if it is text.
pub(super) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a value that is not text".to_owned())
}
