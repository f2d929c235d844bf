//! What a trace has, as rows of tables: `perf kvm stat`'s columns, percentiles, and
//! whom the vCPUs waited for.

mod exits;
mod filter;
mod sections;
mod spread;
mod waits;

pub use exits::{By, ExitRow, ExitView, exits};
pub use filter::{BadFilter, Filter, VmaFilter};
pub use sections::{SectionGroup, SectionRow, SectionView, sections};
pub use spread::{Figures, Spread};
pub use waits::{WaitRow, WaitView, waits};

use serde::Serialize;

/// What the rows are sorted by, the largest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortKey {
    /// How many there are.
    #[default]
    Sample,
    /// The time of all of them together.
    Time,
    /// The 99th percentile.
    P99,
    /// The longest.
    Max,
}

/// What the counts of a view leave out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// Events that were lost, of all kinds and threads that were asked for.
    pub lost: u64,
    /// Whether the trace has its end.
    pub complete: bool,
}

impl Missing {
    fn of(trace: &super::TraceFile, filter: &Filter) -> Self {
        let threads = trace.threads.iter();
        let threads = threads.filter(|thread| match (filter.vcpu, thread.vcpu) {
            (Some(asked), Some(vcpu)) => asked == vcpu,
            _ => true,
        });
        Self {
            lost: threads
                .map(|thread| thread.lost)
                .fold(0, u64::saturating_add),
            complete: trace.complete,
        }
    }
}
