//! What is recorded of a run: every exit of every vCPU, by kind and address, always;
//! and, if asked, each exit and each write section by itself, in a file.
//!
//! | module | what it is |
//! |---|---|
//! | [`record`] | the recorder: a ring for each thread, and who writes the file |
//! | [`event`] | what is recorded |
//! | [`mod@file`] | the file: writing and reading it |
//! | [`export`] | Perfetto, JSON lines, OpenMetrics |
//! | [`html`] | a page for a browser |
//! | [`live`] | what is counted always, to be read meanwhile |
//! | [`links`] | which write section a wait was for |
//! | [`replay`] | a recorded stream, sent to the map and the devices again |
//! | [`report`] | tables: what `perf kvm stat` has, percentiles, waits |

pub mod event;
mod exits;
pub mod export;
pub mod file;
mod histogram;
pub mod html;
pub mod links;
pub mod live;
pub mod record;
pub mod replay;
pub mod report;
mod table;

pub use exits::{ExitKey, ExitKind, VcpuTrace};
pub use file::TraceFile;
pub use histogram::{Summary, Times};
pub use live::{LiveVcpu, VcpuCounter};
pub use table::ExitTable;
