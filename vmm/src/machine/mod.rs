//! A machine: a guest on vCPUs, its memory and devices in the map, and a thread
//! that plugs and unplugs beside it.
//!
//! ```no_run
//! use gracefault::machine::{Machine, MachineConfig, StopRequest};
//!
//! let machine = Machine::new(MachineConfig::default(), Box::new(std::io::stdout()))?;
//! let report = machine.run(&StopRequest::new(), &mut |_progress| ())?;
//! println!("{:?} after {} s", report.verdict, report.seconds);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod answering;
mod build;
mod config;
pub mod elf;
mod error;
mod exit_path;
mod exit_table;
mod gate;
mod guest_pages;
mod handle;
mod image;
mod layout;
mod monitor;
mod recorded;
mod recorder;
mod report;
mod run;
mod seen;
mod verdict;

pub use answering::Answering;
pub use build::Machine;
pub use config::{ConfigError, HostLimits, MachineConfig, MemoryConfig, Sabotage};
pub use error::MachineError;
pub use exit_path::{Ending, ExitPath};
pub use gate::Pause;
pub use handle::{MachineHandle, PauseError, Phase};
pub use monitor::{Monitor, SectionOpen, SectionOver, SectionsSeen, ThreadName};
pub use recorder::RecordingState;
pub use report::{
    ExitGroup, ExitRow, GuestReport, HotplugReport, LookupReport, RefusedReport, RunReport,
    TraceReport, VcpuReport, Verdict,
};
pub use run::{Progress, StopRequest};
