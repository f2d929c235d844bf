//! `gracefault trace`, from outside: what is recorded is what happened, and what is made
//! of it says the same.
//!
//! A harness of its own, as `run` is. What other programs are needed for (perf, jq, node
//! with Perfetto's trace processor, chromium) is reported as ignored, with the reason,
//! where they are not there.
mod support;

#[path = "run/command.rs"]
#[allow(dead_code, reason = "`run` uses all of it")]
mod command;

#[path = "trace/agrees.rs"]
mod agrees;
#[path = "trace/browser.rs"]
mod browser;
#[path = "trace/crash.rs"]
mod crash;
#[path = "trace/exports.rs"]
mod exports;
#[path = "trace/perfetto.rs"]
mod perfetto;
#[path = "trace/recorded.rs"]
mod recorded;
#[path = "trace/replay.rs"]
mod replay;
#[path = "trace/room.rs"]
mod room;
#[path = "trace/usage.rs"]
mod usage;

fn main() {
    let arguments = libtest_mimic::Arguments::from_args();
    let trials = [
        agrees::trials(),
        browser::trials(),
        crash::trials(),
        exports::trials(),
        perfetto::trials(),
        replay::trials(),
        room::trials(),
        usage::trials(),
    ];
    libtest_mimic::run(&arguments, trials.into_iter().flatten().collect()).exit();
}
