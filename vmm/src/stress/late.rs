//! Dying loudly: a touch of memory that was removed is a violation, told from the
//! signal's handler, since there is nothing to go back to.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::OnceLock;

use super::{Oracle, StressConfig};

/// What to say, but for the address.
static LAST_WORDS: OnceLock<String> = OnceLock::new();

/// From now on a fault of memory ends the process with status 1 and a message that
/// names the oracle, the seed, and how to repeat it. Called once a process; later
/// storms keep the words of the first.
pub(super) fn watch(config: &StressConfig) {
    let oracle = Oracle::LateAccess;
    let words = format!(
        "\ngracefault: VIOLATION of \"{oracle}\" ({}): a thread died of it.\nSeed {}; repeat with:\n  {}\n",
        oracle.rule(),
        config.seed,
        config.command()
    );
    if LAST_WORDS.set(words).is_err() {
        return;
    }
    // SAFETY: the handler only does what is allowed in one, and does not return.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction =
            die as extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&mut action.sa_mask);
        // An address that no memory can have is the one or the other.
        for signal in [libc::SIGSEGV, libc::SIGBUS] {
            libc::sigaction(signal, &action, ptr::null_mut());
        }
    }
}

extern "C" fn die(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    let words = LAST_WORDS.get().map_or("", String::as_str);
    // SAFETY: the words live for good; both calls are allowed in a handler.
    unsafe {
        libc::write(libc::STDERR_FILENO, words.as_ptr().cast(), words.len());
        libc::_exit(1);
    }
}
