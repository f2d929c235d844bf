//! The memory that a vCPU shares with KVM: `struct kvm_run`, and behind it the
//! data of port accesses.
//!
//! kvm-ioctls maps the same pages and hands out `&mut kvm_run`. That cannot be
//! used here: the kick's signal handler writes one byte of the struct at any
//! moment, which must not happen under a live `&mut`, and port data lies
//! outside of the struct. So this is a mapping of our own, touched through
//! raw pointers and one atomic byte.
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::AtomicU8;

use kvm_bindings::kvm_run;

/// A shared mapping of a vCPU's run structure, unmapped when dropped.
#[derive(Debug)]
pub(super) struct RunPage {
    at: NonNull<kvm_run>,
    size: usize,
}

// SAFETY: a mapping may be used and unmapped from any thread; every access but
// that of `immediate_exit`, an atomic, needs the `&mut Vcpu` that owns it.
unsafe impl Send for RunPage {}
// SAFETY: as above; with `&RunPage` only the atomic byte is reached.
unsafe impl Sync for RunPage {}

impl RunPage {
    /// Maps `size` bytes (`KVM_GET_VCPU_MMAP_SIZE`) of a vCPU's descriptor.
    pub(super) fn map(fd: &impl AsRawFd, size: usize) -> io::Result<Self> {
        if size < size_of::<kvm_run>() {
            return Err(io::Error::other(format!(
                "KVM shares {size} bytes, too few"
            )));
        }
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping at an address that the kernel chooses.
        let at = unsafe { libc::mmap(null_mut(), size, prot, flags, fd.as_raw_fd(), 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let at = NonNull::new(at.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        Ok(Self { at, size })
    }

    /// The structure. Valid for reads and writes while `self` lives.
    pub(super) fn as_ptr(&self) -> *mut kvm_run {
        self.at.as_ptr()
    }

    /// The byte that makes the next `KVM_RUN` return at once.
    pub(super) fn immediate_exit(&self) -> &AtomicU8 {
        // SAFETY: the byte is mapped while `self` lives, and this process
        // accesses it only through this atomic.
        unsafe { AtomicU8::from_ptr(&raw mut (*self.as_ptr()).immediate_exit) }
    }

    /// A pointer to `len` bytes at `offset`, or `None` outside of the mapping.
    pub(super) fn bytes_at(&self, offset: u64, len: usize) -> Option<*mut u8> {
        let offset = usize::try_from(offset).ok()?;
        let end = offset.checked_add(len)?;
        // SAFETY: the offset is inside of the mapping.
        (end <= self.size).then(|| unsafe { self.as_ptr().cast::<u8>().add(offset) })
    }
}

impl Drop for RunPage {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this size; whoever held a pointer
        // borrowed the vCPU, and the kick's pointer is cleared before.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.size) };
    }
}
