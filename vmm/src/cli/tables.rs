//! Results as tables.

use std::fmt::Write;

use comfy_table::{CellAlignment, ContentArrangement, LineStyle, Table, TableStyle, presets};
use gracefault::hotplug::OpSummary;
use gracefault::machine::{HotplugReport, RunReport, Verdict};
use gracefault::trace::Summary;

use super::check::{Check, Row};
use super::units::{about, size, time};

/// Addresses that are shown; `--json` has them all.
const EXIT_ROWS: usize = 8;

/// No lines but one below the header.
const STYLE: TableStyle =
    presets::NOTHING.header_separator(LineStyle::none().fill('─').junction('─'));

/// A table whose columns from `numbers` on are numbers.
pub(super) fn table(header: &[&str], numbers: usize) -> Table {
    let mut table = Table::new();
    table.load_style(STYLE).set_header(header.to_vec());
    for column in numbers..header.len() {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

pub(super) fn section(out: &mut String, title: &str, table: &Table) {
    // Writing to a string does not fail.
    let _ = writeln!(out, "\n{title}\n{table}");
}

/// All of a run.
pub(crate) fn run(report: &RunReport) -> String {
    let mut out = String::new();
    section(
        &mut out,
        "Exits (times are from KVM_RUN returning to its next call)",
        &exit_groups(report),
    );
    section(&mut out, "The most frequent addresses", &exits(report));
    section(&mut out, "Lookups", &lookups(report));
    if let Some(hotplug) = &report.hotplug {
        section(&mut out, "Hotplug", &operations(hotplug));
    }
    section(
        &mut out,
        "vCPUs: accesses as counted by the guest, the VMM and KVM",
        &vcpus(report),
    );
    let _ = writeln!(out, "\n{}", verdict(report));
    out
}

/// The figures of a row that all exit tables have.
fn figures(share: f64, times: &Summary) -> [String; 5] {
    let Summary {
        count,
        p50_ns,
        p99_ns,
        max_ns,
    } = *times;
    [
        count.to_string(),
        percent(share),
        time(p50_ns),
        time(p99_ns),
        time(max_ns),
    ]
}

fn exit_groups(report: &RunReport) -> Table {
    let mut table = table(
        &[
            "exit",
            "by",
            "addresses",
            "count",
            "share",
            "p50",
            "p99",
            "max",
        ],
        2,
    );
    let mut all = 0;
    for row in &report.exits_by_target {
        let names = [
            row.kind.to_string(),
            row.target.clone(),
            row.addresses.to_string(),
        ];
        table.add_row(names.into_iter().chain(figures(row.share, &row.times)));
        all += row.times.count;
    }
    let addresses = report.exits.len().to_string();
    table.add_row(["all".to_owned(), String::new(), addresses, all.to_string()]);
    table
}

fn exits(report: &RunReport) -> Table {
    let mut table = table(&["address", "by", "count", "share", "p50", "p99", "max"], 2);
    for row in report.exits.iter().take(EXIT_ROWS) {
        let names = [row.key.clone(), row.target.clone()];
        table.add_row(names.into_iter().chain(figures(row.share, &row.times)));
    }
    table
}

fn lookups(report: &RunReport) -> Table {
    let mut table = table(&["lookup", "count", "p50", "p99", "max"], 1);
    let waited = report.lookups.waited;
    table.add_row(vec!["fast".to_owned(), report.lookups.fast.to_string()]);
    table.add_row(vec![
        "waited for a writer".to_owned(),
        waited.count.to_string(),
        time(waited.p50_ns),
        time(waited.p99_ns),
        time(waited.max_ns),
    ]);
    table.add_row(vec![
        "none (unmapped)".to_owned(),
        report.lookups.none.to_string(),
    ]);
    table
}

fn operations(report: &HotplugReport) -> Table {
    let header = [
        "operation",
        "count",
        "p50",
        "p99",
        "map p50",
        "KVM p50",
        "host p50",
        "drain p50",
        "guest p50",
    ];
    let mut table = table(&header, 1);
    let mut add = |name: &str, op: &OpSummary, is_unplug: bool| {
        let median = |summary: &Summary| time(summary.p50_ns);
        let mut row = vec![
            name.to_owned(),
            op.total.count.to_string(),
            median(&op.total),
            time(op.total.p99_ns),
            median(&op.map),
            median(&op.kvm),
            median(&op.host),
        ];
        if is_unplug {
            row.extend([median(&op.drain), median(&op.consent)]);
        }
        table.add_row(row);
    };
    add("plug", &report.plug, false);
    add("unplug", &report.unplug, true);
    add("surprise unplug", &report.surprise_unplug, true);
    table
}

fn vcpus(report: &RunReport) -> Table {
    let header = [
        "vCPU",
        "end",
        "device accesses",
        "by the guest",
        "MMIO exits",
        "by KVM",
        "2nd parts",
    ];
    let mut table = table(&header, 2);
    for (id, vcpu) in report.vcpus.iter().enumerate() {
        let guest = vcpu
            .guest_device_accesses
            .as_ref()
            .map(|counts| counts.values().sum::<u64>());
        let or_dash = |n: Option<u64>| n.map_or("-".to_owned(), |n| n.to_string());
        table.add_row(vec![
            id.to_string(),
            vcpu.end.clone(),
            vcpu.device_accesses.values().sum::<u64>().to_string(),
            or_dash(guest),
            vcpu.mmio_exits.to_string(),
            or_dash(vcpu.kvm_mmio_exits),
            vcpu.mmio_fragments.to_string(),
        ]);
    }
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table
}

fn verdict(report: &RunReport) -> String {
    let mut out = String::new();
    if let Some(guest) = &report.guest {
        let _ = writeln!(
            out,
            "The guest verified {} in {} rounds, took {} blocks and gave {} back, read {} absent \
             words, and found {} wrong values.",
            about(guest.bytes_verified),
            guest.rounds,
            guest.blocks_taken,
            guest.blocks_released,
            guest.absent_reads,
            guest.mismatches
        );
    }
    let memory = &report.memory;
    let _ = writeln!(
        out,
        "Memory: {}; to plug: {}, in blocks of {}; from {}. Seed {}.",
        size(memory.size),
        size(memory.hotplug_size),
        size(memory.block),
        report.backing,
        report.seed
    );
    let dma = &report.dma;
    if dma.complete + dma.incomplete > 0 {
        let _ = writeln!(
            out,
            "DMA: {} copies, {} more from memory that was gone.",
            dma.complete, dma.incomplete
        );
    }
    if memory.lazy {
        let _ = writeln!(
            out,
            "Lazy: {} memslots went in when the guest first missed them.",
            report.lazy_slots
        );
    }
    let refused = &report.refused;
    if refused.rom_writes + refused.device_failures > 0 {
        let _ = writeln!(
            out,
            "Dropped: {} writes to ROM; devices refused {} accesses.",
            refused.rom_writes, refused.device_failures
        );
    }
    let console = &report.console;
    if console.dropped_bytes > 0 {
        let why = console
            .error
            .as_deref()
            .unwrap_or("nobody read them in time");
        let _ = writeln!(
            out,
            "Console: {} bytes dropped: {why}.",
            console.dropped_bytes
        );
    }
    for unchecked in &report.unchecked {
        let _ = writeln!(out, "Not checked: {unchecked}.");
    }
    let word = match report.verdict {
        Verdict::Passed => "PASSED: guest, VMM and KVM agree",
        Verdict::Stopped => "STOPPED from outside; what could be checked holds",
        Verdict::Failed => "FAILED",
    };
    let _ = write!(out, "{word} ({:.1} s).", report.seconds);
    out
}

pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// All of a check.
pub(crate) fn check(check: &Check) -> String {
    let mut out = String::new();
    for (title, rows) in [("KVM", &check.kvm), ("Host", &check.host)] {
        let mut table = table(&["what", "found", "", "used for"], 4);
        table.set_content_arrangement(ContentArrangement::Dynamic);
        for row in rows {
            table.add_row([&row.what, &row.found, row.verdict, &row.used_for]);
        }
        section(&mut out, title, &table);
        for Row { what, fix, .. } in rows.iter().filter(|row| !row.fix.is_empty()) {
            let _ = writeln!(out, "  {what}: {fix}");
        }
    }
    let word = if check.usable {
        "Guests can be run here."
    } else {
        "Guests cannot be run here."
    };
    let _ = writeln!(out, "\n{word}");
    out
}
