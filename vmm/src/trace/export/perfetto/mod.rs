//! Perfetto's format, for <https://ui.perfetto.dev>: a track for each thread, exits as
//! slices with the wait and the retry inside, write sections with their parts, arrows
//! from each wait to the publish that ended it and from there to the retry, and
//! counters.

mod arrows;
mod counters;
mod packets;
mod proto;

use std::io::{self, Write};

use super::super::TraceFile;
use super::super::event::{Event, Exit, Round, Section};
use super::super::links::{Links, space_of};
use super::super::report::Filter;
use arrows::{Arrows, to_publish, to_retry};
use packets::{Named, Packets, Track};

/// Writes the events that `filter` lets through.
///
/// # Errors
/// As writing to `out` does.
pub fn write(trace: &TraceFile, filter: &Filter, out: &mut impl Write) -> io::Result<()> {
    let links = Links::new(trace);
    let mut export = Export {
        trace,
        filter,
        arrows: Arrows::new(trace, &links, filter),
        links: &links,
        packets: Packets::new(out, trace.meta.host.pid),
        free_at: 0,
    };
    let machine = &trace.meta.machine;
    let name = format!("gracefault {}", machine.workload);
    export.packets.process(&name)?;
    for (t, thread) in trace.threads.iter().enumerate() {
        let track = Track::of_thread(t);
        export.packets.thread(track, thread.tid, &thread.name)?;
        export.free_at = 0;
        for (n, event) in thread.events.iter().enumerate() {
            export.event(t, n, event)?;
        }
    }
    counters::write(trace, &links, filter, &mut export.packets)
}

struct Export<'a, W> {
    trace: &'a TraceFile,
    filter: &'a Filter,
    links: &'a Links<'a>,
    arrows: Arrows,
    packets: Packets<'a, W>,
    /// When the last slice of the thread ended. Slices that overlap would not nest; only
    /// a file that somebody has changed has any.
    free_at: u64,
}

impl<W: Write> Export<'_, W> {
    fn ns(&self, ticks: u64) -> u64 {
        self.trace.time.boot_ns(ticks)
    }

    fn event(&mut self, t: usize, n: usize, event: &Event) -> io::Result<()> {
        let (trace, links, filter) = (self.trace, self.links, self.filter);
        match event {
            Event::Exit(exit) if filter.takes_exit(trace, links, exit) => self.exit(t, n, exit),
            Event::Section(section) if filter.takes_section(trace, links, section) => {
                self.section(t, section)
            }
            Event::Round(round) => self.round(t, round),
            _ => Ok(()),
        }
    }

    fn exit(&mut self, t: usize, n: usize, exit: &Exit) -> io::Result<()> {
        let track = Track::of_thread(t);
        let start = exit.start.max(self.free_at);
        let end = exit.end.max(start);
        self.free_at = end;
        let by = self.links.answered(exit);
        let handler = self.trace.time.ns(exit.handler());
        let name = match by.as_str() {
            "" => exit.kind.to_string(),
            by => format!("{} {by}", exit.kind),
        };
        let mut named = Named::new("exit", name).number("vcpu", exit.vcpu.into());
        if exit.served.is_some() {
            named = named
                .address("addr", exit.addr)
                .number("len", exit.len.into())
                .address("data", exit.data)
                .text("by", by)
                .number("handler_ns", handler);
        }
        if let Some(vma) = exit.vma {
            named = named.address("vma", vma);
        }
        for (flag, name) in [
            (exit.fragment, "fragment"),
            (exit.failed, "failed"),
            (exit.nested, "nested"),
        ] {
            if flag {
                named = named.number(name, 1);
            }
        }
        self.packets
            .begin(track, self.trace.time.boot_ns(start), named)?;
        if let Some(wait) = exit.wait {
            let number = self.arrows.wait(t, n);
            let key = (space_of(exit.kind), wait.section);
            let released = self.arrows.released(key).filter(|_| number.is_some());
            let latest = released.map_or(end, |released| released.at);
            let until = wait.until.clamp(start, end);
            let from = wait.from.min(latest).clamp(start, until);
            let mut asleep = Named::new("wait", format!("wait for section {}", wait.section))
                .number("section", wait.section);
            let mut again = Named::new("retry", "retry");
            if let Some(number) = number {
                asleep.flows.push(to_publish(number));
                again.ended_flows.push(to_retry(number));
            }
            let looked_up = exit.looked_up.clamp(until, end);
            let (from, until, looked_up) = (self.ns(from), self.ns(until), self.ns(looked_up));
            self.packets.begin(track, from, asleep)?;
            self.packets.end(track, until)?;
            self.packets.begin(track, until, again)?;
            self.packets.end(track, looked_up)?;
        }
        let end = self.ns(end);
        self.packets.end(track, end)
    }

    fn section(&mut self, t: usize, section: &Section) -> io::Result<()> {
        let track = Track::of_thread(t);
        let key = (section.space, section.last_number());
        let released = self.arrows.released(key).cloned().unwrap_or_default();
        let start = section.opened.max(self.free_at);
        let end = section.ended.max(released.at).max(start);
        self.free_at = end;
        let name = self.links.name(section.space, section.start);
        let title = match section.changes() {
            0 => "section".to_owned(),
            _ => format!("{} {name}", section.what.name()),
        };
        let named = Named::new("section", title)
            .number("number", section.number)
            .number("rounds", section.rounds.into())
            .text("space", section.space.name())
            .address("start", section.start)
            .address("last", section.last)
            .number("added", section.added.into())
            .number("removed", section.removed.into())
            .number("readers", section.holders.into());
        let at = self.ns(start);
        self.packets.begin(track, at, named)?;
        let steps = [
            ("plan", section.opened, section.planned),
            ("drain", section.planned, section.drained),
            ("apply", section.drained, section.applied),
            ("publish", section.applied, section.ended),
        ];
        let mut from = start;
        for (name, begun, done) in steps {
            if begun == 0 || done == 0 {
                break;
            }
            let until = done.clamp(from, end);
            let (begun, done) = (self.ns(from), self.ns(until));
            self.packets
                .begin(track, begun, Named::new("phase", name))?;
            self.packets.end(track, done)?;
            from = until;
        }
        let mut named = match section.published {
            true => Named::new("publish", "publish"),
            false => Named::new("release", "given up"),
        };
        named.ended_flows = released.waiters.iter().copied().map(to_publish).collect();
        named.flows = released.waiters.iter().copied().map(to_retry).collect();
        let end = self.ns(end);
        self.packets
            .instant(track, end, named.number("section", section.number))?;
        self.packets.end(track, end)
    }

    /// In the drain of a section, and before it in the file.
    fn round(&mut self, t: usize, round: &Round) -> io::Result<()> {
        let key = (round.space, round.section);
        let Some(released) = self.arrows.released(key).cloned() else {
            return Ok(());
        };
        let mut named = Named::new("release", "let in who waited").number("section", round.section);
        named.ended_flows = released.waiters.iter().copied().map(to_publish).collect();
        named.flows = released.waiters.iter().copied().map(to_retry).collect();
        let at = self.ns(released.at.max(round.at));
        self.packets.instant(Track::of_thread(t), at, named)
    }
}
