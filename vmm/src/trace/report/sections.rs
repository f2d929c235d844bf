//! Write sections: what they did, and where their time went.

use std::collections::BTreeMap;

use serde::Serialize;

use super::super::TraceFile;
use super::super::event::{Event, Section};
use super::super::links::{Links, space_of};
use super::{Figures, Filter, Missing, SortKey, Spread};

/// The write sections.
#[derive(Clone, Debug, Serialize)]
pub struct SectionView {
    /// By what they did.
    pub groups: Vec<SectionGroup>,
    /// Each of them.
    pub rows: Vec<SectionRow>,
    /// What the counts leave out.
    pub missing: Missing,
}

/// Sections that did the same kind of thing.
#[derive(Clone, Debug, Serialize)]
pub struct SectionGroup {
    /// What.
    pub what: String,
    /// From having the map lock to the end.
    #[serde(flatten)]
    pub times: Figures,
    /// The parts of it.
    pub plan: Figures,
    /// Waiting for readers.
    pub drain: Figures,
    /// The caller's side effects: KVM's memslots.
    pub apply: Figures,
    /// Putting the next version in force, up to letting go.
    pub publish: Figures,
    /// Readers that drains found.
    pub holders: u64,
    /// Sleeps of exits for these sections.
    pub waits: u64,
    /// How long those were, together.
    pub waited_ns: u64,
}

/// One section.
#[derive(Clone, Debug, Serialize)]
pub struct SectionRow {
    /// Its first number.
    pub number: u64,
    /// What it did.
    pub what: String,
    /// `memory` or `ports`.
    pub space: &'static str,
    /// The addresses that it changed.
    pub range: Option<(u64, u64)>,
    /// What is, or was, there.
    pub name: String,
    /// The thread.
    pub thread: String,
    /// Its id.
    pub tid: u32,
    /// When it had the map lock, nanoseconds since the recording began.
    pub at_ns: u64,
    /// From then to the end.
    pub total_ns: u64,
    /// Planning; `null` here and below where it did not come so far.
    pub plan_ns: Option<u64>,
    /// Waiting for readers.
    pub drain_ns: Option<u64>,
    /// The caller's side effects.
    pub apply_ns: Option<u64>,
    /// Putting the next version in force.
    pub publish_ns: Option<u64>,
    /// How many numbers it had.
    pub rounds: u16,
    /// Readers that its drain found.
    pub holders: u16,
    /// Sleeps of exits for it.
    pub waits: u64,
    /// How long those were, together.
    pub waited_ns: u64,
}

/// What a section was, in words: what it did, or that it was given up.
fn word(section: &Section) -> String {
    match section.published {
        true => section.what.name().to_owned(),
        false => "given up".to_owned(),
    }
}

#[derive(Default)]
struct Group {
    times: [Spread; 5],
    holders: u64,
    waits: u64,
    waited: u64,
}

/// The sections that `filter` lets through. (Its vCPU says whose waits are counted.)
pub fn sections(trace: &TraceFile, filter: &Filter, sort: SortKey) -> SectionView {
    let links = Links::new(trace);
    // By the space and the first number of the section.
    let mut waits: BTreeMap<_, (u64, u64)> = BTreeMap::new();
    for (_, event) in trace.events() {
        if let Event::Exit(exit) = event
            && let Some(wait) = exit.wait
            && filter.vcpu.is_none_or(|vcpu| vcpu == u32::from(exit.vcpu))
            && let Some((_, section)) = links.section(space_of(exit.kind), wait.section)
        {
            let sum = waits.entry((section.space, section.number)).or_default();
            sum.0 += 1;
            sum.1 = sum.1.saturating_add(trace.time.ns(wait.ticks()));
        }
    }
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    let mut rows = Vec::new();
    for (thread, section) in links.sections() {
        if !filter.takes_section(trace, &links, section) {
            continue;
        }
        let key = (section.space, section.number);
        let (count, waited) = waits.get(&key).copied().unwrap_or_default();
        let thread = &trace.threads[thread];
        let part = |from: u64, to: u64| {
            (from != 0 && to != 0).then(|| trace.time.ns(to.saturating_sub(from)))
        };
        let parts = [
            part(section.opened, section.planned),
            part(section.planned, section.drained),
            part(section.drained, section.applied),
            part(section.applied, section.ended),
        ];
        let total_ns = trace.time.ns(section.ticks());
        let group = groups.entry(word(section)).or_default();
        group.times[0].add(total_ns);
        for (spread, part) in group.times[1..].iter_mut().zip(parts) {
            part.into_iter().for_each(|ns| spread.add(ns));
        }
        group.holders += u64::from(section.holders);
        group.waits += count;
        group.waited = group.waited.saturating_add(waited);
        let is_there = section.changes() > 0;
        rows.push(SectionRow {
            number: section.number,
            what: word(section),
            space: section.space.name(),
            range: is_there.then_some((section.start, section.last)),
            name: match is_there {
                true => links.name(section.space, section.start),
                false => String::new(),
            },
            thread: thread.name.clone(),
            tid: thread.tid,
            at_ns: trace.time.since_start(section.opened),
            total_ns,
            plan_ns: parts[0],
            drain_ns: parts[1],
            apply_ns: parts[2],
            publish_ns: parts[3],
            rounds: section.rounds,
            holders: section.holders,
            waits: count,
            waited_ns: waited,
        });
    }
    match sort {
        SortKey::Sample => rows.sort_by_key(|row| row.at_ns),
        _ => rows.sort_by_key(|row| std::cmp::Reverse(row.total_ns)),
    }
    let groups = groups.into_iter().map(|(what, group)| {
        let [times, plan, drain, apply, publish] = group.times.map(|spread| spread.figures());
        SectionGroup {
            what,
            times,
            plan,
            drain,
            apply,
            publish,
            holders: group.holders,
            waits: group.waits,
            waited_ns: group.waited,
        }
    });
    let mut groups: Vec<_> = groups.collect();
    groups.sort_by_key(|group| std::cmp::Reverse(sort.of(&group.times)));
    SectionView {
        groups,
        rows,
        missing: Missing::of(trace, filter),
    }
}
