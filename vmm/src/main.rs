//! The `gracefault` command: parses arguments, prints results.
//!
//! Exit status: 0 for success; 1 for a guest that failed or a check that did not
//! hold; 2 for bad usage, or a host that cannot; 128 and the signal's number when
//! a signal ended it.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
