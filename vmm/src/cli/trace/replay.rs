//! `gracefault trace replay`.

use std::fmt::Write;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use gracefault::trace::replay::{Pace, ReplayReport, replay as send};

use super::super::tables::{section, table};
use super::super::{Failure, print_json, print_text};
use super::open;

#[derive(Args, Debug)]
pub(super) struct ReplayArgs {
    /// The trace.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// How fast: as fast as it can, or in the recorded time.
    #[arg(long, default_value = "fast")]
    pace: PaceName,
    /// Print one JSON object (see vmm/docs/trace.md) in place of tables.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PaceName {
    Fast,
    Recorded,
}

pub(super) fn replay(args: &ReplayArgs) -> Result<(), Failure> {
    let trace = open(&args.file)?;
    let pace = match args.pace {
        PaceName::Fast => Pace::Fast,
        PaceName::Recorded => Pace::Recorded,
    };
    let report = send(&trace, pace)
        .map_err(|error| Failure::Cannot(format!("{}: {error}", args.file.display())))?;
    match args.json {
        true => print_json(&report)?,
        false => print_text(&told(&report))?,
    }
    match report.differences {
        0 => Ok(()),
        _ => Err(Failure::Found),
    }
}

fn told(report: &ReplayReport) -> String {
    let mut out = String::new();
    if !report.first.is_empty() {
        let mut rows = table(&["at s", "vCPU", "what", "recorded", "now"], 9);
        for row in &report.first {
            rows.add_row([
                format!("{:.6}", row.at_ns as f64 / 1e9),
                row.vcpu.map_or("-".to_owned(), |vcpu| vcpu.to_string()),
                row.what.clone(),
                row.recorded.clone(),
                row.now.clone(),
            ]);
        }
        section(&mut out, "Differences", &rows);
    }
    let rate = report.exits as f64 / report.seconds.max(1e-9);
    // Writing to a string does not fail.
    let _ = writeln!(
        out,
        "{} exits and {} write sections in {:.3} s ({rate:.0} exits/s): {} values compared, {} \
         answered as recorded, {} raced with a section.",
        report.exits, report.sections, report.seconds, report.values, report.scripted, report.raced
    );
    if report.left_out + report.incomplete > 0 {
        let _ = writeln!(
            out,
            "Left out: {} exits that were no access or failed, {} sections not all of whose \
             changes are there.",
            report.left_out, report.incomplete
        );
    }
    if report.lost > 0 {
        let _ = writeln!(
            out,
            "{} events were lost, each of which may make a difference.",
            report.lost
        );
    }
    let _ = match report.differences {
        0 => writeln!(out, "All as recorded."),
        n => writeln!(out, "{n} differences."),
    };
    out
}
