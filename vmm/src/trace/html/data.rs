//! What the page shows.
//!
//! A page with millions of slices would not open: of each track it has how many exits
//! there were in each of many short times, and one by one only those that are worth it:
//! all that waited, and the longest. What is left out is said on the page.

use serde::Serialize;

use super::super::TraceFile;
use super::super::event::Event;
use super::super::links::Links;
use super::super::report::{self, By, ExitView, Filter, SectionGroup, SortKey, Spread, WaitView};
use super::lives::{Life, lives};

/// Times into which a track is cut.
const BINS: usize = 1200;
/// Slices of a track that are there one by one.
const SLICES: usize = 3000;
/// Waits that are listed.
const WAITS: usize = 500;
/// VMAs that the map over time has.
const LIVES: usize = 6000;
/// Rows of the table of exits.
const ROWS: usize = 40;

#[derive(Serialize)]
pub(super) struct Data {
    title: String,
    about: Vec<(&'static str, String)>,
    warnings: Vec<String>,
    /// Nanoseconds: what the timeline spans.
    from: u64,
    to: u64,
    tracks: Vec<Track>,
    exits: ExitView,
    hidden_rows: usize,
    histograms: Vec<Histogram>,
    waits: WaitView,
    hidden_waits: usize,
    sections: Vec<SectionGroup>,
    rows: Vec<String>,
    lives: Vec<Life>,
    hidden_lives: usize,
}

#[derive(Serialize)]
struct Track {
    name: String,
    tid: u32,
    vcpu: bool,
    events: usize,
    lost: u64,
    /// In each time of equal length: how many, and for how long of it, in nanoseconds.
    bins: Vec<(u32, u64)>,
    slices: Vec<Slice>,
    hidden: usize,
}

/// When it began, how long it took, what it was, and if it waited: from when, how long,
/// for which section.
#[derive(Serialize)]
struct Slice(u64, u64, String, Option<(u64, u64, u64)>);

#[derive(Serialize)]
struct Histogram {
    name: String,
    count: u64,
    /// The upper end of each class in nanoseconds, and how many.
    classes: Vec<(f64, u64)>,
    p50: u64,
    p99: u64,
    p999: u64,
}

impl Data {
    pub(super) fn new(trace: &TraceFile, filter: &Filter) -> Self {
        let links = Links::new(trace);
        let (from, to) = span(trace, filter);
        let tracks = (0..trace.threads.len())
            .map(|t| track(trace, &links, filter, t, (from, to)))
            .collect();
        let mut exits = report::exits(trace, By::Reason, filter, SortKey::Sample);
        let mut waits = report::waits(trace, filter, SortKey::Time);
        let (mut lives, rows) = lives(trace, &links);
        lives.sort_by_key(|life| {
            let to = life.to.unwrap_or(u64::MAX);
            std::cmp::Reverse(to.saturating_sub(life.from.unwrap_or(0)))
        });
        let hidden = |len: usize, most: usize| len.saturating_sub(most);
        Self {
            title: format!(
                "{} on {} vCPUs",
                trace.meta.machine.workload, trace.meta.machine.vcpus
            ),
            about: about(trace),
            warnings: trace.warnings(),
            from,
            to,
            tracks,
            histograms: histograms(trace, &links, filter),
            hidden_rows: hidden(exits.rows.len(), ROWS),
            hidden_waits: hidden(waits.rows.len(), WAITS),
            hidden_lives: hidden(lives.len(), LIVES),
            exits: {
                exits.rows.truncate(ROWS);
                exits
            },
            waits: {
                waits.rows.truncate(WAITS);
                waits
            },
            sections: report::sections(trace, filter, SortKey::Sample).groups,
            rows,
            lives: {
                lives.truncate(LIVES);
                lives
            },
        }
    }
}

fn about(trace: &TraceFile) -> Vec<(&'static str, String)> {
    let meta = &trace.meta;
    let events: usize = trace.threads.iter().map(|thread| thread.events.len()).sum();
    let verdict = match &trace.outcome {
        Some(outcome) => outcome.verdict.clone(),
        None => "unknown".to_owned(),
    };
    vec![
        ("events", events.to_string()),
        ("lost", trace.lost().to_string()),
        ("outcome", verdict),
        ("seed", meta.machine.seed.to_string()),
        ("clock", meta.clock.clone()),
        ("recorded by", format!("Gracefault {}", meta.gracefault)),
    ]
}

/// The time that the timeline spans.
fn span(trace: &TraceFile, filter: &Filter) -> (u64, u64) {
    let last = trace
        .events()
        .map(|(_, event)| trace.time.since_start(event.at()));
    let last = last.max().unwrap_or(0);
    let (from, to) = filter.time.unwrap_or((0, last));
    let to = to.min(last).max(from.saturating_add(1));
    (from, to)
}

fn track(
    trace: &TraceFile,
    links: &Links<'_>,
    filter: &Filter,
    t: usize,
    (from, to): (u64, u64),
) -> Track {
    let thread = &trace.threads[t];
    let mut slices = Vec::new();
    let mut bins = vec![(0_u32, 0_u64); BINS];
    let width = ((to - from) / BINS as u64).max(1);
    for event in &thread.events {
        let slice = match event {
            Event::Exit(exit) if filter.takes_exit(trace, links, exit) => {
                let what = match exit.served {
                    None => exit.kind.to_string(),
                    Some(_) => {
                        let by = links.answered(exit);
                        format!("{:#x}:{} {by}", exit.addr, exit.kind.suffix())
                    }
                };
                let wait = exit.wait.map(|wait| {
                    let at = trace.time.since_start(wait.from);
                    (at, trace.time.ns(wait.ticks()), wait.section)
                });
                let start = trace.time.since_start(exit.start);
                Slice(start, trace.time.ns(exit.ticks()), what, wait)
            }
            Event::Section(section) if filter.takes_section(trace, links, section) => {
                let name = links.name(section.space, section.start);
                let what = match section.published {
                    true => format!("{} {name}", section.what.name()),
                    false => "given up".to_owned(),
                };
                let start = trace.time.since_start(section.opened);
                let what = format!("section {}: {what}", section.number);
                Slice(start, trace.time.ns(section.ticks()), what, None)
            }
            _ => continue,
        };
        add_to_bins(&mut bins, width, from, &slice);
        slices.push(slice);
    }
    let hidden = slices.len().saturating_sub(SLICES);
    slices.sort_by_key(|Slice(_, time, _, wait)| (wait.is_none(), std::cmp::Reverse(*time)));
    slices.truncate(SLICES);
    slices.sort_by_key(|Slice(start, ..)| *start);
    Track {
        name: thread.name.clone(),
        tid: thread.tid,
        vcpu: thread.vcpu.is_some(),
        events: thread.events.len(),
        lost: thread.lost,
        bins,
        slices,
        hidden,
    }
}

/// Counts a slice where it begins, and its time wherever it lasts.
fn add_to_bins(bins: &mut [(u32, u64)], width: u64, from: u64, slice: &Slice) {
    let Slice(start, time, ..) = slice;
    let bin = |at: u64| (at.saturating_sub(from) / width).min(BINS as u64 - 1) as usize;
    let end = start.saturating_add(*time);
    let (first, last) = (bin(*start), bin(end));
    bins[first].0 += 1;
    for (n, bin) in bins.iter_mut().enumerate().take(last + 1).skip(first) {
        let begins = from.saturating_add(n as u64 * width);
        let here = end
            .min(begins.saturating_add(width))
            .saturating_sub(begins.max(*start));
        bin.1 = bin.1.saturating_add(here);
    }
}

/// How long exits took: all of them, and those of each kind and device that are most.
fn histograms(trace: &TraceFile, links: &Links<'_>, filter: &Filter) -> Vec<Histogram> {
    let mut all = Spread::default();
    let mut waits = Spread::default();
    let mut groups: std::collections::BTreeMap<String, Spread> = Default::default();
    for (_, event) in trace.events() {
        let Event::Exit(exit) = event else { continue };
        if !filter.takes_exit(trace, links, exit) {
            continue;
        }
        let ns = trace.time.ns(exit.ticks());
        all.add(ns);
        if let Some(wait) = exit.wait {
            waits.add(trace.time.ns(wait.ticks()));
        }
        let by = match links.answered(exit) {
            by if by.starts_with("block ") => "ram".to_owned(),
            by => by,
        };
        let name = format!("{} {by}", exit.kind);
        groups
            .entry(name.trim_end().to_owned())
            .or_default()
            .add(ns);
    }
    let mut rows: Vec<_> = groups.into_iter().collect();
    rows.sort_by_key(|(_, spread)| std::cmp::Reverse(spread.count()));
    rows.truncate(7);
    let head = [
        ("all exits".to_owned(), all),
        ("waits for a writer".to_owned(), waits),
    ];
    let both = head.into_iter().chain(rows);
    both.filter(|(_, spread)| spread.count() > 0)
        .map(|(name, spread)| {
            let figures = spread.figures();
            Histogram {
                name,
                count: figures.count,
                classes: spread.classes(3),
                p50: figures.p50_ns,
                p99: figures.p99_ns,
                p999: figures.p999_ns,
            }
        })
        .collect()
}
