//! What a vCPU's thread may ask of the kernel, once the guest runs on it.
//!
//! A guest that finds a bug in a device, or in an exit's way, is then on a thread of
//! this process. [`VcpuFilter`] is a seccomp filter that lets such a thread run its
//! vCPU, wait, allocate, answer signals, complain on stderr and end, and nothing else
//! ([`calls`]): no file, no socket, no process, no memory to execute. A [`VcpuThread`]
//! installs it last, after all its set-up, before the first `KVM_RUN`.
//!
//! # A violation ends the process
//!
//! Never the thread alone: it may hold a VMA, and a thread that vanishes there would
//! have every later drain wait for ever. The kernel sends SIGSYS, whose handler
//! (`violation`) says on stderr what was called by whom; then the process ends by that
//! signal (a shell shows status 159). Should the thread have SIGSYS blocked, the kernel
//! ends the process at once, without a message.
//!
//! # What a handler must know
//!
//! Handlers of exits and devices run on the thread. What they need of the kernel besides
//! is given to [`VcpuFilter::new`]; whatever they open they open before. A panic on such
//! a thread is told in one line and without a backtrace, for which files would be read:
//! the first filter of a process sets a panic hook, which hands all other threads' panics
//! to the hook that was there.
//!
//! [`VcpuThread`]: super::VcpuThread
mod allocator;
mod names;
mod panics;
mod rules;
mod violation;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter,
};

pub use rules::{Call, When, calls};

use crate::memory::faults::{self, Step};

/// Whether vCPU threads are confined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Seccomp {
    /// Yes: a system call that is not allowed ends the process.
    #[default]
    On,
    /// The kernel logs what would not be allowed (`dmesg`, or auditd), and lets it pass.
    Log,
    /// No.
    Off,
}

impl fmt::Display for Seccomp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::On => "on",
            Self::Log => "log",
            Self::Off => "off",
        })
    }
}

/// Why vCPU threads cannot be confined.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SeccompError {
    /// The kernel has no such filters, or not what they are to do.
    #[error(
        "this kernel cannot confine vCPU threads ({0}): run one with CONFIG_SECCOMP_FILTER, or do without (--seccomp off)"
    )]
    Unavailable(io::Error),
    /// There is no program of these rules.
    #[error("the filter of vCPU threads cannot be built: {0}")]
    Build(#[from] BackendError),
    /// SIGSYS could not be caught.
    #[error("no handler for SIGSYS could be installed: {0}")]
    Sigsys(io::Error),
    /// The kernel refused the filter.
    #[error("the filter could not be installed: {0}; see --seccomp off")]
    Install(#[from] seccompiler::Error),
    /// The signal that tells of a violation could not be let through.
    #[error("SIGSYS could not be unblocked: {0}")]
    Unblock(io::Error),
}

/// A filter, ready to be installed on any number of threads.
pub struct VcpuFilter {
    program: BpfProgram,
    ends: bool,
}

impl VcpuFilter {
    /// The filter that is asked for; `None` for [`Seccomp::Off`]. Besides [`calls`] it
    /// allows the system calls in `more`, whatever their arguments: what the handlers
    /// need. Catches SIGSYS and sets a panic hook, once, for the whole process.
    ///
    /// # Errors
    /// See [`SeccompError`].
    pub fn new(asked: Seccomp, more: &[libc::c_long]) -> Result<Option<Arc<Self>>, SeccompError> {
        let (action, number) = match asked {
            Seccomp::On => (SeccompAction::Trap, libc::SECCOMP_RET_TRAP),
            Seccomp::Log => (SeccompAction::Log, libc::SECCOMP_RET_LOG),
            Seccomp::Off => return Ok(None),
        };
        is_available(number).map_err(SeccompError::Unavailable)?;
        let mut rules: BTreeMap<i64, _> = BTreeMap::new();
        for call in calls() {
            rules.insert(call.number, call.rules()?);
        }
        rules.extend(more.iter().map(|number| (*number, Vec::new())));
        let filter = SeccompFilter::new(rules, action, SeccompAction::Allow, TargetArch::x86_64)?;
        let ends = asked == Seccomp::On;
        if ends {
            violation::install().map_err(SeccompError::Sigsys)?;
            panics::install();
            allocator::settle_process();
        }
        Ok(Some(Arc::new(Self {
            program: filter.try_into()?,
            ends,
        })))
    }

    /// Confines the calling thread, for good. It runs vCPU `vcpu`.
    pub(super) fn install(&self, vcpu: u32) -> Result<(), SeccompError> {
        if self.ends {
            allocator::settle_thread();
            violation::unblock().map_err(SeccompError::Unblock)?;
            violation::confined(vcpu);
        }
        faults::check(Step::Confine).map_err(seccompiler::Error::Seccomp)?;
        Ok(apply_filter(&self.program)?)
    }
}

impl fmt::Debug for VcpuFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VcpuFilter")
            .field("instructions", &self.program.len())
            .field("ends", &self.ends)
            .finish()
    }
}

/// Whether the kernel can do this with a system call that matches no rule.
fn is_available(action: u32) -> io::Result<()> {
    // SAFETY: reads one number; changes nothing.
    let failed = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_GET_ACTION_AVAIL,
            0,
            &raw const action,
        )
    };
    match failed {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether this kernel can confine a thread, and end the process if that is violated.
pub(super) fn is_there() -> io::Result<()> {
    is_available(libc::SECCOMP_RET_TRAP)
}
