//! `gracefault run`.

use std::io::Write;

use gracefault::machine::{Machine, MachineError, RunReport, StopRequest, Verdict};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::args::RunArgs;
use super::progress::Line;
use super::{Failure, print_json, print_text, tables};

pub(crate) fn run(args: &RunArgs) -> Result<(), Failure> {
    let config = args.config();
    let console: Box<dyn Write + Send> = match args.json {
        true => Box::new(std::io::stderr()),
        false => Box::new(std::io::stdout()),
    };
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

fn explain(error: MachineError) -> Failure {
    match error.is_usage() {
        true => Failure::Cannot(error.to_string()),
        false => Failure::Broken(error.to_string()),
    }
}

fn conclude(report: &RunReport, stop: &StopRequest) -> Result<(), Failure> {
    for finding in &report.findings {
        eprintln!("gracefault: {finding}");
    }
    match (report.verdict, stop.signal()) {
        (Verdict::Failed, _) => Err(Failure::Found),
        (_, Some(signal)) => Err(Failure::Signal(signal)),
        (Verdict::Passed | Verdict::Stopped, None) => Ok(()),
    }
}
