//! When each VMA came and went.

use std::collections::BTreeMap;

use serde::Serialize;

use super::super::TraceFile;
use super::super::event::{Change, Event, Space};
use super::super::links::{Links, space_named};
use crate::mm::VmFlags;

/// A VMA of guest-physical memory, from when it came to when it went.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Life {
    pub(super) name: String,
    /// Its addresses, as text: JavaScript's numbers end at 2^53.
    pub(super) start: String,
    pub(super) last: String,
    /// Bytes.
    pub(super) bytes: u64,
    /// Where in the order of the address space it is drawn.
    pub(super) row: usize,
    pub(super) device: bool,
    /// Nanoseconds since the recording began; `null`: it was there before, or stayed.
    pub(super) from: Option<u64>,
    pub(super) to: Option<u64>,
}

/// All of them, and what the rows are: where VMAs begin, in the order of the addresses.
pub(super) fn lives(trace: &TraceFile, links: &Links<'_>) -> (Vec<Life>, Vec<String>) {
    let mut now: BTreeMap<u64, (u64, u32, Option<u64>)> = BTreeMap::new();
    for vma in &trace.meta.map {
        if space_named(&vma.space) == Space::Memory {
            now.insert(vma.start, (vma.last, vma.flags, None));
        }
    }
    let mut changes: Vec<&Change> = Vec::new();
    for (_, event) in trace.events() {
        if let Event::Change(change) = event
            && change.space == Space::Memory
        {
            changes.push(change);
        }
    }
    // Of one section, what goes goes first.
    changes.sort_by_key(|change| (change.at, change.section, change.added));
    let mut lives = Vec::new();
    let mut over = |start: u64, (last, flags, from): (u64, u32, Option<u64>), to: Option<u64>| {
        lives.push((
            start,
            Life {
                name: links.name(Space::Memory, start),
                start: format!("{start:#x}"),
                last: format!("{last:#x}"),
                bytes: last.saturating_sub(start).saturating_add(1),
                row: 0,
                device: VmFlags::from_bits(flags).contains(VmFlags::IO),
                from,
                to,
            },
        ));
    };
    for change in changes {
        let at = trace.time.since_start(change.at);
        let vma = (change.last, change.flags, Some(at));
        // Where a change was lost, one that is over anyway.
        let before = match change.added {
            true => now.insert(change.start, vma),
            false => now.remove(&change.start),
        };
        if let Some(before) = before {
            over(change.start, before, Some(at));
        }
    }
    for (start, vma) in now {
        over(start, vma, None);
    }
    let mut starts: Vec<u64> = lives.iter().map(|(start, _)| *start).collect();
    starts.sort_unstable();
    starts.dedup();
    for (start, life) in &mut lives {
        life.row = starts.partition_point(|other| other < start);
    }
    let names = starts.iter().map(|start| {
        let name = links.name(Space::Memory, *start);
        format!("{start:#x} {name}")
    });
    let rows = names.collect();
    (lives.into_iter().map(|(_, life)| life).collect(), rows)
}
