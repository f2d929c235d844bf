//! The views of a trace, as tables.

use std::fmt::Write;

use gracefault::trace::TraceFile;
use gracefault::trace::report::{By, ExitView, Figures, Missing, SectionView, WaitView};

use super::super::tables::{percent, section, table};
use super::super::units::time;

/// How many of `rows` to show.
fn shown(rows: usize, limit: usize) -> usize {
    match limit {
        0 => rows,
        limit => rows.min(limit),
    }
}

/// What a table leaves out.
fn footer(out: &mut String, rows: usize, limit: usize, missing: &Missing) {
    let more = rows - shown(rows, limit);
    // Writing to a string does not fail.
    if more > 0 {
        let _ = writeln!(out, "{more} more rows (--limit 0 shows all).");
    }
    if missing.lost > 0 {
        let _ = writeln!(out, "Not counted: {} events that were lost.", missing.lost);
    }
    if !missing.complete {
        let _ = writeln!(out, "The trace has no end: what came last is missing.");
    }
}

/// `1.3 µs`, from a mean.
fn mean(times: &Figures) -> String {
    let error = times.mean_error * 100.0;
    format!("{} (±{error:.1} %)", time(times.mean_ns as u64))
}

pub(super) fn exits(trace: &TraceFile, view: &ExitView, by: By, limit: usize) -> String {
    let mut out = String::new();
    let machine = &trace.meta.machine;
    let _ = writeln!(
        out,
        "{} vCPUs, workload {}, seed {}; times are from KVM_RUN returning to its next call",
        machine.vcpus, machine.workload, machine.seed
    );
    let header = [
        match by {
            By::Reason => "exit",
            By::Mmio => "address",
            By::Port => "port",
        },
        "by",
        "samples",
        "samples%",
        "time%",
        "min",
        "max",
        "avg",
        "p50",
        "p99",
        "p99.9",
        "waits",
        "waited",
    ];
    let mut rows = table(&header, 2);
    for row in &view.rows[..shown(view.rows.len(), limit)] {
        let times = &row.times;
        rows.add_row([
            row.key.clone(),
            row.by.clone(),
            times.count.to_string(),
            percent(row.share),
            percent(row.time_share),
            time(times.min_ns),
            time(times.max_ns),
            mean(times),
            time(times.p50_ns),
            time(times.p99_ns),
            time(times.p999_ns),
            row.waits.to_string(),
            time(row.waited_ns),
        ]);
    }
    let title = match by {
        By::Reason => "Exits",
        By::Mmio => "MMIO",
        By::Port => "Ports",
    };
    section(&mut out, title, &rows);
    let _ = writeln!(
        out,
        "{} samples, {} in all, of which {} asleep for a writer.",
        view.all.count,
        time(view.all.total_ns),
        time(view.waited_ns)
    );
    footer(&mut out, view.rows.len(), limit, &view.missing);
    out
}

fn range(range: Option<(u64, u64)>) -> String {
    range.map_or_else(String::new, |(first, last)| format!("{first:#x}-{last:#x}"))
}

/// When, in seconds since the beginning.
fn at(ns: u64) -> String {
    format!("{:.6}", ns as f64 / 1e9)
}

pub(super) fn waits(view: &WaitView, limit: usize) -> String {
    let mut out = String::new();
    let header = [
        "vCPU", "access", "VMA", "by", "writer", "section", "did", "range", "at s", "waited",
        "woken in",
    ];
    let mut rows = table(&header, 8);
    for row in &view.rows[..shown(view.rows.len(), limit)] {
        let unknown = || "?".to_owned();
        let writer = match (&row.writer, row.writer_tid) {
            (Some(name), Some(tid)) => format!("{name} ({tid})"),
            _ => unknown(),
        };
        rows.add_row([
            row.vcpu.to_string(),
            row.key.clone(),
            row.vma.map_or("-".to_owned(), |vma| format!("{vma:#x}")),
            row.by.clone(),
            writer,
            row.section.to_string(),
            row.what.map_or_else(unknown, str::to_owned),
            range(row.range),
            at(row.at_ns),
            time(row.waited_ns),
            row.wakeup_ns.map_or_else(unknown, time),
        ]);
    }
    section(&mut out, "Waits for a writer", &rows);
    let all = &view.all;
    let _ = writeln!(
        out,
        "{} waits, {} in all; p50 {}, p99 {}, p99.9 {}, longest {}.",
        all.count,
        time(all.total_ns),
        time(all.p50_ns),
        time(all.p99_ns),
        time(all.p999_ns),
        time(all.max_ns)
    );
    if view.unknown > 0 {
        let _ = writeln!(
            out,
            "Of {} waits the section is not known: it was lost, or not recorded (--events).",
            view.unknown
        );
    }
    footer(&mut out, view.rows.len(), limit, &view.missing);
    out
}

pub(super) fn sections(view: &SectionView, limit: usize) -> String {
    let mut out = String::new();
    let header = [
        "section", "count", "p50", "p99", "p99.9", "max", "plan", "drain", "apply", "publish",
        "readers", "waits", "waited",
    ];
    let mut groups = table(&header, 1);
    for group in &view.groups {
        groups.add_row([
            group.what.clone(),
            group.times.count.to_string(),
            time(group.times.p50_ns),
            time(group.times.p99_ns),
            time(group.times.p999_ns),
            time(group.times.max_ns),
            time(group.plan.p50_ns),
            time(group.drain.p50_ns),
            time(group.apply.p50_ns),
            time(group.publish.p50_ns),
            group.holders.to_string(),
            group.waits.to_string(),
            time(group.waited_ns),
        ]);
    }
    section(
        &mut out,
        "Write sections, by what they did (parts: median)",
        &groups,
    );
    let header = [
        "number", "did", "what", "range", "thread", "at s", "total", "plan", "drain", "apply",
        "publish", "readers", "waits", "waited",
    ];
    let mut rows = table(&header, 5);
    let or_dash = |ns: Option<u64>| ns.map_or("-".to_owned(), time);
    for row in &view.rows[..shown(view.rows.len(), limit)] {
        rows.add_row([
            row.number.to_string(),
            row.what.clone(),
            row.name.clone(),
            range(row.range),
            format!("{} ({})", row.thread, row.tid),
            at(row.at_ns),
            time(row.total_ns),
            or_dash(row.plan_ns),
            or_dash(row.drain_ns),
            or_dash(row.apply_ns),
            or_dash(row.publish_ns),
            row.holders.to_string(),
            row.waits.to_string(),
            time(row.waited_ns),
        ]);
    }
    section(&mut out, "Write sections", &rows);
    footer(&mut out, view.rows.len(), limit, &view.missing);
    out
}
