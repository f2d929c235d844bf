//! `gracefault map`: what is at which guest address, as `/proc/PID/maps` for a process.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use gracefault::api::ClientError;

use super::args::parse_time;
use super::ctl::{client, explain, show_map};
use super::printable::printable;
use super::{Failure, print_as_is, print_json, print_text};

#[derive(Args, Debug)]
pub(crate) struct MapArgs {
    /// The socket of the VM: what its `--api-socket` says.
    #[arg(long, value_name = "PATH")]
    api_socket: PathBuf,
    /// Show it again and again, every second or so often, until the VM ends.
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "1s", value_parser = parse_time)]
    watch: Option<Duration>,
    /// Print one JSON array (see vmm/docs/api.md); with --watch one a line.
    #[arg(long)]
    json: bool,
}

/// From the top left of the screen on, and nothing below.
const HOME: &str = "\x1b[H\x1b[J";

pub(crate) fn map(args: &MapArgs) -> Result<(), Failure> {
    let vm = client(&args.api_socket)?;
    let map = vm.map().map_err(explain)?;
    let Some(every) = args.watch else {
        return match args.json {
            true => print_json(&map),
            false => print_text(&show_map(&map)),
        };
    };
    let clears = !args.json && io::stdout().is_terminal();
    let mut map = map;
    loop {
        let text = match args.json {
            true => serde_json::to_string(&map)
                .map_err(|error| Failure::Broken(format!("the map as JSON: {error}")))?,
            false => show_map(&map),
        };
        let home = if clears { HOME } else { "" };
        print_as_is(&format!("{home}{}\n", printable(&text)))?;
        map = loop {
            std::thread::sleep(every);
            match vm.map() {
                Ok(map) => break map,
                // It has ended, as was waited for.
                Err(error) if error.is_gone() => return Ok(()),
                // It ends, or has too many clients: the next time tells.
                Err(ClientError::Gone { .. }) => {}
                Err(error) => return Err(explain(error)),
            }
        };
    }
}
