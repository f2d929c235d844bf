//! Why a memslot could not be added or removed.
use std::io;

use super::slots::MAX_SLOT_BYTES;

/// Why a memslot could not be added or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SlotError {
    /// Address, length or host address is not page-aligned, or the length is 0.
    #[error(
        "a memslot of {len:#x} bytes at GPA {gpa:#x} over host address {host:#x} is not made of whole 4 KiB pages: align all three, and let it hold at least one page"
    )]
    Unaligned {
        /// The guest-physical address.
        gpa: u64,
        /// Its bytes.
        len: u64,
        /// The host address.
        host: u64,
    },
    /// It ends where no guest address is.
    #[error(
        "a memslot of {len:#x} bytes at GPA {gpa:#x} ends past the {bits}-bit guest-physical address space: place it lower"
    )]
    PastEnd {
        /// The guest-physical address.
        gpa: u64,
        /// Its bytes.
        len: u64,
        /// Bits in a guest-physical address.
        bits: u32,
    },
    /// It is larger than KVM lets one slot be.
    #[error("a memslot of {len:#x} bytes is larger than KVM's {MAX_SLOT_BYTES:#x}: use several")]
    TooLarge {
        /// Its bytes.
        len: u64,
    },
    /// Some of it is another slot's.
    #[error("GPA {gpa:#x} to {:#x} overlaps a memslot that is there: remove that one first", .gpa + .len)]
    Overlap {
        /// The guest-physical address.
        gpa: u64,
        /// Its bytes.
        len: u64,
    },
    /// All ids are taken.
    #[error(
        "all {limit} memslots that this host's KVM allows (KVM_CAP_NR_MEMSLOTS) are in use: remove some, or use fewer and larger ones"
    )]
    NoneLeft {
        /// How many there are.
        limit: u32,
    },
    /// There is no log of the pages written.
    #[error(
        "KVM has no log of the pages written in memslot {id} (KVM_GET_DIRTY_LOG): {source}; add the slot as SlotAccess::Logged"
    )]
    DirtyLog {
        /// The slot's id.
        id: u32,
        /// The system's error.
        source: io::Error,
    },
    /// KVM keeps no log of the pages of a file of its own.
    #[error(
        "KVM logs no writes to guest-memfd memory: give GPA {gpa:#x} to {:#x} other memory (backing=memfd, say), or add it without a log", .gpa + .len
    )]
    NoDirtyLog {
        /// The guest-physical address.
        gpa: u64,
        /// Its bytes.
        len: u64,
    },
    /// KVM refused, for another reason.
    #[error("KVM did not {what} memslot {id}, GPA {gpa:#x} to {:#x} (KVM_SET_USER_MEMORY_REGION): {source}", .gpa + .len)]
    Kvm {
        /// "add" or "remove".
        what: &'static str,
        /// The slot's id.
        id: u32,
        /// The guest-physical address.
        gpa: u64,
        /// Its bytes.
        len: u64,
        /// The system's error; "I/O error" means that the VM belongs to
        /// another process, of which this is a fork.
        source: io::Error,
    },
}

impl SlotError {
    /// As a system error: the system's own, or the one that says the same.
    pub(super) fn errno(&self) -> i32 {
        match self {
            Self::Kvm { source, .. } | Self::DirtyLog { source, .. } => {
                source.raw_os_error().unwrap_or(libc::EIO)
            }
            Self::Overlap { .. } => libc::EEXIST,
            Self::NoneLeft { .. } => libc::ENOSPC,
            Self::Unaligned { .. }
            | Self::PastEnd { .. }
            | Self::TooLarge { .. }
            | Self::NoDirtyLog { .. } => libc::EINVAL,
        }
    }
}
