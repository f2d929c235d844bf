//! Where the host memory behind guest RAM comes from, and whether the host has it.
//!
//! | backend | what it is | given back by |
//! |---|---|---|
//! | [`Anonymous`](Backend::Anonymous) | private memory of this process | `munmap` |
//! | [`Memfd`](Backend::Memfd) | a file in memory, to be shared with other processes | a hole in it |
//! | [`Hugetlb`](Backend::Hugetlb) | huge pages of the host's pool | `munmap` |
//! | [`File`](Backend::File) | a file that the user named; the guest's writes go there | `munmap`; a hole only if asked for |
//! | [`PrivateFile`](Backend::PrivateFile) | such a file's contents; the guest's writes stay in memory | `munmap` |
//! | [`Image`](Backend::Image) | a file whose pages are read when they are first touched | `munmap` |
//! | [`GuestMemfd`](Backend::GuestMemfd) | KVM's own memory file | a hole in it |
//!
//! [`RamSource::open`] is the one way to RAM. It refuses what the host cannot give
//! *up front* ([`room`]), with the setting that would help: a guest that is killed
//! when it first touches its memory has lost its work.

mod advice;
mod error;
mod file;
mod map;
mod named;
mod options;
mod parts;
pub mod room;
mod source;

pub use error::RamError;
pub(super) use map::{FilePart, Leaves, map_at, map_memory};
pub use options::{Backend, HugePage, RamOptions, RamSizes, ThpAdvice};
pub use source::RamSource;
