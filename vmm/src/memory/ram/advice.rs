//! What the host is told about a mapping.

use std::io;
use std::ptr::{self, NonNull};

use super::ThpAdvice;
use crate::memory::faults::{self, Step};

/// Bytes of a transparent huge page on x86-64.
pub(super) const THP: u64 = 2 << 20;

/// Tells the host what is wanted of `len` bytes at `addr`.
pub(super) fn advise_thp(addr: NonNull<u8>, len: usize, thp: ThpAdvice) -> io::Result<()> {
    match thp {
        ThpAdvice::HostDecides => Ok(()),
        ThpAdvice::Wanted => advise(Step::AdviseMemory, addr, len, libc::MADV_HUGEPAGE),
        ThpAdvice::Unwanted => advise(Step::AdviseMemory, addr, len, libc::MADV_NOHUGEPAGE),
    }
}

/// Has the host give every page of `len` bytes at `addr` now, writable. An error,
/// not a signal, tells that it has none: `EFAULT` where a touch would be a SIGBUS.
/// Contents stay.
pub(super) fn populate(addr: NonNull<u8>, len: usize) -> io::Result<()> {
    loop {
        match advise(Step::PopulateMemory, addr, len, libc::MADV_POPULATE_WRITE) {
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
            other => return other,
        }
    }
}

/// Whether the host can [`populate`]: Linux 5.14 and later.
pub(super) fn can_populate() -> bool {
    // SAFETY: no byte is named, so nothing is touched.
    unsafe { libc::madvise(ptr::null_mut(), 0, libc::MADV_POPULATE_WRITE) == 0 }
}

fn advise(step: Step, addr: NonNull<u8>, len: usize, advice: i32) -> io::Result<()> {
    faults::check(step)?;
    // SAFETY: neither advice given here changes what the memory holds.
    match unsafe { libc::madvise(addr.as_ptr().cast(), len, advice) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
