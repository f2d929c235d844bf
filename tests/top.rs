//! `gracefault top`, from outside: in a real terminal, of a VM and of what only looks like
//! one.
//!
//! A harness of its own, as `run`. Tests that need tmux are reported as ignored where it
//! is not installed; `GRACEFAULT_REQUIRE_TMUX=1` makes them fail instead.
mod support;

#[path = "run/command.rs"]
#[allow(dead_code, reason = "this harness uses a part of it")]
mod command;
#[path = "top/hangup.rs"]
mod hangup;
#[path = "top/once.rs"]
mod once;
#[path = "top/terminal.rs"]
mod terminal;
#[path = "top/vm.rs"]
mod vm;

fn main() {
    let arguments = libtest_mimic::Arguments::from_args();
    let trials = [
        hangup::trials(),
        once::trials(),
        terminal::trials(),
        vm::trials(),
    ];
    libtest_mimic::run(&arguments, trials.into_iter().flatten().collect()).exit();
}
