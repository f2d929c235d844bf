//! Argument parsing and printing; no logic.

mod args;
mod backing;
mod check;
mod ctl;
mod map;
mod printable;
mod progress;
mod run;
mod socket;
mod stress;
mod stress_tables;
mod tables;
mod top;
mod trace;
mod units;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use printable::printable;

/// What a command ends with, short of success.
pub(crate) enum Failure {
    /// The guest failed, or a check did not hold. All is said already.
    Found,
    /// Bad usage, or a host that cannot.
    Cannot(String),
    /// A signal ended it. All is said already.
    Signal(i32),
    /// Something went wrong on the way.
    Broken(String),
}

pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    env_logger::Builder::new()
        .filter_level(cli.log_level.into())
        .format_target(false)
        .init();
    let result = match cli.command {
        None => run::run(&cli.run),
        Some(Command::Run(args)) => run::run(&args),
        Some(Command::Check(args)) => check::check(&args),
        Some(Command::Stress(args)) => stress::stress(&args),
        Some(Command::Trace(args)) => trace::trace(args),
        Some(Command::Ctl(args)) => ctl::ctl(&args),
        Some(Command::Map(args)) => map::map(&args),
        Some(Command::Top(args)) => top::top(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Found) => ExitCode::from(1),
        Err(Failure::Broken(message)) => {
            tell(&message);
            ExitCode::from(1)
        }
        Err(Failure::Cannot(message)) => {
            tell(&message);
            ExitCode::from(2)
        }
        Err(Failure::Signal(signal)) => ExitCode::from(128 + signal as u8),
    }
}

/// Prints a message to stderr; unlike `eprintln!`, which panics, it does without
/// a stderr that is closed. What is in it may have come from anywhere.
fn tell(message: &dyn std::fmt::Display) {
    use std::io::Write;
    let message = message.to_string();
    let _ = writeln!(std::io::stderr(), "gracefault: {}", printable(&message));
}

/// Prints one JSON object to stdout.
fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    match serde_json::to_string_pretty(value) {
        Ok(text) => print_text(&(text + "\n")),
        Err(error) => Err(Failure::Broken(format!("the result as JSON: {error}"))),
    }
}

/// Prints text to stdout, [`printable`]. A reader that has gone away ends us as `SIGPIPE`
/// would, and not by a panic, as `println!` has it.
fn print_text(text: &str) -> Result<(), Failure> {
    print_as_is(&printable(text))
}

/// The same, control characters and all: who calls this has put them there.
fn print_as_is(text: &str) -> Result<(), Failure> {
    use std::io::{ErrorKind, Write};
    let mut stdout = std::io::stdout();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {
            Err(Failure::Signal(signal_hook::consts::SIGPIPE))
        }
        Err(error) => Err(Failure::Broken(format!("writing the result: {error}"))),
    }
}
