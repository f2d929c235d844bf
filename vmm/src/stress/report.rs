//! What a storm has found.

use std::collections::BTreeMap;

use serde::Serialize;

use super::figures::{Bucket, Figures};
use super::oracle::Violation;
use super::preset::Preset;
use crate::machine::RunReport;

/// How a storm ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StressVerdict {
    /// No violation, and all that was to be exercised was.
    Passed,
    /// A rule was broken.
    Violated,
    /// No violation, but something was not exercised: it says nothing.
    Invalid,
    /// Ended from outside; no violation until then.
    Stopped,
}

/// All of a storm.
#[derive(Clone, Debug, Serialize)]
pub struct StressReport {
    /// How it ended.
    pub verdict: StressVerdict,
    /// The rule that was broken.
    pub violation: Option<Violation>,
    /// What was to be exercised, and how often it was.
    pub coverage: Vec<Covered>,
    /// The command that does the same again.
    pub repeat: String,
    /// The preset.
    pub preset: Preset,
    /// The strategy's name.
    pub strategy: &'static str,
    /// What all choices grew from.
    pub seed: u64,
    /// Readers, or vCPUs.
    pub readers: u32,
    /// Writers.
    pub writers: u32,
    /// Regions, or blocks.
    pub regions: u32,
    /// What the writers did, as shares.
    pub mix: String,
    /// What was left out, in a test of the storm.
    pub broken: Option<&'static str>,
    /// From the start of the threads to the end of the last.
    pub seconds: f64,
    /// The readers.
    pub lookups: LookupFigures,
    /// The writers.
    pub operations: OpFigures,
    /// How often threads lingered, by window.
    pub lingered: BTreeMap<&'static str, u64>,
    /// The machine, with KVM.
    pub machine: Option<Box<RunReport>>,
    /// The same storm with the strategy `retry`, where a preset compares.
    pub compared: Option<Box<StressReport>>,
}

/// Something that was to be exercised.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Covered {
    /// What.
    pub what: &'static str,
    /// How often.
    pub count: u64,
    /// How often at least.
    pub least: u64,
}

impl Covered {
    /// Whether it was.
    pub fn is_enough(&self) -> bool {
        self.count >= self.least
    }
}

/// What readers met. Times are nanoseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LookupFigures {
    /// Lookups of all kinds.
    pub count: u64,
    /// Of these, found nothing.
    pub none: u64,
    /// Of these, slept for a writer; how long.
    pub wait_ns: Figures,
    /// The same as a histogram, from a microsecond on.
    pub wait_ns_buckets: Vec<Bucket>,
    /// Of these, began again; how often.
    pub retries: Figures,
    /// The same as a histogram.
    pub retries_buckets: Vec<Bucket>,
    /// The most sections that one lookup slept for.
    pub most_sections: u64,
    /// Let in to a locked VMA, since the thread held another.
    pub nested: u64,
    /// Given up at a deadline.
    pub timed_out: u64,
    /// Called back by a flag.
    pub called_back: u64,
    /// Try-lookups that got nothing.
    pub aborted: u64,
    /// Holds that went to another thread.
    pub pins: u64,
    /// Sets of pins.
    pub pin_sets: u64,
    /// Reads through the access path.
    pub accesses: u64,
    /// Bare walks.
    pub bare_walks: u64,
    /// Borders with both sides held.
    pub borders: u64,
    /// Lookups of the thread that did the fewest.
    pub least_by_one: u64,
    /// Lookups of the thread that did the most.
    pub most_by_one: u64,
}

/// What writers did. Times are nanoseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct OpFigures {
    /// Operations.
    pub count: u64,
    /// By kind.
    pub by_kind: BTreeMap<&'static str, u64>,
    /// How long each took.
    pub time_ns: Figures,
    /// Drains that found a reader; how long they took.
    pub drain_ns: Figures,
    /// The same as a histogram, from a microsecond on.
    pub drain_ns_buckets: Vec<Bucket>,
    /// Readers that drains waited for.
    pub drained_readers: u64,
    /// Drains that needed a second round.
    pub second_rounds: u64,
    /// Sections given up when they were drained.
    pub given_up: u64,
    /// Sections given up because readers were not gone in time.
    pub late: u64,
    /// VMAs that were merged into others.
    pub merged: u64,
    /// Operations of the writer that did the fewest.
    pub least_by_one: u64,
    /// Operations of the writer that did the most.
    pub most_by_one: u64,
    /// The sequence of decisions of each writer, as a number: the same for the same
    /// seed, with `--ops`.
    pub sequence: String,
}
