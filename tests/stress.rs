//! `gracefault stress`, from outside: what it refuses, what it prints, and that a storm
//! finds nothing wrong. That it would find something is shown by `.ci/breaks`.
//!
//! A harness of its own, as `run`. Nothing here depends on how fast the machine is.
mod support;

#[path = "run/command.rs"]
#[allow(dead_code, reason = "this harness uses a part of it")]
mod command;
#[path = "stress/refused.rs"]
mod refused;
#[path = "stress/storms.rs"]
mod storms;

fn main() {
    let arguments = libtest_mimic::Arguments::from_args();
    let trials = [refused::trials(), storms::trials()];
    libtest_mimic::run(&arguments, trials.into_iter().flatten().collect()).exit();
}
