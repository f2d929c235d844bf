//! What the host can give now, and the refusal of what it cannot.
//!
//! A guest that touches memory which the host has not got is killed, or stopped by
//! a fault, at a moment of the host's choice. So all that is asked for is compared
//! with every limit that applies to it, before a page of it is mapped. Nothing is
//! reserved by that: other programs may take the memory later, except for huge
//! pages of the pool and what is prefaulted.

mod cgroup;
mod check;
mod host;
mod huge;
mod process;
mod refusal;
#[cfg(test)]
mod tests;

pub use cgroup::CgroupRoom;
pub use host::{Commit, HostRoom};
pub use huge::HugeRoom;
pub use process::{Limit, Process};
pub use refusal::Refusal;
