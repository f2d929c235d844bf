//! What is recorded of a run: every exit of every vCPU, by kind and address.

mod exits;
mod histogram;

pub use exits::{ExitKey, ExitKind, ExitTable, VcpuTrace};
pub use histogram::{Summary, Times};
