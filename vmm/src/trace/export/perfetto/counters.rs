//! Counters beside the tracks: what is plugged, how many VMAs there are, who waits, what
//! was lost.

use std::io::{self, Write};

use super::super::super::TraceFile;
use super::super::super::event::{Event, Space};
use super::super::super::links::{Links, space_named};
use super::super::super::report::Filter;
use super::packets::{Packets, Track};

/// Names and units, in the order of the tracks.
const COUNTERS: [(&str, &str); 4] = [
    ("plugged", "bytes"),
    ("VMAs", "VMAs"),
    ("waiting readers", "readers"),
    ("lost events", "events"),
];
const PLUGGED: u64 = 0;
const VMAS: u64 = 1;
const WAITING: u64 = 2;
const LOST: u64 = 3;

/// Writes them. Those of the map are of all of it, whatever the filter.
pub(super) fn write<W: Write>(
    trace: &TraceFile,
    links: &Links<'_>,
    filter: &Filter,
    packets: &mut Packets<'_, W>,
) -> io::Result<()> {
    for (n, (name, unit)) in (0..).zip(COUNTERS) {
        packets.counter(Track::of_counter(n), name, unit)?;
    }
    let start = trace.time.start_boot_ns();
    let map = trace.meta.map.iter();
    let memory = map.filter(|vma| space_named(&vma.space) == Space::Memory);
    let is_block = |start: u64| links.block(Space::Memory, start).is_some();
    let (mut vmas, mut plugged) = (0_i64, 0_i128);
    for vma in memory {
        vmas += 1;
        if is_block(vma.start) {
            plugged += i128::from(vma.last.saturating_sub(vma.start)) + 1;
        }
    }
    let value = |n: i128| u64::try_from(n.max(0)).unwrap_or(u64::MAX);
    packets.value(Track::of_counter(PLUGGED), start, value(plugged))?;
    packets.value(Track::of_counter(VMAS), start, value(vmas.into()))?;
    packets.value(Track::of_counter(WAITING), start, 0)?;
    packets.value(Track::of_counter(LOST), start, 0)?;

    let mut changes = Vec::new();
    let mut waiting = Vec::new();
    let mut losses = Vec::new();
    for (_, event) in trace.events() {
        match event {
            Event::Change(change) if change.space == Space::Memory => changes.push(change),
            Event::Exit(exit) if filter.takes_exit(trace, links, exit) => {
                if let Some(wait) = exit.wait {
                    let until = wait.until.max(wait.from);
                    waiting.extend([(wait.from, 1), (until, -1)]);
                }
            }
            _ => {}
        }
    }
    changes.sort_by_key(|change| change.at);
    let mut changes = changes.into_iter().peekable();
    while let Some(change) = changes.next() {
        let sign = if change.added { 1 } else { -1 };
        vmas += sign;
        if is_block(change.start) {
            plugged += i128::from(sign) * i128::from(change.bytes());
        }
        // A section's changes are one.
        if changes.peek().is_none_or(|next| next.at != change.at) {
            let at = trace.time.boot_ns(change.at);
            packets.value(Track::of_counter(PLUGGED), at, value(plugged))?;
            packets.value(Track::of_counter(VMAS), at, value(vmas.into()))?;
        }
    }
    // Of those at one moment, who comes before who goes.
    waiting.sort_by_key(|(at, change)| (*at, -change));
    let mut readers = 0_i128;
    for (at, change) in waiting {
        readers += change;
        packets.value(
            Track::of_counter(WAITING),
            trace.time.boot_ns(at),
            value(readers),
        )?;
    }
    for thread in &trace.threads {
        let mut before = 0;
        for (at, lost) in &thread.losses {
            losses.push((*at, lost.saturating_sub(before)));
            before = *lost;
        }
    }
    losses.sort_by_key(|(at, _)| *at);
    let mut lost = 0_u64;
    for (at, more) in losses {
        lost = lost.saturating_add(more);
        packets.value(Track::of_counter(LOST), trace.time.boot_ns(at), lost)?;
    }
    Ok(())
}
