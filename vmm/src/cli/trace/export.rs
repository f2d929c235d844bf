//! `gracefault trace export`.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use gracefault::trace::export::{jsonl, openmetrics, perfetto};

use super::super::Failure;
use super::filter::FilterArgs;
use super::open;

#[derive(Args, Debug)]
pub(super) struct ExportArgs {
    /// The trace.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What to write: a trace for ui.perfetto.dev, one JSON object a line, or metrics.
    #[arg(long)]
    format: FormatName,
    /// Where to; stdout, if not given.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    filter: FilterArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FormatName {
    Perfetto,
    Jsonl,
    Openmetrics,
}

pub(super) fn export(args: &ExportArgs) -> Result<(), Failure> {
    let trace = open(&args.file)?;
    let filter = args.filter.filter();
    let mut out: Box<dyn Write> = match &args.output {
        Some(path) => {
            let file = File::create(path);
            let file =
                file.map_err(|error| Failure::Cannot(format!("{}: {error}", path.display())))?;
            Box::new(BufWriter::new(file))
        }
        None => Box::new(BufWriter::new(io::stdout())),
    };
    let written = match args.format {
        FormatName::Perfetto => perfetto::write(&trace, &filter, &mut out),
        FormatName::Jsonl => jsonl::write(&trace, &filter, &mut out),
        FormatName::Openmetrics => openmetrics::write(&trace, &filter, &mut out),
    };
    match written.and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            Err(Failure::Signal(signal_hook::consts::SIGPIPE))
        }
        Err(error) => Err(Failure::Broken(format!("writing the export: {error}"))),
    }
}
