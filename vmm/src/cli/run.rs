//! `gracefault run`.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gracefault::api::MachineVm;
use gracefault::machine::{Machine, MachineError, RunReport, StopRequest, Verdict};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::args::RunArgs;
use super::progress::Line;
use super::{Failure, print_json, print_text, socket, tables, tell};

pub(crate) fn run(args: &RunArgs) -> Result<(), Failure> {
    let config = args.config().map_err(Failure::Cannot)?;
    let (stop, run_is_over) = stop_by_signal()?;
    let line = Line::new(config.duration);
    let console = line.beside(console(args.json)?);
    // Before the machine is made: a file that cannot be written should not cost a run.
    let trace = args.trace_file()?;
    let socket = socket::bind(args.api_socket.as_deref())?;
    let mut machine = Machine::new(config, console).map_err(explain)?;
    if let Some((file, options)) = trace {
        machine
            .record(file, &options)
            .map_err(|error| Failure::Cannot(error.to_string()))?;
    }
    let server = match socket {
        Some(socket) => {
            let handle = machine.handle();
            let handle = handle.map_err(|error| Failure::Broken(error.to_string()))?;
            Some(socket::serve(socket, MachineVm::new(handle))?)
        }
        None => None,
    };
    let report = machine
        .run(&stop, &mut |progress| line.show(progress))
        .map_err(explain)?;
    drop(server);
    drop(line);
    run_is_over.store(true, Ordering::Relaxed);
    match args.json {
        true => print_json(&report)?,
        false => print_text(&tables::run(&report))?,
    }
    trace_told(args, &report)?;
    conclude(&report, &stop)
}

/// What a signal asks to stop, and what says that there is nothing to stop any more.
pub(super) fn stop_by_signal() -> Result<(StopRequest, Arc<AtomicBool>), Failure> {
    let stop = StopRequest::new();
    let run_is_over = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // While the results are printed a signal ends us as it does any program:
        // the reader may have stopped reading.
        signal_hook::flag::register_conditional_default(signal, run_is_over.clone())
            .and_then(|_| {
                let flag = stop.signal_flag();
                signal_hook::flag::register_usize(signal, flag, signal as usize)
            })
            .map_err(|error| Failure::Broken(format!("catching signals: {error}")))?;
    }
    Ok((stop, run_is_over))
}

/// Says what became of the trace.
fn trace_told(args: &RunArgs, report: &RunReport) -> Result<(), Failure> {
    let (Some(path), Some(trace)) = (&args.trace, &report.trace) else {
        return Ok(());
    };
    let path = path.display();
    if let Some(error) = &trace.error {
        return Err(Failure::Broken(format!("{path} is not complete: {error}")));
    }
    if trace.lost > 0 {
        tell(&format_args!(
            "{} of {} events were lost: give the trace more room (trace record \
             --size), record fewer (--events), or keep the last ones (--on-full overwrite)",
            trace.lost,
            trace.events + trace.lost
        ));
    }
    Ok(())
}

/// Where the guest's lines go. A file of its own, since a thread that is stuck in
/// a write to `Stdout` keeps that locked, and the results could not be printed.
fn console(json: bool) -> Result<File, Failure> {
    let copy = match json {
        true => std::io::stderr().as_fd().try_clone_to_owned(),
        false => std::io::stdout().as_fd().try_clone_to_owned(),
    };
    let copy = copy.map_err(|error| Failure::Broken(format!("opening the console: {error}")))?;
    Ok(File::from(copy))
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
