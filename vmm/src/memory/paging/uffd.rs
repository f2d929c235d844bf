//! A userfaultfd: opened, and its ioctls as functions.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use super::PagingError;
use super::ioctls::{self, Api, Copy, MISSING, Message, PAGE_FAULT, Range, Register, UFFD};
use crate::memory::PAGE;
use crate::memory::faults::{self, Step};

/// A userfaultfd of this process.
#[derive(Debug)]
pub(super) struct Userfaultfd {
    fd: OwnedFd,
}

impl Userfaultfd {
    /// Opens one that also sees the faults of KVM.
    pub(super) fn open() -> Result<Self, PagingError> {
        faults::check(Step::OpenUserfaultfd).map_err(PagingError::Api)?;
        let uffd = Self::open_by(by_system_call, || by_device(Path::new("/dev/userfaultfd")))?;
        let mut api = Api {
            api: UFFD.into(),
            features: ioctls::THREAD_ID,
            ..Default::default()
        };
        let mut start = || {
            faults::check(Step::StartUserfaultfd)?;
            // SAFETY: reads and fills in the structure, which has the kernel's layout.
            unsafe { uffd.ioctl(ioctls::UFFDIO_API(), &mut api) }
        };
        start().map_err(PagingError::Api)?;
        Ok(uffd)
    }

    /// The first of the two ways that works.
    pub(super) fn open_by(
        system_call: impl FnOnce() -> io::Result<OwnedFd>,
        device: impl FnOnce() -> io::Result<OwnedFd>,
    ) -> Result<Self, PagingError> {
        let system_call = match system_call() {
            Ok(fd) => return Ok(Self { fd }),
            Err(error) => error,
        };
        match device() {
            Ok(fd) => Ok(Self { fd }),
            Err(device) => Err(PagingError::NotAllowed {
                system_call,
                device,
            }),
        }
    }

    /// From now on, whoever touches a page there that is missing sleeps.
    pub(super) fn register(&self, start: u64, len: u64) -> io::Result<()> {
        faults::check(Step::WatchMemory)?;
        let mut register = Register {
            range: Range { start, len },
            mode: MISSING,
            ..Default::default()
        };
        // SAFETY: as in `open`. What happens to accesses is what the caller wants.
        unsafe { self.ioctl(ioctls::UFFDIO_REGISTER(), &mut register) }
    }

    /// The opposite; who sleeps there wakes and finds zeroes.
    pub(super) fn unregister(&self, start: u64, len: u64) -> io::Result<()> {
        faults::check(Step::UnwatchMemory)?;
        // SAFETY: as above.
        unsafe { self.ioctl(ioctls::UFFDIO_UNREGISTER(), &mut Range { start, len }) }
    }

    /// Wakes who sleeps in the page at `addr`; they touch it again.
    pub(super) fn wake(&self, addr: u64) -> io::Result<()> {
        faults::check(Step::WakeSleeper)?;
        let (start, len) = (addr, PAGE);
        // SAFETY: as above.
        unsafe { self.ioctl(ioctls::UFFDIO_WAKE(), &mut Range { start, len }) }
    }

    /// Puts `page` at `addr` if nothing is there, and wakes who sleeps there.
    pub(super) fn put(&self, addr: u64, page: &[u8; PAGE as usize]) -> io::Result<()> {
        faults::check(Step::BringPage)?;
        let mut copy = Copy {
            dst: addr,
            src: page.as_ptr() as u64,
            len: PAGE,
            ..Default::default()
        };
        // SAFETY: reads the page, and writes where nothing is yet: to a page that
        // nobody can have seen.
        unsafe { self.ioctl(ioctls::UFFDIO_COPY(), &mut copy) }
    }

    /// The address of the next page that somebody sleeps for, and the thread that
    /// does; `None` if there is none.
    pub(super) fn next_fault(&self) -> io::Result<Option<(u64, i32)>> {
        let mut message = Message::default();
        let (at, len) = ((&raw mut message).cast(), size_of::<Message>());
        loop {
            // SAFETY: fills in the message, for which any bytes are valid.
            let read = unsafe { libc::read(self.fd.as_raw_fd(), at, len) };
            if read as usize == len && message.event == PAGE_FAULT {
                let page = message.address & !(PAGE - 1);
                return Ok(Some((page, message.thread as i32)));
            }
            if read == -1 {
                let error = io::Error::last_os_error();
                match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(None),
                    io::ErrorKind::Interrupted => {}
                    _ => return Err(error),
                }
            }
        }
    }

    /// # Safety
    ///
    /// `arg` must be what the ioctl takes.
    unsafe fn ioctl<T>(&self, number: u64, arg: &mut T) -> io::Result<()> {
        // SAFETY: the caller vouches for the argument.
        match unsafe { libc::ioctl(self.fd.as_raw_fd(), number, arg as *mut T) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl AsFd for Userfaultfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

const FLAGS: i32 = libc::O_CLOEXEC | libc::O_NONBLOCK;

fn by_system_call() -> io::Result<OwnedFd> {
    // SAFETY: returns a new descriptor or an error.
    owned(unsafe { libc::syscall(libc::SYS_userfaultfd, FLAGS) } as i32)
}

fn by_device(path: &Path) -> io::Result<OwnedFd> {
    let device = OpenOptions::new().read(true).write(true).open(path)?;
    // SAFETY: as above; the argument is a number.
    owned(unsafe { libc::ioctl(device.as_raw_fd(), ioctls::USERFAULTFD_IOC_NEW(), FLAGS) })
}

fn owned(fd: i32) -> io::Result<OwnedFd> {
    match fd {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the descriptor is new and nobody else's.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
    }
}
