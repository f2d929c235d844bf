//! The end of a process one of whose vCPU threads made a system call that its filter
//! does not allow.
//!
//! The kernel does not make the call and sends SIGSYS to the thread. The handler writes
//! one message to stderr, if that takes it without waiting: whoever reads it may have
//! stopped, and this thread may hold what others wait for. Then it makes another such
//! call. SIGSYS is blocked while it is handled, and a filter's signal that is blocked
//! has the kernel end the process.
use std::cell::Cell;
use std::fmt::{self, Write};
use std::io;
use std::ptr;
use std::sync::OnceLock;

use libc::{c_int, c_void, siginfo_t};

use super::names;
use crate::memory::faults::{self, Step};
use crate::memory::signals;

thread_local! {
    /// The vCPU whose filter this thread has. Initialised at compile time and without
    /// a destructor, so that a signal handler may read it.
    static CONFINED: Cell<Option<u32>> = const { Cell::new(None) };
}

/// The calling thread runs this vCPU and is confined from about now on.
pub(super) fn confined(vcpu: u32) {
    CONFINED.set(Some(vcpu));
}

/// The vCPU that the calling thread runs, if it is confined.
pub(super) fn confined_to() -> Option<u32> {
    CONFINED.get()
}

/// Who handled SIGSYS before [`install`].
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// Installs the handler, once. What is not ours goes to who was there before.
pub(super) fn install() -> io::Result<()> {
    faults::check(Step::CatchViolation)?;
    static RESULT: OnceLock<Result<(), i32>> = OnceLock::new();
    let result = *RESULT.get_or_init(|| {
        // SAFETY: the handler calls only async-signal-safe functions.
        let installed = unsafe { signals::install(libc::SIGSYS, on_sigsys, &BEFORE) };
        installed.map_err(|error| error.raw_os_error().unwrap_or(libc::EINVAL))
    });
    result.map_err(io::Error::from_raw_os_error)
}

/// Lets SIGSYS through on the calling thread: a program may have blocked everything in
/// the thread that starts vCPUs.
pub(super) fn unblock() -> io::Result<()> {
    let set = vmm_sys_util::signal::create_sigset(&[libc::SIGSYS])?;
    // SAFETY: a set to read.
    match unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// What the kernel says with SIGSYS; libc's type hides it.
#[repr(C)]
struct SysInfo {
    signal: c_int,
    errno: c_int,
    code: c_int,
    padding: c_int,
    at: *const c_void,
    number: c_int,
    arch: u32,
}

const _: () = assert!(size_of::<SysInfo>() <= size_of::<siginfo_t>());

/// `si_code` of a signal that a filter has sent.
const SYS_SECCOMP: c_int = 1;

extern "C" fn on_sigsys(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a siginfo, in which every byte is initialised; with
    // SIGSYS it has these fields.
    let told = unsafe { &*info.cast::<SysInfo>() };
    match CONFINED.get() {
        Some(vcpu) if told.code == SYS_SECCOMP => {
            // SAFETY: the kernel passes the registers of the interrupted code.
            let arguments = unsafe { arguments(context) };
            tell(vcpu, told.number, arguments);
            end();
        }
        // SAFETY: these are the arguments of this handler, and what was installed
        // before it.
        _ => unsafe { signals::pass_on(BEFORE.get(), signal, info, context) },
    }
}

/// The first three arguments of the call that was not made.
///
/// # Safety
///
/// `context` is what the kernel passed to a handler that is still running.
unsafe fn arguments(context: *mut c_void) -> [u64; 3] {
    // SAFETY: as the caller promises.
    let registers = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    [libc::REG_RDI, libc::REG_RSI, libc::REG_RDX].map(|at| registers[at as usize] as u64)
}

fn tell(vcpu: u32, number: c_int, [first, second, third]: [u64; 3]) {
    let mut text = Text::default();
    // SAFETY: touches nothing.
    let thread = unsafe { libc::gettid() };
    let name = names::of(number.into());
    // It is cut off where the buffer ends; nothing else can go wrong.
    let _ = writeln!(
        text,
        "gracefault: the thread of vCPU {vcpu} ({thread}) made system call {number} ({name}), \
         arguments {first:#x} {second:#x} {third:#x}, which its seccomp filter does not allow: the \
         process ends here, by SIGSYS. With --seccomp log the kernel would log the call and make \
         it; see vmm/docs/seccomp.md"
    );
    let mut stderr = libc::pollfd {
        fd: libc::STDERR_FILENO,
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: one entry, which lives long enough.
    let ready = unsafe { libc::poll(&mut stderr, 1, 0) } == 1;
    if ready && stderr.revents & libc::POLLOUT != 0 {
        let text = text.bytes();
        // A pipe that takes anything takes as much as this.
        // SAFETY: initialised bytes, which live long enough.
        unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
    }
}

/// Ends the process, by SIGSYS if the thread's filter is what it should be.
fn end() -> ! {
    // SAFETY: a question that changes nothing, if it is answered at all.
    unsafe { libc::syscall(libc::SYS_seccomp, u32::MAX, 0, 0) };
    // SAFETY: ends the process without running anything of it.
    unsafe { libc::_exit(128 + libc::SIGSYS) }
}

/// Text on the stack: a handler of signals must not allocate.
struct Text {
    bytes: [u8; 512],
    len: usize,
}

impl Default for Text {
    fn default() -> Self {
        let bytes = [0; 512];
        Self { bytes, len: 0 }
    }
}

impl Text {
    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = &mut self.bytes[self.len..];
        let len = text.len().min(room.len());
        room[..len].copy_from_slice(&text.as_bytes()[..len]);
        self.len += len;
        match len == text.len() {
            true => Ok(()),
            false => Err(fmt::Error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_off_where_the_buffer_ends() {
        let mut text = Text::default();
        write!(text, "{:500}", "").unwrap();
        assert!(write!(text, "0123456789abcdef").is_err());
        assert_eq!(text.bytes().len(), 512);
        assert!(text.bytes().ends_with(b"0123456789ab"));
    }

    #[test]
    fn a_thread_is_confined_by_itself() {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                confined(7);
                assert_eq!(confined_to(), Some(7));
            });
        });
        assert_eq!(confined_to(), None);
    }
}
