//! The trace file: `docs/trace.md` has it to the byte.
//!
//! A header that says what everything else means, then blocks. Each block names its
//! thread and has a checksum, so that a crash costs the last one at most, and any part
//! that is damaged costs itself alone.

mod format;
mod meta;
mod output;
mod reader;
#[cfg(test)]
mod tests;
mod time;

pub(super) use meta::Threads;
pub use meta::{
    Device, Host, Machine, MappedAtStart, Meta, Outcome, Region, ThreadEnd, VcpuCounts,
};
pub(super) use output::{BlockOf, Output};
pub use reader::{ReadError, Thread, TraceFile};
pub use time::Timeline;
