//! Answers as text.

use std::fmt::Write;

use gracefault::api::model::{
    Backing, Counters, Failure, Hold, MapEntry, Ping, PlugReport, Range, TraceState, TraceStatus,
    UnplugReport, VmInfo,
};
use serde::Serialize;

use super::super::tables::table;
use super::super::units::{size, time};

/// How a value is spelled in JSON.
fn word(value: &impl Serialize) -> String {
    let spelled = serde_json::to_value(value).ok();
    let spelled = spelled.and_then(|value| value.as_str().map(str::to_owned));
    spelled.unwrap_or_default().replace('_', " ")
}

pub(super) fn ping(ping: &Ping) -> String {
    format!("Gracefault {}, process {}\n", ping.version, ping.pid)
}

pub(super) fn info(info: &VmInfo) -> String {
    let memory = info.memory;
    let mut rows = vec![
        ("state", word(&info.state)),
        ("kind", word(&info.kind)),
        ("workload", info.workload.clone()),
        ("up for", time(info.uptime_ns)),
        ("vCPUs", info.vcpus.to_string()),
    ];
    if memory.boot > 0 {
        rows.extend([
            ("RAM at the start", size(memory.boot)),
            ("plugged", size(memory.plugged)),
            ("requested", size(memory.requested)),
            ("total", size(memory.total)),
            ("block", size(memory.block_size)),
            ("blocks from", format!("{:#x}", memory.start)),
        ]);
    }
    let or_no = |is: bool| if is { "yes" } else { "no" }.to_owned();
    rows.extend([
        ("own churn", or_no(info.churn)),
        ("recorded", or_no(info.tracing)),
        ("events lost", info.events_lost.to_string()),
        ("process", info.pid.to_string()),
        ("version", info.version.clone()),
    ]);
    let lines = rows
        .iter()
        .map(|(name, value)| format!("{name:<17} {value}\n"));
    lines.collect()
}

pub(super) fn counters(counters: &Counters) -> String {
    let mut table = table(&["group", "counter", "value"], 2);
    for (group, counts) in counters {
        for (name, count) in counts {
            table.add_row([group.clone(), name.clone(), count.to_string()]);
        }
    }
    format!("{table}\n")
}

/// As `/proc/PID/maps`: a line a VMA, the end not included.
pub(in super::super) fn map(entries: &[MapEntry]) -> String {
    let mut table = table(
        &[
            "guest addresses",
            "flags",
            "backing",
            "offset",
            "slot",
            "hits",
            "age",
            "name",
            "holders",
        ],
        3,
    );
    for column in [7, 8] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(comfy_table::CellAlignment::Left);
        }
    }
    for entry in entries {
        let dash = || "-".to_owned();
        let backing = match entry.backing {
            Backing::Ram => "ram",
            Backing::LazyRam => "lazy",
            Backing::Rom => "rom",
            Backing::Mmio => "mmio",
        };
        let end = entry.start.saturating_add(entry.size);
        let name = match &entry.id {
            Some(id) => format!("{} ({id})", entry.name),
            None => entry.name.clone(),
        };
        table.add_row([
            format!("{:012x}-{end:012x}", entry.start),
            entry.flags.clone(),
            backing.to_owned(),
            format!("{:08x}", entry.offset),
            entry.slot.map_or_else(dash, |slot| slot.to_string()),
            entry.hits.map_or_else(dash, |hits| hits.to_string()),
            entry.age_ns.map_or_else(dash, time),
            name,
            holders(&entry.holders),
        ]);
    }
    format!("{table}\n")
}

fn holders(holders: &[Hold]) -> String {
    let mut all = holders
        .iter()
        .map(|hold| format!("{} ({})", hold.thread, hold.kind));
    let some: Vec<_> = all.by_ref().take(4).collect();
    match all.count() {
        0 => some.join(", "),
        more => format!("{} and {more} more", some.join(", ")),
    }
}

fn range(range: Range) -> String {
    let end = range.start.saturating_add(range.size);
    format!("{:#x}-{end:#x}, {}", range.start, size(range.size))
}

pub(super) fn plug(report: &PlugReport) -> String {
    let called = report.id.as_ref();
    let called = called.map_or_else(String::new, |id| format!(" as {id}"));
    format!(
        "plugged {}{called} in {}: map {}, KVM {}, host {}\n",
        range(report.range),
        time(report.total_ns),
        time(report.map_ns),
        time(report.kvm_ns),
        time(report.host_ns)
    )
}

pub(super) fn unplug(report: &UnplugReport) -> String {
    let mut text = format!(
        "unplugged {} in {}: guest {}, drain {}, map {}, KVM {}, host {}\n",
        range(report.range),
        time(report.total_ns),
        time(report.consent_ns),
        time(report.drain_ns),
        time(report.map_ns),
        time(report.kvm_ns),
        time(report.host_ns)
    );
    for hold in &report.holders {
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "waited for {} at {:#x} ({})",
            hold.thread, hold.addr, hold.kind
        );
    }
    if let Some(error) = &report.unmap_error {
        let _ = writeln!(text, "the host kept the addresses: {error}");
    }
    text
}

/// Who did not let go, for the end of a message.
pub(super) fn unreleased(failure: &Failure) -> String {
    let mut text = String::new();
    for hold in failure.unreleased.iter().flat_map(|who| &who.holders) {
        let _ = write!(
            text,
            "; {} holds {:#x} ({})",
            hold.thread, hold.addr, hold.kind
        );
    }
    text
}

pub(super) fn trace(status: &TraceStatus) -> String {
    let TraceStatus {
        state,
        events,
        lost,
        size: bytes,
        error,
    } = status;
    let mut text = match state {
        TraceState::None => "not recorded\n".to_owned(),
        TraceState::Recording => format!("recording: {events} events so far, {lost} lost\n"),
        TraceState::CommandLine => {
            format!("recording for the command line: {events} events so far, {lost} lost\n")
        }
        TraceState::Stopped => {
            format!(
                "stopped: {events} events in {}, {lost} lost\n",
                size(*bytes)
            )
        }
    };
    if let Some(error) = error {
        let _ = writeln!(text, "it is not complete: {error}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_has_a_line_a_vma() {
        let hold = Hold {
            thread: "vcpu 0".to_owned(),
            addr: 0x1_0000_0123,
            kind: "hold".to_owned(),
        };
        let entry = MapEntry {
            start: 0x1_0000_0000,
            size: 0x20_0000,
            flags: "rwx-b".to_owned(),
            backing: Backing::Ram,
            name: "ram".to_owned(),
            id: Some("dimm1".to_owned()),
            offset: 0,
            slot: Some(3),
            hits: Some(7),
            holders: vec![hold; 6],
            section: 5,
            age_ns: Some(2_500_000),
        };
        let text = map(&[entry]);
        let line = text.lines().last().unwrap();
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!(
            words[..10].join(" "),
            "000100000000-000100200000 rwx-b ram 00000000 3 7 2.5 ms ram (dimm1)"
        );
        assert!(line.trim_end().ends_with("and 2 more"), "{line}");
    }
}
