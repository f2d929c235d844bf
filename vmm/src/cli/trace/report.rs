//! `gracefault trace report`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use gracefault::trace::html;
use gracefault::trace::report::{self, By, SortKey};

use super::super::{Failure, print_json, print_text};
use super::filter::FilterArgs;
use super::{open, tables};

#[derive(Args, Debug)]
pub(super) struct ReportArgs {
    /// The trace.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What to show: all exits by kind, those of MMIO or of ports by address, the waits
    /// for writers one by one, or the write sections.
    #[arg(long, default_value = "vmexit")]
    event: ViewName,
    /// What to sort by.
    #[arg(short, long, default_value = "sample")]
    key: KeyName,
    /// Show so many rows at most; 0 for all of them.
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    #[command(flatten)]
    filter: FilterArgs,
    /// Print one JSON object (see vmm/docs/trace.md), with all rows.
    #[arg(long)]
    json: bool,
    /// Write a page for a browser: everything that the filters let through, in one
    /// file that needs no network.
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    html: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ViewName {
    Vmexit,
    Mmio,
    Ioport,
    Wait,
    Hotplug,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum KeyName {
    /// How many; waits and sections in their order.
    Sample,
    /// All of their time together.
    Time,
    /// The 99th percentile.
    P99,
    /// The longest.
    Max,
}

impl From<KeyName> for SortKey {
    fn from(key: KeyName) -> Self {
        match key {
            KeyName::Sample => Self::Sample,
            KeyName::Time => Self::Time,
            KeyName::P99 => Self::P99,
            KeyName::Max => Self::Max,
        }
    }
}

pub(super) fn report(args: &ReportArgs) -> Result<(), Failure> {
    let trace = open(&args.file)?;
    let filter = args.filter.filter();
    if let Some(path) = &args.html {
        return std::fs::write(path, html::page(&trace, &filter))
            .map_err(|error| Failure::Broken(format!("{}: {error}", path.display())));
    }
    let by = match args.event {
        ViewName::Vmexit => By::Reason,
        ViewName::Mmio => By::Mmio,
        ViewName::Ioport => By::Port,
        ViewName::Wait => {
            let view = report::waits(&trace, &filter, args.key.into());
            return match args.json {
                true => print_json(&view),
                false => print_text(&tables::waits(&view, args.limit)),
            };
        }
        ViewName::Hotplug => {
            let view = report::sections(&trace, &filter, args.key.into());
            return match args.json {
                true => print_json(&view),
                false => print_text(&tables::sections(&view, args.limit)),
            };
        }
    };
    let view = report::exits(&trace, by, &filter, args.key.into());
    match args.json {
        true => print_json(&view),
        false => print_text(&tables::exits(&trace, &view, by, args.limit)),
    }
}
