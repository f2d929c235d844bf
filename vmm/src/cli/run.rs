//! `gracefault run`.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;

use gracefault::machine::{Machine, MachineError, RunReport, StopRequest, Verdict};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::args::RunArgs;
use super::progress::Line;
use super::{Failure, print_json, print_text, tables, tell};

pub(crate) fn run(args: &RunArgs) -> Result<(), Failure> {
    let config = args.config();
    let console = console(args.json)?;
    let stop = StopRequest::new();
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_usize(signal, stop.signal_flag(), signal as usize)
            .map_err(|error| Failure::Broken(format!("catching signals: {error}")))?;
    }
    let line = Line::new(config.duration);
    let machine = Machine::new(config, console).map_err(explain)?;
    let report = machine
        .run(&stop, &mut |progress| line.show(progress))
        .map_err(explain)?;
    drop(line);
    match args.json {
        true => print_json(&report)?,
        false => print_text(&tables::run(&report))?,
    }
    conclude(&report, &stop)
}

/// Where the guest's lines go. A file of its own, since `Stdout` goes on with a
/// write that was interrupted, and so cannot be stopped while nobody reads.
fn console(json: bool) -> Result<Box<dyn Write + Send>, Failure> {
    let copy = match json {
        true => std::io::stderr().as_fd().try_clone_to_owned(),
        false => std::io::stdout().as_fd().try_clone_to_owned(),
    };
    let copy = copy.map_err(|error| Failure::Broken(format!("opening the console: {error}")))?;
    Ok(Box::new(File::from(copy)))
}

fn explain(error: MachineError) -> Failure {
    match error.is_usage() {
        true => Failure::Cannot(error.to_string()),
        false => Failure::Broken(error.to_string()),
    }
}

fn conclude(report: &RunReport, stop: &StopRequest) -> Result<(), Failure> {
    for finding in &report.findings {
        tell(finding);
    }
    match (report.verdict, stop.signal()) {
        (Verdict::Failed, _) => Err(Failure::Found),
        (_, Some(signal)) => Err(Failure::Signal(signal)),
        (Verdict::Passed | Verdict::Stopped, None) => Ok(()),
    }
}
