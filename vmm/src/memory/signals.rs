//! Signal handlers beside those of others: what is none of ours goes to who was there
//! before.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::OnceLock;

use libc::{c_int, c_void, siginfo_t};

/// A handler, as `SA_SIGINFO` has it.
pub(crate) type Handler = extern "C" fn(c_int, *mut siginfo_t, *mut c_void);

/// Installs a handler, and keeps in `before` who was there.
///
/// # Safety
///
/// The handler must be async-signal-safe. `before` must be used for this handler only.
pub(crate) unsafe fn install(
    signal: c_int,
    handler: Handler,
    before: &OnceLock<libc::sigaction>,
) -> io::Result<()> {
    let mut old = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: only reads the disposition, into a place of the right type.
    if unsafe { libc::sigaction(signal, ptr::null(), old.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: filled in by the call above; zeroes would be valid too.
    let old = unsafe { old.assume_init() };
    // Kept before the handler can run.
    let _ = before.set(old);
    let mut action = old;
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: a valid disposition, whose handler is as the caller promises.
    match unsafe { libc::sigaction(signal, &action, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Hands a signal on to who handled it before; to the default action, if nobody did.
///
/// # Safety
///
/// To be called by the handler of `signal`, with its arguments, and with what
/// [`install`] has kept.
pub(crate) unsafe fn pass_on(
    before: Option<&libc::sigaction>,
    signal: c_int,
    info: *mut siginfo_t,
    context: *mut c_void,
) {
    match before.map(|before| (before.sa_sigaction, before.sa_flags)) {
        Some((handler, flags)) if handler != libc::SIG_DFL && handler != libc::SIG_IGN => {
            if flags & libc::SA_SIGINFO != 0 {
                // SAFETY: with this flag, that is the type of the handler that
                // somebody installed for this signal.
                let handler: Handler = unsafe { std::mem::transmute(handler) };
                handler(signal, info, context);
            } else {
                // SAFETY: as above, without the flag.
                let handler: extern "C" fn(c_int) = unsafe { std::mem::transmute(handler) };
                handler(signal);
            }
        }
        _ => {
            // SAFETY: both are async-signal-safe. The signal is blocked while its
            // handler runs, so it comes again, to the default action, on return.
            unsafe {
                libc::signal(signal, libc::SIG_DFL);
                libc::raise(signal);
            }
        }
    }
}
