//! Guest RAM whose pages come from an image when they are first touched
//! (userfaultfd).
//!
//! A thread that touches a page which is not there yet, be it a vCPU inside KVM or
//! a thread of the VMM that holds a read lock, sleeps in the kernel until a
//! *handler* has put the page there. Meanwhile KVM lets no memslot of the VM come
//! or go, and a writer that wants the region waits for the reader. So a handler
//! must never wait for a writer in turn. It does not: it knows the map of guest
//! memory not at all, takes no lock of it, and finds what to serve in the
//! [`Pager`]'s own table, host address to offset in the image, whose lock is held
//! for a look-up only.
//!
//! A region stays in that table for as long as somebody can touch it. An unplug
//! drains its readers and takes its memslot out, which both may wait for pages that
//! the handlers go on to serve; only then is its [`Mapping`](super::Mapping)
//! dropped, which takes the range out of the userfaultfd, waits for the handlers
//! that are at a page of it, and unmaps it. An unplug that is given up has changed
//! nothing: pages that come later are the image's.
//!
//! An image that cannot be read does not leave anybody asleep: the page is replaced
//! by one whose touch is an error ([`sigbus`](super::sigbus)).

mod error;
mod handler;
mod ioctls;
mod pager;
mod source;
mod table;
#[cfg(test)]
mod tests;
mod uffd;

pub use error::PagingError;
pub use pager::{Pager, PagerCounts};
pub use source::PageSource;
