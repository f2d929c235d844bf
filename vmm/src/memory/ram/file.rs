//! Files as the system has them: made in memory, made long enough, looked at.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd};

use super::RamError;
use crate::memory::faults::{self, Step};

/// A file in memory of `len` bytes, all of them a hole.
pub(super) fn memfd(name: &CStr, len: u64) -> Result<File, RamError> {
    let make = || {
        // SAFETY: the name is a C string; returns a new descriptor or an error.
        let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
        match fd {
            -1 => Err(io::Error::last_os_error()),
            // SAFETY: the descriptor is new and nobody else's.
            fd => Ok(unsafe { File::from_raw_fd(fd) }),
        }
    };
    let made = faults::check(Step::MakeMemfd).and_then(|()| make());
    let sized = made.and_then(|file| set_len(&file, len).map(|()| file));
    sized.map_err(|source| RamError::Memfd { bytes: len, source })
}

/// Makes it `len` bytes long.
pub(super) fn set_len(file: &File, len: u64) -> io::Result<()> {
    faults::check(Step::SizeFile)?;
    file.set_len(len)
}

/// Where the pages of a file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Store {
    /// They go back to the file when memory is short.
    Elsewhere,
    /// They have nowhere to go.
    Memory,
    /// Huge pages of the host's pool, of so many bytes.
    Pool(u64),
}

impl Store {
    /// Of an open file.
    pub(super) fn of(file: &File) -> Self {
        const RAMFS_MAGIC: i64 = 0x8584_58f6;
        let mut found = MaybeUninit::<libc::statfs>::zeroed();
        // SAFETY: fills in a structure of the right type; zeroes are valid too.
        let found = unsafe {
            libc::fstatfs(file.as_raw_fd(), found.as_mut_ptr());
            found.assume_init()
        };
        match found.f_type {
            libc::TMPFS_MAGIC | RAMFS_MAGIC => Self::Memory,
            libc::HUGETLBFS_MAGIC => Self::Pool(found.f_bsize as u64),
            _ => Self::Elsewhere,
        }
    }
}

/// Bytes that the file system of an open file has left, if it has a limit.
pub(super) fn room_left(file: &File) -> Option<u64> {
    let mut found = MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: fills in a structure of the right type; zeroes are valid too.
    let found = unsafe {
        libc::fstatvfs(file.as_raw_fd(), found.as_mut_ptr());
        found.assume_init()
    };
    // One without a limit has no blocks, and none free.
    let is_limited = found.f_frsize != 0 && found.f_blocks != 0;
    is_limited.then(|| found.f_bavail.saturating_mul(found.f_frsize))
}
