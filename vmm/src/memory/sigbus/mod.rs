//! Turns a SIGBUS on guest memory into an error.
//!
//! The host may have no page to give: the file behind the memory was truncated,
//! or the page is poisoned. The kernel then sends SIGBUS, which ends the process.
//! Here each copy to or from guest memory notes the bytes it touches in a
//! thread-local cell. The handler, if the fault lies there, ends the copy, which
//! then reports a [`Fault`]; the memory stays as it is, so that the next copy, and
//! the guest, meet an error too. On a thread that runs a vCPU ([`watch_vcpu`]),
//! poisoned memory that the guest touches is noted too. A SIGBUS anywhere else is
//! none of ours and goes where it went before.
//!
//! [`install`] is opt-in, since a signal handler belongs to the process: a VMM
//! that has one of its own calls [`handle`] from it instead. (On other processors
//! than x86-64 a copy cannot be ended yet, and a fault ends the process.)

mod copy;

use std::cell::Cell;
use std::fmt;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{Ordering, compiler_fence};

use libc::{c_int, c_void, siginfo_t};

use super::signals;

/// The host had no page to give for an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The host address.
    pub host_addr: usize,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the host has no page behind the guest memory at {:#x} (SIGBUS): the backing file is \
             shorter than the region, or the page is poisoned",
            self.host_addr
        )
    }
}

impl std::error::Error for Fault {}

/// The bytes that this thread is touching, and where it faulted.
#[derive(Clone, Copy)]
struct Window {
    start: usize,
    len: usize,
    fault: usize,
}

impl Window {
    /// Whether a fault at `addr` is one of these bytes'.
    fn has(self, addr: usize) -> bool {
        // The kernel may report the page instead of the byte.
        let first_page = self.start & !(super::PAGE as usize - 1);
        self.len != 0 && (first_page..self.start + self.len).contains(&addr)
    }
}

const NOTHING: Window = Window {
    start: 0,
    len: 0,
    fault: 0,
};

thread_local! {
    // Const-initialised and without a destructor: the handler can read it without
    // running any code of the runtime's.
    static WINDOW: Cell<Window> = const { Cell::new(NOTHING) };
}

/// Copies guest memory at `from` into `data`.
///
/// # Errors
///
/// The host had no page for a byte of it. `data` may have been written in part.
///
/// # Safety
///
/// `from` begins `data.len()` bytes of guest memory, mapped readable until this
/// returns.
pub unsafe fn read(from: *const u8, data: &mut [u8]) -> Result<(), Fault> {
    // SAFETY: as the caller promises; `data` is borrowed.
    watched(from, data.len(), || unsafe {
        copy::copy(from, data.as_mut_ptr(), data.len())
    })
}

/// Copies `data` into guest memory at `to`.
///
/// # Errors
///
/// The host had no page for a byte of it. What comes before may have been written.
///
/// # Safety
///
/// `to` begins `data.len()` bytes of guest memory, mapped writable until this
/// returns.
pub unsafe fn write(to: *mut u8, data: &[u8]) -> Result<(), Fault> {
    // SAFETY: as the caller promises; `data` is borrowed.
    watched(to, data.len(), || unsafe {
        copy::copy(data.as_ptr(), to, data.len())
    })
}

/// Runs a copy to or from the `len` bytes at `start`. True of it: it was ended.
fn watched(start: *const u8, len: usize, copy: impl FnOnce() -> bool) -> Result<(), Fault> {
    WINDOW.set(Window {
        start: start as usize,
        len,
        fault: 0,
    });
    // The signal comes on this very thread, so only the compiler could reorder.
    compiler_fence(Ordering::SeqCst);
    let ended = copy();
    compiler_fence(Ordering::SeqCst);
    let Window { fault, .. } = WINDOW.replace(NOTHING);
    match ended {
        false => Ok(()),
        true => Err(Fault { host_addr: fault }),
    }
}

/// Handles a SIGBUS if it comes from a [`read`] or [`write()`] of this thread, on the
/// guest's side: that call then returns a [`Fault`]. Returns false if the fault is
/// somebody else's. Async-signal-safe.
///
/// # Safety
///
/// `info` and `context` are the arguments of a handler of SIGBUS that was installed
/// with `SA_SIGINFO`, and which is still running.
pub unsafe fn handle(info: *const siginfo_t, context: *mut c_void) -> bool {
    // SAFETY: as the caller promises; SIGBUS fills in the address.
    let (code, addr) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    let window = WINDOW.get();
    // A code of 0 or less: not a fault, but somebody's `kill`.
    if code <= 0 || !window.has(addr) {
        return false;
    }
    // SAFETY: as the caller promises.
    let ended = unsafe { copy::end_copy(context) };
    if ended {
        WINDOW.set(Window {
            fault: addr,
            ..window
        });
    }
    ended
}

/// Installs a handler for SIGBUS in this process, once. What is not ours goes to
/// the handler that was there before.
pub fn install() -> io::Result<()> {
    super::faults::check(super::faults::Step::CatchSigbus)?;
    static RESULT: OnceLock<Result<(), i32>> = OnceLock::new();
    let result = *RESULT.get_or_init(|| {
        // SAFETY: the handler calls only async-signal-safe functions.
        let installed = unsafe { signals::install(libc::SIGBUS, on_sigbus, &BEFORE) };
        installed.map_err(|error| error.raw_os_error().unwrap_or(libc::EINVAL))
    });
    result.map_err(io::Error::from_raw_os_error)
}

/// Who handled SIGBUS before [`install`].
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

extern "C" fn on_sigbus(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel calls this handler, which was installed with `SA_SIGINFO`.
    if unsafe { handle(info, context) } {
        return;
    }
    // SAFETY: the kernel passes a valid siginfo, and SIGBUS fills in the address.
    let (code, addr) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    if note_poison(code, addr) {
        return;
    }
    // SAFETY: these are the arguments of this handler, and what was installed before
    // it.
    unsafe { signals::pass_on(BEFORE.get(), signal, info, context) };
}

thread_local! {
    /// Whether this thread runs a vCPU, and the poisoned host address that the
    /// vCPU met, if any.
    static VCPU: Cell<(bool, usize)> = const { Cell::new((false, 0)) };
}

/// Tells that this thread runs a vCPU, so that poisoned memory that the *guest*
/// touches is noted for [`take_poison`] in place of ending the process. KVM sends
/// SIGBUS for it and lets `KVM_RUN` return `EINTR`.
pub fn watch_vcpu() {
    VCPU.set((true, 0));
}

/// The host address of the poisoned memory that this thread's vCPU met since the
/// last call.
pub fn take_poison() -> Option<usize> {
    let (watched, addr) = VCPU.get();
    VCPU.set((watched, 0));
    (addr != 0).then_some(addr)
}

/// Notes poison met by a vCPU of this thread. Not for poison that was found in
/// memory that nobody needed just now (`BUS_MCEERR_AO`); nor the second time in a row,
/// since then it was this thread, outside of the guest, that met it and will again.
fn note_poison(code: c_int, addr: usize) -> bool {
    let (watched, noted) = VCPU.get();
    let is_ours = watched && code == libc::BUS_MCEERR_AR && noted != addr.max(1);
    if is_ours {
        VCPU.set((true, addr.max(1)));
    }
    is_ours
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::ptr;

    use super::*;

    #[test]
    fn a_truncated_file_becomes_an_error() {
        install().unwrap();
        let page = super::super::PAGE as usize;
        let file = tempfile::tempfile().unwrap();
        file.set_len(2 * page as u64).unwrap();
        // SAFETY: a new mapping of a file that nobody else has.
        let addr = unsafe {
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(
                ptr::null_mut(),
                2 * page,
                prot,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        assert_ne!(addr, libc::MAP_FAILED);
        let addr = addr.cast::<u8>();
        file.set_len(page as u64).unwrap();
        let past_end = addr.wrapping_add(page + 7);
        let mut bytes = [1; 2];
        // SAFETY: both bytes lie in the mapping, which nobody else uses.
        let mut read = |at: *const u8| unsafe { read(at, &mut bytes) };
        // Again and again: nothing is put there to make it go away.
        for _ in 0..3 {
            assert_eq!(read(addr.wrapping_add(page - 2)), Ok(()));
            let fault = read(past_end).unwrap_err();
            assert_eq!(fault.host_addr & !(page - 1), addr as usize + page);
            // SAFETY: as above.
            unsafe { write(past_end, &[1; 200]) }.unwrap_err();
        }
        // A copy over the border is ended in the middle of it.
        assert!(read(addr.wrapping_add(page - 1)).is_err());
        file.set_len(2 * page as u64).unwrap();
        assert_eq!(read(past_end), Ok(()));
        assert_eq!(bytes, [0; 2]);
        // SAFETY: unmaps what was mapped above.
        unsafe { libc::munmap(addr.cast(), 2 * page) };
    }

    #[test]
    fn poison_is_noted_on_threads_that_run_a_vcpu() {
        assert!(!note_poison(libc::BUS_MCEERR_AR, 0x5000));
        watch_vcpu();
        assert!(!note_poison(libc::BUS_MCEERR_AO, 0x5000));
        assert!(note_poison(libc::BUS_MCEERR_AR, 0x5000));
        assert!(!note_poison(libc::BUS_MCEERR_AR, 0x5000));
        assert!(note_poison(libc::BUS_MCEERR_AR, 0x6000));
        assert_eq!((take_poison(), take_poison()), (Some(0x6000), None));
        assert!(note_poison(libc::BUS_MCEERR_AR, 0x6000));
        take_poison();
    }

    #[test]
    fn a_fault_elsewhere_is_not_ours() {
        assert!(!NOTHING.has(0));
        let page = super::super::PAGE as usize;
        let window = Window {
            start: 3 * page + 100,
            len: page,
            fault: 0,
        };
        for (addr, is_ours) in [
            (3 * page - 1, false),
            (3 * page, true),
            (4 * page + 99, true),
            (4 * page + 100, false),
        ] {
            assert_eq!(window.has(addr), is_ours, "{addr:#x}");
        }
    }
}
