//! Mapping and unmapping, the system's side.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use super::parts::Claim;
use crate::memory::faults::{self, Step};

/// The part of a file that is behind a mapping.
#[derive(Debug)]
pub(in crate::memory) struct FilePart {
    pub(in crate::memory) file: Arc<File>,
    pub(in crate::memory) offset: u64,
    pub(in crate::memory) leaves: Leaves,
    /// Whether the file is KVM's.
    pub(in crate::memory) is_guest_memfd: bool,
    /// That nobody else maps it.
    pub(in crate::memory) claim: Claim,
}

/// What a mapping leaves in the file behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::memory) enum Leaves {
    /// Its contents.
    Contents,
    /// A hole, if it is unmapped on purpose. A mapping that is dropped, as by a
    /// plug that failed or at a guest's end, leaves its contents.
    HoleIfUnmapped,
    /// A hole.
    Hole,
}

impl FilePart {
    /// Makes a hole of `len` bytes: the host has the memory, or the room on its
    /// disk, again, and what is read there is zero.
    pub(in crate::memory) fn punch(&self, len: usize) -> io::Result<()> {
        let punched = self.try_to_punch(len);
        self.claim.set_stale(punched.is_err());
        punched
    }

    fn try_to_punch(&self, len: usize) -> io::Result<()> {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let (offset, len) = (self.offset as i64, len as i64);
        faults::check(Step::PunchHole)?;
        loop {
            // SAFETY: changes the file only, which the caller gives up.
            if unsafe { libc::fallocate(self.file.as_raw_fd(), mode, offset, len) } == 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::EINTR) {
                return Err(error);
            }
        }
    }
}

/// Maps `len` bytes, readable and writable, of `fd` from `offset` on or of nothing,
/// at an address that is a multiple of `align`, a power of two.
pub(in crate::memory) fn map_memory(
    len: usize,
    align: usize,
    flags: i32,
    file: Option<(RawFd, u64)>,
) -> io::Result<NonNull<u8>> {
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let (fd, offset) = file.unwrap_or((-1, 0));
    let offset = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    if align <= super::super::PAGE as usize {
        // SAFETY: a new mapping at an address of the kernel's choice touches no
        // memory that anybody has.
        let addr = unsafe { libc::mmap(ptr::null_mut(), len, prot, flags, fd, offset) };
        return address(addr);
    }
    let room = Reserved::new(len.checked_add(align).ok_or(io::ErrorKind::OutOfMemory)?)?;
    let start = (room.addr.as_ptr() as usize).next_multiple_of(align);
    let flags = flags | libc::MAP_FIXED;
    // SAFETY: it replaces a part of what was just reserved, and nothing else.
    let addr = unsafe { libc::mmap(start as *mut _, len, prot, flags, fd, offset) };
    let addr = address(addr)?;
    room.keep(start, len)?;
    Ok(addr)
}

fn address(addr: *mut libc::c_void) -> io::Result<NonNull<u8>> {
    if addr == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(NonNull::new(addr.cast()).expect("the kernel maps nothing at 0 unasked"))
}

/// Addresses without memory, to cut an aligned piece out of.
struct Reserved {
    addr: NonNull<u8>,
    len: usize,
}

impl Reserved {
    fn new(len: usize) -> io::Result<Self> {
        faults::check(Step::ReserveAddresses)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: as in `map_memory`.
        let addr = unsafe { libc::mmap(ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0) };
        let addr = address(addr)?;
        Ok(Self { addr, len })
    }

    /// Gives back all but the `len` bytes at `start`; on an error, those too.
    fn keep(mut self, start: usize, len: usize) -> io::Result<()> {
        let begin = self.addr.as_ptr() as usize;
        let end = begin + self.len;
        unmap(begin, start - begin)?;
        // From here on the addresses before are somebody else's.
        self.addr = NonNull::new(start as *mut u8).expect("above the first byte");
        self.len = end - start;
        unmap(start + len, end - (start + len))?;
        std::mem::forget(self);
        return Ok(());

        fn unmap(start: usize, len: usize) -> io::Result<()> {
            faults::check(Step::TrimAddresses)?;
            // SAFETY: a part of what was reserved, in which nothing is.
            match len == 0 || unsafe { libc::munmap(start as *mut _, len) } == 0 {
                true => Ok(()),
                false => Err(io::Error::last_os_error()),
            }
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // SAFETY: reserved by `new`; nobody has been told of anything in it.
        unsafe { libc::munmap(self.addr.as_ptr().cast(), self.len) };
    }
}

/// Maps `len` bytes of `fd` at `addr`, in place of what is there.
///
/// # Safety
///
/// The caller owns what is there, and nothing of Rust's lives in it.
pub(in crate::memory) unsafe fn map_at(
    addr: u64,
    len: u64,
    flags: i32,
    fd: RawFd,
) -> io::Result<()> {
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let (addr, len) = (addr as *mut _, len as usize);
    // SAFETY: the caller vouches for the range.
    let at = unsafe { libc::mmap(addr, len, prot, flags | libc::MAP_FIXED, fd, 0) };
    address(at).map(drop)
}
