//! Getting a vCPU out of the guest.
//!
//! A kick is a signal to the vCPU's thread. Whatever the thread is doing,
//! `KVM_RUN` returns `EINTR` once, when KVM is through with an instruction that it has
//! begun:
//!
//! - in the guest: a pending signal makes KVM leave it;
//! - anywhere else, on the way into `KVM_RUN` included: the handler sets the
//!   `immediate_exit` byte of the vCPU's run page, and the next `KVM_RUN` sees
//!   it. A flag alone, looked at before the call, would lose a signal that
//!   comes between the look and the call.
//!
//! # The signal
//!
//! It is `SIGRTMIN`, for the whole process, and the handler stays installed.
//! A program that uses this signal itself gets [`KickError::InUse`] if its
//! handler was there first; it must not install one later. The handler stores
//! one byte and does nothing else, so a stray `SIGRTMIN` is harmless. It is
//! installed without `SA_RESTART`: a handler of exits that blocks in a system
//! call gets `EINTR` from it, which std retries and raw calls may not.
use std::cell::Cell;
use std::io;
use std::marker::PhantomData;
use std::ptr;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};

use libc::{c_int, c_void, siginfo_t};
use vmm_sys_util::signal::{SIGRTMIN, create_sigset, register_signal_handler};

use crate::memory::faults::{self, Step};

thread_local! {
    /// The byte of the vCPU that runs on this thread. Initialised at compile
    /// time and without a destructor, so that a signal handler may read it.
    static IMMEDIATE_EXIT: Cell<*const AtomicU8> = const { Cell::new(ptr::null()) };
}

/// Why vCPUs cannot be kicked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KickError {
    /// Somebody else has a handler.
    #[error(
        "signal {signal} (SIGRTMIN), which stops vCPUs, has another handler in this process: let that code use another signal"
    )]
    InUse {
        /// Its number.
        signal: c_int,
    },
    /// The system refused.
    #[error("signal {signal} (SIGRTMIN), which stops vCPUs, cannot be set up: {source}")]
    System {
        /// Its number.
        signal: c_int,
        /// The system's error.
        source: io::Error,
    },
}

/// The signal that kicks: `SIGRTMIN`.
pub fn signal() -> c_int {
    SIGRTMIN()
}

extern "C" fn on_kick(_: c_int, _: *mut siginfo_t, _: *mut c_void) {
    let byte = IMMEDIATE_EXIT.get();
    if !byte.is_null() {
        // SAFETY: whoever called `arm` on this thread keeps the byte valid
        // until the pointer is null again.
        unsafe { (*byte).store(1, SeqCst) };
    }
}

/// Installs the handler, unless it is.
pub(super) fn install() -> Result<(), KickError> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let signal = signal();
    faults::check(Step::CatchKick).map_err(|source| KickError::System { signal, source })?;
    // SAFETY: plain data, for which zeroes are valid.
    let mut old: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: only reads the disposition, into a place of the right type.
    if unsafe { libc::sigaction(signal, ptr::null(), &mut old) } != 0 {
        return Err(KickError::System {
            signal,
            source: io::Error::last_os_error(),
        });
    }
    match old.sa_sigaction {
        handler if handler == on_kick as *const () as usize => Ok(()),
        libc::SIG_DFL | libc::SIG_IGN => {
            register_signal_handler(signal, on_kick).map_err(|e| KickError::System {
                signal,
                source: e.into(),
            })
        }
        _ => Err(KickError::InUse { signal }),
    }
}

/// While it lives, this thread does not block the signal, and so neither do
/// threads that it starts, for good: a mask is inherited, and a program may have
/// blocked everything in the thread that starts vCPUs.
#[derive(Debug)]
pub(super) struct Unblocked {
    before: libc::sigset_t,
    /// Belongs to the thread that made it.
    _not_send: PhantomData<*const ()>,
}

impl Unblocked {
    /// Unblocks.
    pub(super) fn new() -> Result<Self, KickError> {
        let signal = signal();
        faults::check(Step::UnblockKick).map_err(|source| KickError::System { signal, source })?;
        let set = create_sigset(&[signal]).map_err(|e| KickError::System {
            signal,
            source: e.into(),
        })?;
        // SAFETY: plain data, for which zeroes are valid.
        let mut before = unsafe { std::mem::zeroed() };
        // SAFETY: two sets, one to read and one to write.
        match unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, &mut before) } {
            0 => Ok(Self {
                before,
                _not_send: PhantomData,
            }),
            e => Err(KickError::System {
                signal,
                source: io::Error::from_raw_os_error(e),
            }),
        }
    }
}

impl Drop for Unblocked {
    fn drop(&mut self) {
        // SAFETY: a set to read, as it was before.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, ptr::null_mut()) };
    }
}

/// While it lives, a kick of this thread sets the byte it was made with.
#[derive(Debug)]
pub(super) struct Armed {
    before: *const AtomicU8,
    /// Belongs to the thread that made it.
    _not_send: PhantomData<*const ()>,
}

/// Arms this thread.
///
/// # Safety
/// The byte is valid until the result is dropped.
pub(super) unsafe fn arm(byte: *const AtomicU8) -> Armed {
    let before = IMMEDIATE_EXIT.replace(byte);
    // What the caller does next must not come before that: the signal is handled
    // on this very thread, so only the compiler could reorder.
    std::sync::atomic::compiler_fence(SeqCst);
    Armed {
        before,
        _not_send: PhantomData,
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.set(self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signal_sets_the_byte_of_this_thread_only_while_armed() {
        install().unwrap();
        install().unwrap();
        let _unblocked = Unblocked::new().unwrap();
        let byte = AtomicU8::new(0);
        // SAFETY: the handler is installed, so the signal is not fatal.
        let raise = || unsafe { libc::pthread_kill(libc::pthread_self(), signal()) };
        raise();
        // SAFETY: `byte` outlives the guard.
        let armed = unsafe { arm(&byte) };
        assert_eq!(byte.load(SeqCst), 0);
        std::thread::scope(|s| {
            s.spawn(|| assert!(IMMEDIATE_EXIT.get().is_null()));
        });
        raise();
        assert_eq!(byte.swap(0, SeqCst), 1);
        drop(armed);
        raise();
        assert_eq!(byte.load(SeqCst), 0);
    }

    #[test]
    fn a_mask_is_as_before_afterwards_and_the_signal_is_let_through_meanwhile() {
        use vmm_sys_util::signal::{block_signal, get_blocked_signals};
        let blocked = || get_blocked_signals().unwrap().contains(&signal());
        block_signal(signal()).unwrap();
        let unblocked = Unblocked::new().unwrap();
        assert!(!blocked());
        assert!(!std::thread::spawn(blocked).join().unwrap());
        drop(unblocked);
        assert!(blocked());
    }
}
