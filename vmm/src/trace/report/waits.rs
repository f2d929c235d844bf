//! Which vCPU waited for which write section, and how long.

use serde::Serialize;

use super::super::TraceFile;
use super::super::event::Event;
use super::super::links::{Links, space_of};
use super::{Figures, Filter, Missing, SortKey, Spread};

/// The sleeps of exits for the end of a write section.
#[derive(Clone, Debug, Serialize)]
pub struct WaitView {
    /// Each of them.
    pub rows: Vec<WaitRow>,
    /// All of them together.
    pub all: Figures,
    /// How many are not known whom for: their section was lost or not recorded.
    pub unknown: u64,
    /// What the counts leave out.
    pub missing: Missing,
}

/// One sleep.
#[derive(Clone, Debug, Serialize)]
pub struct WaitRow {
    /// The vCPU.
    pub vcpu: u32,
    /// When it fell asleep, nanoseconds since the recording began.
    pub at_ns: u64,
    /// How long it slept.
    pub waited_ns: u64,
    /// The access: its address and direction.
    pub key: String,
    /// Who answered in the end: what the section had left there.
    pub by: String,
    /// The first address of that VMA, or `null`.
    pub vma: Option<u64>,
    /// The number it waited for.
    pub section: u64,
    /// The first number of that section; `null` where the trace has not got it.
    pub section_first: Option<u64>,
    /// What the section did; `null` where the trace has not got it.
    pub what: Option<&'static str>,
    /// The addresses that it changed.
    pub range: Option<(u64, u64)>,
    /// The thread whose section it was.
    pub writer: Option<String>,
    /// That thread's id.
    pub writer_tid: Option<u32>,
    /// From the writer's letting go to the vCPU's being awake.
    pub wakeup_ns: Option<u64>,
}

/// The sleeps of the exits that `filter` lets through; the longest first, or the first
/// first, if sorted by [`SortKey::Sample`].
pub fn waits(trace: &TraceFile, filter: &Filter, sort: SortKey) -> WaitView {
    let links = Links::new(trace);
    let mut all = Spread::default();
    let mut rows = Vec::new();
    for (_, event) in trace.events() {
        let Event::Exit(exit) = event else { continue };
        let Some(wait) = exit.wait else { continue };
        if !filter.takes_exit(trace, &links, exit) {
            continue;
        }
        let waited_ns = trace.time.ns(wait.ticks());
        all.add(waited_ns);
        let release = links.release(exit);
        let section = links.section(space_of(exit.kind), wait.section);
        let section = section.map(|(_, section)| section);
        let changed = section.filter(|section| section.changes() > 0);
        let writer = release.map(|release| &trace.threads[release.thread]);
        rows.push(WaitRow {
            vcpu: exit.vcpu.into(),
            at_ns: trace.time.since_start(wait.from),
            waited_ns,
            key: format!("{:#x}:{}", exit.addr, exit.kind.suffix()),
            by: links.answered(exit),
            vma: exit.vma,
            section: wait.section,
            section_first: section.map(|section| section.number),
            what: section.map(|section| section.what.name()),
            range: changed.map(|section| (section.start, section.last)),
            writer: writer.map(|thread| thread.name.clone()),
            writer_tid: writer.map(|thread| thread.tid),
            wakeup_ns: release.map(|release| trace.time.ns(wait.until.saturating_sub(release.at))),
        });
    }
    let unknown = rows.iter().filter(|row| row.writer.is_none()).count() as u64;
    match sort {
        SortKey::Sample => rows.sort_by_key(|row| row.at_ns),
        _ => rows.sort_by_key(|row| std::cmp::Reverse(row.waited_ns)),
    }
    WaitView {
        rows,
        all: all.figures(),
        unknown,
        missing: Missing::of(trace, filter),
    }
}
