//! What a user types after `gracefault ctl`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use gracefault::api::model::OnFull;

use super::super::args::parse_time;
use super::super::units::parse_size;

#[derive(Args, Debug)]
pub(crate) struct CtlArgs {
    /// The socket of the VM: what its `--api-socket` says.
    #[arg(long, value_name = "PATH", global = true)]
    pub(super) api_socket: Option<PathBuf>,
    /// Print the answer as one JSON object (see vmm/docs/api.md).
    #[arg(long, global = true)]
    pub(super) json: bool,
    #[command(subcommand)]
    pub(super) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Show state, memory and more of the VM.
    Info,
    /// Show its counters.
    Counters,
    /// Show its map: as `gracefault map`.
    Map,
    /// Have so much memory plugged, whichever blocks that takes.
    Resize(ResizeArgs),
    /// Plug memory at a guest address, or where there is room.
    Plug(PlugArgs),
    /// Unplug memory, by the name that it was given or by its range.
    Unplug(UnplugArgs),
    /// Get every vCPU out of the guest.
    Pause,
    /// Let them run on.
    Resume,
    /// Record its exits for a while.
    Trace(TraceArgs),
    /// Ask the VM to end. Its process prints its report, as at any end.
    Shutdown,
    /// Print its metrics, as OpenMetrics text.
    Metrics,
    /// Ask whether somebody is there.
    Ping {
        /// Wait for so long for somebody to be: for a VM that has just been started.
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        wait: Option<Duration>,
    },
}

#[derive(Args, Debug)]
pub(super) struct ResizeArgs {
    /// How much is to be plugged besides the RAM of the start: 0, or so many blocks.
    #[arg(value_name = "SIZE", value_parser = parse_size)]
    pub(super) size: u64,
    /// Wait for so long until it is reached; status 1 if it is not.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(super) wait: Option<Duration>,
    /// Take blocks out without asking the guest.
    #[arg(long)]
    pub(super) forced: bool,
    /// How long the guest may take to give a block back.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(super) patience: Option<Duration>,
}

#[derive(Args, Debug)]
pub(super) struct PlugArgs {
    /// How much: so many blocks.
    #[arg(value_name = "SIZE", value_parser = parse_size)]
    pub(super) size: u64,
    /// The guest address; the lowest place that has room, if not given.
    #[arg(long, value_name = "ADDR", value_parser = parse_addr)]
    pub(super) at: Option<u64>,
    /// What to call it.
    #[arg(long, value_name = "NAME")]
    pub(super) id: Option<String>,
}

#[derive(Args, Debug)]
pub(super) struct UnplugArgs {
    /// What it was called when it was plugged.
    #[arg(value_name = "NAME", required_unless_present = "at", conflicts_with_all = ["at", "size"])]
    pub(super) id: Option<String>,
    /// Its guest address.
    #[arg(long, value_name = "ADDR", value_parser = parse_addr, requires = "size")]
    pub(super) at: Option<u64>,
    /// How much: so many blocks.
    #[arg(long, value_name = "SIZE", value_parser = parse_size, requires = "at")]
    pub(super) size: Option<u64>,
    /// How long guest and readers may take. 10s, if not given; then all is as before.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(super) deadline: Option<Duration>,
    /// Do not ask the guest, which reads all ones there from then on.
    #[arg(long)]
    pub(super) forced: bool,
}

#[derive(Args, Debug)]
pub(super) struct TraceArgs {
    #[command(subcommand)]
    pub(super) verb: TraceVerb,
}

#[derive(Debug, Subcommand)]
pub(super) enum TraceVerb {
    /// Show whether it is being recorded.
    Status,
    /// Record each exit and each write section from now on.
    Start(StartArgs),
    /// End the recording.
    Stop,
    /// Write the recording, which is stopped, to a file, for `gracefault trace report`.
    Fetch {
        /// The file.
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
}

#[derive(Args, Debug)]
pub(super) struct StartArgs {
    /// Which events, with * and ?, separated by commas; all, if not given.
    #[arg(long, value_name = "GLOB")]
    pub(super) events: Option<String>,
    /// The most bytes: 64M, if not given.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(super) size: Option<u64>,
    /// What to lose when there is no room: the new events, or the old ones.
    #[arg(long, value_name = "WHAT", default_value = "drop")]
    pub(super) on_full: WhenFull,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum WhenFull {
    /// Keep the beginning.
    Drop,
    /// Keep the end.
    Overwrite,
}

impl From<WhenFull> for OnFull {
    fn from(when: WhenFull) -> Self {
        match when {
            WhenFull::Drop => Self::Drop,
            WhenFull::Overwrite => Self::Overwrite,
        }
    }
}

/// A guest address: decimal, or hexadecimal after 0x.
fn parse_addr(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("'{text}' is no address: write it like 0x140000000"))
}
