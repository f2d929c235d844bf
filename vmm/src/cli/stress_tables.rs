//! A storm's results as tables.

use std::fmt::Write;

use gracefault::stress::{BREAKS, Bucket, Figures, StressReport, StressVerdict};

use super::tables::{section, table};
use super::units::time;

/// All of a storm.
pub(crate) fn storm(report: &StressReport) -> String {
    let mut out = String::new();
    tables(&mut out, report);
    if let Some(machine) = &report.machine {
        out += &super::tables::run(machine);
        out += "\n";
    }
    if let Some(compared) = &report.compared {
        let _ = writeln!(out, "\nThe same with the strategy {}", compared.strategy);
        tables(&mut out, compared);
        let sections = |report: &StressReport| {
            let (most, wait) = (report.lookups.most_sections, report.lookups.wait_ns.max);
            format!(
                "{}: the worst of {} lookups slept for {most} section{}, {} in all",
                report.strategy,
                report.lookups.count,
                if most == 1 { "" } else { "s" },
                time(wait)
            )
        };
        let _ = writeln!(out, "\n{}\n{}", sections(report), sections(compared));
    }
    let _ = writeln!(out, "\n{}", verdict(report));
    out
}

fn tables(out: &mut String, report: &StressReport) {
    section(out, "Lookups", &lookups(report));
    histogram(
        out,
        "Sleeps of lookups",
        &report.lookups.wait_ns_buckets,
        &time,
    );
    let plain = |n: u64| n.to_string();
    histogram(
        out,
        "Retries of lookups that retried",
        &report.lookups.retries_buckets,
        &plain,
    );
    section(out, "Operations", &operations(report));
    histogram(
        out,
        "Drains that found a reader",
        &report.operations.drain_ns_buckets,
        &time,
    );
    section(out, "Exercised", &coverage(report));
}

fn figures(name: &str, figures: &Figures, show: &dyn Fn(u64) -> String) -> Vec<String> {
    let Figures {
        count,
        p50,
        p99,
        p999,
        max,
    } = *figures;
    let mut row = vec![name.to_owned(), count.to_string()];
    if count > 0 {
        row.extend([p50, p99, p999, max].map(show));
    }
    row
}

const QUANTILES: [&str; 6] = ["", "count", "p50", "p99", "p99.9", "max"];

fn lookups(report: &StressReport) -> comfy_table::Table {
    let mut table = table(&QUANTILES, 1);
    let lookups = &report.lookups;
    let mut count = |name: &str, count: u64| {
        table.add_row([name.to_owned(), count.to_string()]);
    };
    count("all", lookups.count);
    count("by the slowest thread", lookups.least_by_one);
    count("by the fastest thread", lookups.most_by_one);
    count("found nothing", lookups.none);
    count("let in beside a hold", lookups.nested);
    count("given up at a deadline", lookups.timed_out);
    count("called back", lookups.called_back);
    table.add_row(figures("slept for a writer", &lookups.wait_ns, &time));
    table.add_row(figures("began again", &lookups.retries, &|n| n.to_string()));
    table
}

fn operations(report: &StressReport) -> comfy_table::Table {
    let mut table = table(&QUANTILES, 1);
    let operations = &report.operations;
    for (kind, count) in &operations.by_kind {
        table.add_row([(*kind).to_owned(), count.to_string()]);
    }
    table.add_row(figures("all", &operations.time_ns, &time));
    table.add_row(figures("drained a reader", &operations.drain_ns, &time));
    let mut count = |name: &str, count: u64| {
        table.add_row([name.to_owned(), count.to_string()]);
    };
    count("readers drained", operations.drained_readers);
    count("needed a second round", operations.second_rounds);
    count("given up when drained", operations.given_up);
    count("given up, not in time", operations.late);
    count("by the slowest writer", operations.least_by_one);
    count("by the fastest writer", operations.most_by_one);
    table
}

fn coverage(report: &StressReport) -> comfy_table::Table {
    let mut table = table(&["what", "count", ""], 1);
    for covered in &report.coverage {
        let missing = match covered.is_enough() {
            true => String::new(),
            false => format!("of {} at least", covered.least),
        };
        table.add_row([covered.what.to_owned(), covered.count.to_string(), missing]);
    }
    table
}

/// Bars as long as their share, one for each power of two.
fn histogram(out: &mut String, title: &str, buckets: &[Bucket], show: &dyn Fn(u64) -> String) {
    const WIDTH: u64 = 40;
    let most = buckets.iter().map(|bucket| bucket.count).max().unwrap_or(0);
    if most == 0 {
        return;
    }
    let mut bars = table(&["below", "count", ""], 0);
    if let Some(column) = bars.column_mut(2) {
        column.set_cell_alignment(comfy_table::CellAlignment::Left);
    }
    for bucket in buckets {
        let len = (bucket.count * WIDTH).div_ceil(most) as usize;
        bars.add_row([
            show(bucket.below),
            bucket.count.to_string(),
            "▪".repeat(len),
        ]);
    }
    section(out, title, &bars);
}

fn verdict(report: &StressReport) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{} readers, {} writers, {} regions; strategy {}; mix {}.",
        report.readers, report.writers, report.regions, report.strategy, report.mix
    );
    let lingered: u64 = report.lingered.values().sum();
    if lingered > 0 {
        let _ = writeln!(
            out,
            "Threads lingered {lingered} times, at {} windows.",
            report.lingered.len()
        );
    }
    let _ = writeln!(
        out,
        "Seed {}, sequence of operations {}; repeat with:\n  {}",
        report.seed, report.operations.sequence, report.repeat
    );
    let word = match report.verdict {
        StressVerdict::Passed => "PASSED: no violation, and everything was exercised",
        StressVerdict::Violated => "VIOLATED",
        StressVerdict::Invalid => "INVALID: no violation, but not everything was exercised",
        StressVerdict::Stopped => "STOPPED from outside; no violation until then",
    };
    let _ = write!(out, "{word} ({:.1} s).", report.seconds);
    out
}

/// What can be broken in a build of mutants.
pub(crate) fn breaks() -> String {
    let mut out = String::new();
    for broken in BREAKS {
        let kvm = if broken.needs_kvm { " kvm" } else { "" };
        let _ = writeln!(out, "{}{kvm}", broken.name);
    }
    out
}
