//! The storm: readers and writers that race on purpose, and oracles that can fail.
//!
//! A torture test for the map and for hotplug, as rcutorture is for RCU. Readers look
//! up, hold, nest, pin and walk; writers map, unmap, split, merge, move and replace;
//! all of them linger, by a seed, at the [windows](crate::mm::Window) of the protocol.
//! Beside the map the writers keep a shadow of what it has to say, and each
//! reader compares. With KVM the readers are vCPUs, and the guest verifies.
//!
//! - Each [`Oracle`] has a name and a rule. The first violation ends the storm, and is
//!   shown with the last operations on the VMAs concerned, and how to repeat it.
//! - A storm that has not exercised what it is about is *invalid*, not passed.
//! - In a build of mutants each of the [`BREAKS`] has to be noticed.
//!
//! ```
//! use gracefault::machine::StopRequest;
//! use gracefault::stress::{self, Preset, StressConfig, StressVerdict};
//!
//! let mut config = StressConfig::new(Preset::Churn, None);
//! config.ops = Some(2_000);
//! let report = stress::run(&config, &StopRequest::new(), &mut |_| ())?;
//! assert_ne!(report.verdict, StressVerdict::Violated);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod aim;
mod aimed;
mod apart;
mod blocks;
mod breaks;
mod call;
mod chunk;
mod clock;
mod config;
mod figures;
mod guest;
mod handle;
mod history;
mod judge;
mod late;
mod layout;
mod linger;
mod mix;
mod ops;
mod oracle;
mod passer;
mod pinning;
mod preset;
mod reader;
mod report;
mod run;
mod shadow;
mod steps;
mod watch;
mod world;
mod writer;

use std::time::Duration;

pub use breaks::{BREAKS, Break, POSSIBLE as CAN_BREAK};
pub use config::{MAX_REGIONS, MAX_THREADS, StressConfig, StressConfigError};
pub use figures::{Bucket, Figures, Spread};
pub use handle::{StormHandle, Watched};
pub use mix::{Mix, Op};
pub use oracle::{Oracle, Violation};
pub use preset::Preset;
pub use report::{Covered, LookupFigures, OpFigures, StressReport, StressVerdict};

use crate::machine::{MachineError, StopRequest};

/// What can be told of a storm while it lasts.
#[derive(Clone, Copy, Debug)]
pub struct StressProgress {
    /// Since the start.
    pub elapsed: Duration,
    /// Lookups so far; with KVM, rounds of the guest.
    pub lookups: u64,
    /// Operations so far.
    pub ops: u64,
}

/// Why there was no storm.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StressError {
    /// It cannot be.
    #[error(transparent)]
    Config(#[from] StressConfigError),
    /// The machine cannot be.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The host gave no memory.
    #[error("the host gave no memory for the regions: {0}; try fewer (--regions)")]
    Memory(std::io::Error),
    /// Nobody can see it who was to.
    #[error("the storm cannot be watched: {0}")]
    Watch(std::io::Error),
    /// The host gave no thread.
    #[error("the host gave no thread: {0}; try fewer (--vcpus, --writers)")]
    Thread(std::io::Error),
}

impl StressError {
    /// Whether the user, or the host, has to change something.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Machine(error) => error.is_usage(),
            _ => true,
        }
    }
}

/// Storms as `config` says, until that is done, somebody asks to stop, or a rule is
/// broken. Blocks for that long; calls `progress` some fifty times a second. If a
/// thread is stuck, which is a violation, it is left behind.
pub fn run(
    config: &StressConfig,
    stop: &StopRequest,
    progress: &mut dyn FnMut(StressProgress),
) -> Result<StressReport, StressError> {
    run_watched(config, stop, progress, None)
}

/// Who is to see a storm, called once, before it begins.
pub type OnBegin<'a> = &'a mut dyn FnMut(Watched) -> std::io::Result<()>;

/// As [`run`], with somebody who sees it: `begins` is told what there is to see just
/// before the storm begins (of two storms that are compared, the first one).
///
/// # Errors
/// As there; [`StressError::Watch`] if `begins` fails, and then there is no storm.
pub fn run_watched(
    config: &StressConfig,
    stop: &StopRequest,
    progress: &mut dyn FnMut(StressProgress),
    begins: Option<OnBegin<'_>>,
) -> Result<StressReport, StressError> {
    config.check()?;
    if let Some(broken) = config.broken {
        broken.take_effect();
    }
    if config.kvm.is_some() {
        return guest::run(config, stop, progress, begins);
    }
    let mut report = run::run(config, stop, progress, begins)?;
    if config.preset == Preset::Starve && report.verdict == StressVerdict::Passed {
        let compared = config.compared(Duration::from_secs_f64(report.seconds.max(1.0)));
        report.compared = Some(Box::new(run::run(&compared, stop, progress, None)?));
    }
    Ok(report)
}

/// What a thread panicked with.
fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref().map(|s: &&str| (*s).to_owned()));
    text.unwrap_or_default()
}
