//! What goes over the socket, as JSON: used by the server and by clients.
//! `docs/api.json` describes all of it; `docs/api.md` explains it.
//!
//! Times are nanoseconds in fields that end in `_ns`; addresses and sizes are bytes.
//! Counts and sums only grow while the VM lives, so a client that polls takes
//! differences. A request with a field that is not described is refused; a client
//! leaves out of a response what it does not know.

mod counters;
mod exits;
mod failure;
mod hotplug;
mod map;
mod sections;
mod trace;
mod vcpu;
mod vm;

pub use counters::Counters;
pub use exits::{ExitRow, Exits, Histogram};
pub use failure::{ErrorCode, Failure, Unreleased};
pub use hotplug::{
    PlugReport, PlugRequest, Range, ResizeReport, ResizeRequest, ResizeState, ResizeStatus,
    UnplugReport, UnplugRequest,
};
pub use map::{Backing, Hold, MapEntry};
pub use sections::{Change, Did, OpenSection, Sections, Stage, Thread, Wait};
pub use trace::{OnFull, TraceRequest, TraceState, TraceStatus};
pub use vcpu::{Doing, ExitKind, VcpuInfo};
pub use vm::{Kind, Live, MemoryInfo, Ping, VmInfo, VmState};
