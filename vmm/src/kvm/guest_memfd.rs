//! Guest memory in a file of KVM's own, which user space can map too.
use std::fs::File;
use std::io;
use std::os::fd::FromRawFd;

use kvm_bindings::kvm_create_guest_memfd;

use super::ioctls::checked;
use super::vm::Vm;
use crate::memory::faults::Step;

/// `KVM_CAP_GUEST_MEMFD_FLAGS`, which kvm-bindings does not have yet.
pub(super) const KVM_CAP_GUEST_MEMFD_FLAGS: u32 = 244;
/// The file can be mapped, so that the VMM can serve accesses.
const MMAP: u64 = 1 << 0;
/// Its memory starts as shared with the host: otherwise touching it is a SIGBUS.
const INIT_SHARED: u64 = 1 << 1;
pub(super) const FLAGS: u64 = MMAP | INIT_SHARED;

/// Why there is no such file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuestMemfdError {
    /// KVM has none that can be mapped.
    #[error(
        "backing=guest-memfd needs KVM_CAP_GUEST_MEMFD_FLAGS with MMAP and INIT_SHARED ({FLAGS:#x}); \
         this host's KVM answers {answer:#x}: run Linux 6.18 or later, or choose backing=memfd"
    )]
    Missing {
        /// What `KVM_CHECK_EXTENSION` says.
        answer: i32,
    },
    /// `KVM_CREATE_GUEST_MEMFD` failed.
    #[error("KVM made no file of {len} bytes for guest memory (KVM_CREATE_GUEST_MEMFD): {source}")]
    Create {
        /// Bytes.
        len: u64,
        /// The system's error.
        source: io::Error,
    },
}

impl Vm {
    /// Makes a file of `len` bytes, for this VM's guest only.
    ///
    /// # Errors
    /// See [`GuestMemfdError`].
    pub fn create_guest_memfd(&self, len: u64) -> Result<File, GuestMemfdError> {
        let fd = &self.inner.fd;
        let answer = fd.check_extension_raw(KVM_CAP_GUEST_MEMFD_FLAGS.into());
        if answer < 0 || answer as u64 & FLAGS != FLAGS {
            return Err(GuestMemfdError::Missing { answer });
        }
        let what = kvm_create_guest_memfd {
            size: len,
            flags: FLAGS,
            ..Default::default()
        };
        let fd = checked(Step::MakeGuestMemfd, || fd.create_guest_memfd(what)).map_err(|e| {
            GuestMemfdError::Create {
                len,
                source: e.into(),
            }
        })?;
        // SAFETY: the descriptor is new and nobody else's.
        Ok(unsafe { File::from_raw_fd(fd) })
    }
}
