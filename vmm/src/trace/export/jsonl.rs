//! One JSON object a line: first the file's description, then each event, each with a
//! `type`, and at the end what became of all. Times are nanoseconds since the recording
//! began; addresses are numbers.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::json;

use super::super::event::{Change, Event, Exit, Round, Section};
use super::super::links::{Links, space_of};
use super::super::report::Filter;
use super::super::{ExitKind, TraceFile};
use crate::memory::Served;

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Line<'a> {
    Exit {
        vcpu: u16,
        tid: u32,
        kind: ExitKind,
        start_ns: u64,
        time_ns: u64,
        addr: u64,
        len: u16,
        data: u64,
        served: Option<&'static str>,
        by: String,
        vma: Option<u64>,
        handler_ns: u64,
        fragment: bool,
        failed: bool,
        nested: bool,
        wait: Option<WaitLine>,
    },
    Section {
        tid: u32,
        thread: &'a str,
        space: &'static str,
        number: u64,
        rounds: u16,
        what: &'static str,
        published: bool,
        start: u64,
        last: u64,
        added: u32,
        removed: u32,
        readers: u16,
        opened_ns: u64,
        planned_ns: Option<u64>,
        drained_ns: Option<u64>,
        applied_ns: Option<u64>,
        ended_ns: u64,
    },
    Change {
        space: &'static str,
        section: u64,
        added: bool,
        at_ns: u64,
        start: u64,
        last: u64,
        flags: u32,
        offset: u64,
        generation: u64,
    },
    Round {
        space: &'static str,
        section: u64,
        at_ns: u64,
    },
}

#[derive(Serialize)]
struct WaitLine {
    section: u64,
    from_ns: u64,
    time_ns: u64,
    writer_tid: Option<u32>,
}

/// Writes the events that `filter` lets through to `out`, thread by thread.
///
/// # Errors
/// As writing to `out` does.
pub fn write(trace: &TraceFile, filter: &Filter, out: &mut impl Write) -> io::Result<()> {
    let links = Links::new(trace);
    let head =
        json!({ "type": "trace", "start_boot_ns": trace.time.start_boot_ns(), "meta": trace.meta });
    writeln!(out, "{head}")?;
    let since = |at: u64| trace.time.since_start(at);
    let maybe = |at: u64| (at != 0).then(|| since(at));
    for (thread, event) in trace.events() {
        let line = match event {
            Event::Exit(exit) if filter.takes_exit(trace, &links, exit) => {
                exit_line(trace, &links, thread.tid, exit)
            }
            Event::Section(section) if filter.takes_section(trace, &links, section) => {
                let Section { space, what, .. } = section;
                Line::Section {
                    tid: thread.tid,
                    thread: &thread.name,
                    space: space.name(),
                    number: section.number,
                    rounds: section.rounds,
                    what: what.name(),
                    published: section.published,
                    start: section.start,
                    last: section.last,
                    added: section.added,
                    removed: section.removed,
                    readers: section.holders,
                    opened_ns: since(section.opened),
                    planned_ns: maybe(section.planned),
                    drained_ns: maybe(section.drained),
                    applied_ns: maybe(section.applied),
                    ended_ns: since(section.ended),
                }
            }
            Event::Change(change) if takes(trace, &links, filter, change) => Line::Change {
                space: change.space.name(),
                section: change.section,
                added: change.added,
                at_ns: since(change.at),
                start: change.start,
                last: change.last,
                flags: change.flags,
                offset: change.offset,
                generation: change.generation,
            },
            Event::Round(Round { space, section, at }) => Line::Round {
                space: space.name(),
                section: *section,
                at_ns: since(*at),
            },
            _ => continue,
        };
        serde_json::to_writer(&mut *out, &line)?;
        writeln!(out)?;
    }
    let threads = trace.threads.iter().map(|thread| {
        json!({
            "tid": thread.tid, "name": thread.name, "vcpu": thread.vcpu,
            "events": thread.events.len(), "lost": thread.lost,
        })
    });
    let end = json!({
        "type": "end", "complete": trace.complete, "outcome": trace.outcome,
        "threads": threads.collect::<Vec<_>>(),
    });
    writeln!(out, "{end}")
}

/// A change goes with its section.
fn takes(trace: &TraceFile, links: &Links<'_>, filter: &Filter, change: &Change) -> bool {
    match links.section(change.space, change.section) {
        Some((_, section)) => filter.takes_section(trace, links, section),
        None => *filter == Filter::default(),
    }
}

fn exit_line<'a>(trace: &TraceFile, links: &Links<'_>, tid: u32, exit: &Exit) -> Line<'a> {
    let time = &trace.time;
    let wait = exit.wait.map(|wait| WaitLine {
        section: wait.section,
        from_ns: time.since_start(wait.from),
        time_ns: time.ns(wait.ticks()),
        writer_tid: links
            .section(space_of(exit.kind), wait.section)
            .map(|(thread, _)| trace.threads[thread].tid),
    });
    Line::Exit {
        vcpu: exit.vcpu,
        tid,
        kind: exit.kind,
        start_ns: time.since_start(exit.start),
        time_ns: time.ns(exit.ticks()),
        addr: exit.addr,
        len: exit.len,
        data: exit.data,
        served: exit.served.map(served),
        by: links.answered(exit),
        vma: exit.vma,
        handler_ns: time.ns(exit.handler()),
        fragment: exit.fragment,
        failed: exit.failed,
        nested: exit.nested,
        wait,
    }
}

fn served(served: Served) -> &'static str {
    match served {
        Served::Memory => "memory",
        Served::Device => "device",
        Served::DeviceFailed => "device_failed",
        Served::Unmapped => "unmapped",
        Served::RomWrite => "rom_write",
    }
}
