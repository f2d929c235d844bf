//! Why there is no demand paging.

use std::io;

/// Why there is no demand paging.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PagingError {
    /// This process may not have a userfaultfd that sees KVM's faults.
    #[error(
        "RAM that comes from an image at first touch needs userfaultfd: give yourself \
         /dev/userfaultfd (`sudo setfacl -m u:$USER:rw /dev/userfaultfd`, Linux 6.1), or CAP_SYS_PTRACE, \
         or `sudo sysctl vm.unprivileged_userfaultfd=1` (the system call: {system_call}; the \
         device: {device}); backing=private-file:PATH needs none of them"
    )]
    NotAllowed {
        /// What the system call said.
        system_call: io::Error,
        /// What opening the device said.
        device: io::Error,
    },
    /// The kernel's userfaultfd is not the one that is known here.
    #[error("the userfaultfd of this kernel cannot be used (UFFDIO_API): {0}")]
    Api(io::Error),
    /// A thread or descriptor could not be had.
    #[error("no handler of page faults could be started: {0}")]
    Handler(io::Error),
}
