//! Exits, by what they were or where.

use std::collections::BTreeMap;

use serde::Serialize;

use super::super::event::{Event, Exit};
use super::super::links::Links;
use super::super::{ExitKind, TraceFile};
use super::{Figures, Filter, Missing, SortKey, Spread};
use crate::memory::Served;

/// What exits are told apart by: `perf kvm stat --event`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// All exits, by their kind and who answered (`vmexit`).
    Reason,
    /// MMIO, by address and direction (`mmio`).
    Mmio,
    /// Ports, by number and direction (`ioport`).
    Port,
}

/// Exits, a row for each that is told apart.
#[derive(Clone, Debug, Serialize)]
pub struct ExitView {
    /// The rows.
    pub rows: Vec<ExitRow>,
    /// All of them together.
    pub all: Figures,
    /// Of that time, asleep for a writer.
    pub waited_ns: u64,
    /// What the counts leave out.
    pub missing: Missing,
}

/// Exits that are not told apart. Times are from `KVM_RUN` returning to its next call.
#[derive(Clone, Debug, Serialize)]
pub struct ExitRow {
    /// What they were, or where.
    pub key: String,
    /// Who answered.
    pub by: String,
    /// Their share of the exits, from 0 to 1.
    pub share: f64,
    /// Their share of the time, from 0 to 1.
    pub time_share: f64,
    /// The figures.
    #[serde(flatten)]
    pub times: Figures,
    /// How many of them slept for a writer.
    pub waits: u64,
    /// Of their time, asleep for a writer.
    pub waited_ns: u64,
    /// Of their time, in whoever answered.
    pub handler_ns: u64,
}

#[derive(Default)]
struct Group {
    times: Spread,
    waits: u64,
    waited: u64,
    handler: u64,
}

impl Group {
    fn add(&mut self, trace: &TraceFile, exit: &Exit) {
        self.times.add(trace.time.ns(exit.ticks()));
        self.waits += u64::from(exit.wait.is_some());
        let ns = |ticks| trace.time.ns(ticks);
        self.waited = self.waited.saturating_add(ns(exit.waited()));
        self.handler = self.handler.saturating_add(ns(exit.handler()));
    }
}

/// The exits that `filter` lets through, told apart by `by`.
pub fn exits(trace: &TraceFile, by: By, filter: &Filter, sort: SortKey) -> ExitView {
    let links = Links::new(trace);
    let mut groups: BTreeMap<(ExitKind, u64, String), Group> = BTreeMap::new();
    let mut all = Group::default();
    for (_, event) in trace.events() {
        let Event::Exit(exit) = event else { continue };
        let is_one = match by {
            By::Reason => true,
            By::Mmio => matches!(exit.kind, ExitKind::MmioRead | ExitKind::MmioWrite),
            By::Port => matches!(exit.kind, ExitKind::PioIn | ExitKind::PioOut),
        };
        if !is_one || !filter.takes_exit(trace, &links, exit) {
            continue;
        }
        let addr = if by == By::Reason { 0 } else { exit.addr };
        let key = (exit.kind, addr, target(&links, exit, by));
        groups.entry(key).or_default().add(trace, exit);
        all.add(trace, exit);
    }
    let total = all.times.figures();
    let share = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
    let rows = groups.into_iter().map(|((kind, addr, by_whom), group)| {
        let times = group.times.figures();
        ExitRow {
            key: match by {
                By::Reason => kind.to_string(),
                By::Mmio | By::Port => format!("{addr:#x}:{}", kind.suffix()),
            },
            by: by_whom,
            share: share(times.count, total.count),
            time_share: share(times.total_ns, total.total_ns),
            times,
            waits: group.waits,
            waited_ns: group.waited,
            handler_ns: group.handler,
        }
    });
    let mut rows: Vec<_> = rows.collect();
    // Stable, so that equal ones stay in the order of their keys.
    rows.sort_by_key(|row| std::cmp::Reverse(sort.of(&row.times)));
    ExitView {
        rows,
        all: total,
        waited_ns: all.waited,
        missing: Missing::of(trace, filter),
    }
}

/// Who answered; by reason all memory is one.
fn target(links: &Links<'_>, exit: &Exit, by: By) -> String {
    match (by, exit.served) {
        (By::Reason, Some(Served::Memory)) => "ram".to_owned(),
        _ => links.answered(exit),
    }
}

impl SortKey {
    /// What to sort by.
    pub(super) fn of(self, figures: &Figures) -> u64 {
        match self {
            Self::Sample => figures.count,
            Self::Time => figures.total_ns,
            Self::P99 => figures.p99_ns,
            Self::Max => figures.max_ns,
        }
    }
}
