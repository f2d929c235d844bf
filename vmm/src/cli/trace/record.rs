//! `gracefault trace record`, and what `run --trace` shares with it.

use std::fs::File;
use std::path::PathBuf;

use clap::{Args, Parser, ValueEnum};
use gracefault::trace::record::{EventSet, OnFull, RecordOptions};

use super::super::args::{Cli, Command, RunArgs};
use super::super::units::parse_size;
use super::super::{Failure, run};

/// How to record.
#[derive(Args, Clone, Debug)]
struct RecordArgs {
    /// Which events to record, with * and ?, separated by commas: mmio_read,
    /// mmio_write, pio_in, pio_out, halt, interrupted, section.
    #[arg(long = "events", value_name = "GLOB", default_value = "*", value_parser = EventSet::matching)]
    events: EventSet,
    /// The most bytes of the trace. An exit takes 80.
    #[arg(long = "size", value_name = "SIZE", default_value = "256M", value_parser = parse_size)]
    size: u64,
    /// What to lose when the trace is full: the new events, or the old ones.
    #[arg(long = "on-full", value_name = "WHAT", default_value = "drop")]
    on_full: WhenFull,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum WhenFull {
    /// Keep the beginning.
    Drop,
    /// Keep the end, as a flight recorder does.
    Overwrite,
}

impl RecordArgs {
    fn options(&self) -> RecordOptions {
        RecordOptions {
            events: self.events,
            size: self.size,
            on_full: match self.on_full {
                WhenFull::Drop => OnFull::Drop,
                WhenFull::Overwrite => OnFull::Overwrite,
            },
            ring: None,
        }
    }
}

impl RunArgs {
    /// The file to record into, emptied, and how, if there is to be one.
    pub(crate) fn trace_file(&self) -> Result<Option<(File, RecordOptions)>, Failure> {
        let Some(path) = &self.trace else {
            return Ok(None);
        };
        let options = self.record.clone();
        let (size, least) = (options.size, RecordOptions::MIN_SIZE);
        if size < least {
            return Err(Failure::Cannot(format!(
                "a trace of {size} bytes holds nothing useful: give it at least {least} (--size)"
            )));
        }
        let cannot = |error: &dyn std::fmt::Display| {
            Failure::Cannot(format!("the trace {}: {error}", path.display()))
        };
        // Before it is opened: a pipe would block, and a device take it all.
        if path.metadata().is_ok_and(|meta| !meta.is_file()) {
            return Err(cannot(&"not a regular file"));
        }
        let file = File::create(path).map_err(|error| cannot(&error))?;
        Ok(Some((file, options)))
    }
}

#[derive(Args, Debug)]
pub(crate) struct RecordCommand {
    /// The file to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    record: RecordArgs,
    /// The run: `run` and its options. Without, the default run.
    #[arg(last = true, value_name = "run OPTIONS")]
    command: Vec<String>,
}

pub(crate) fn record(args: RecordCommand) -> Result<(), Failure> {
    let words = ["gracefault".to_owned()].into_iter().chain(args.command);
    let cli = Cli::try_parse_from(words).unwrap_or_else(|error| error.exit());
    let mut run = match cli.command {
        None => cli.run,
        Some(Command::Run(run)) => run,
        Some(_) => {
            return Err(Failure::Cannot(
                "what is recorded is a run: trace record -o FILE -- run OPTIONS".to_owned(),
            ));
        }
    };
    if run.trace.is_some() {
        return Err(Failure::Cannot(
            "--trace and trace record are the same: leave one out".to_owned(),
        ));
    }
    run.trace = Some(args.output);
    run.record = args.record.options();
    run::run(&run)
}
