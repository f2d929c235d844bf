//! Why there is no RAM as asked for.

use std::io;
use std::path::PathBuf;

use super::room::Refusal;
use crate::memory::paging::PagingError;

/// Why there is no RAM as asked for. Nothing of it is left, and a file that was named
/// is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RamError {
    /// No address space has room for it.
    #[error(
        "{boot} bytes of boot RAM and {hotplug} bytes to plug are more than 64 bits can count: ask \
         for less (--memory size=, hotplug_size=)"
    )]
    TooLarge {
        /// Boot RAM.
        boot: u64,
        /// The most to be plugged.
        hotplug: u64,
    },
    /// `discard` without a file that is written to.
    #[error(
        "discard=on goes with backing=file:PATH only: backing={backing} gives its memory back anyway"
    )]
    DiscardOfNoFile {
        /// The backend.
        backing: &'static str,
    },
    /// Transparent huge pages of a backend that has none.
    #[error(
        "hugepages=thp and hugepages=off go with backing=anon and backing=memfd, not with backing={backing}"
    )]
    NoThp {
        /// The backend.
        backing: &'static str,
    },
    /// A size that huge pages do not make up.
    #[error(
        "{what} of {bytes} bytes is no multiple of the huge page, {page} bytes: choose one \
         (--memory {what}=), or another page size (hugepages=2M or 1G)"
    )]
    NotHugePages {
        /// Which size.
        what: &'static str,
        /// What was asked for.
        bytes: u64,
        /// The huge page.
        page: u64,
    },
    /// The host has not got it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The file cannot be used.
    #[error("backing={backing}:{}: {what}", path.display())]
    File {
        /// The backend.
        backing: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        what: String,
    },
    /// The host made no file in memory.
    #[error(
        "the host made no file in memory for {bytes} bytes of guest RAM (memfd_create): {source}"
    )]
    Memfd {
        /// Bytes.
        bytes: u64,
        /// The system's error.
        source: io::Error,
    },
    /// There is no demand paging.
    #[error(transparent)]
    Paging(#[from] PagingError),
    /// KVM's file is made by KVM.
    #[error("backing=guest-memfd: its file comes from KVM; give it to RamSource::of_guest_memfd")]
    GuestMemfdNotGiven,
}
