//! `gracefault trace`.

mod export;
mod filter;
mod record;
mod replay;
mod report;
mod tables;

use std::path::Path;

use clap::{Args, Subcommand};
use gracefault::trace::TraceFile;

use super::Failure;

#[derive(Args, Debug)]
pub(crate) struct TraceArgs {
    #[command(subcommand)]
    command: TraceCommand,
}

#[derive(Debug, Subcommand)]
enum TraceCommand {
    /// Run a guest and record it: `trace record -o FILE -- run --cpus 4`.
    Record(record::RecordCommand),
    /// Show what a trace has, as tables, JSON or a page for a browser.
    Report(report::ReportArgs),
    /// Write a trace in a format that other programs read.
    Export(export::ExportArgs),
    /// Send the recorded exits to the map and the devices again, without KVM.
    Replay(replay::ReplayArgs),
}

pub(crate) fn trace(args: TraceArgs) -> Result<(), Failure> {
    match args.command {
        TraceCommand::Record(args) => record::record(args),
        TraceCommand::Report(args) => report::report(&args),
        TraceCommand::Export(args) => export::export(&args),
        TraceCommand::Replay(args) => replay::replay(&args),
    }
}

/// Opens a trace, and says what is missing in it.
fn open(path: &Path) -> Result<TraceFile, Failure> {
    let named =
        |error: &dyn std::fmt::Display| Failure::Cannot(format!("{}: {error}", path.display()));
    let trace = TraceFile::open(path).map_err(|error| named(&error))?;
    for warning in trace.warnings() {
        super::tell(&format_args!("{}: {warning}", path.display()));
    }
    Ok(trace)
}
