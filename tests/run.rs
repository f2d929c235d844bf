//! The `gracefault` command and a whole machine, from outside: what a user types,
//! and what comes of it.
//!
//! A harness of its own, because whether `/dev/kvm` can be opened is known only
//! at run time; `GRACEFAULT_REQUIRE_KVM=1` turns "ignored" into "failed". Nothing
//! here depends on how fast the machine is: times only catch hangs.
//! `GRACEFAULT_BIN` names another binary to test than the one just built.
mod support;

#[path = "run/backings.rs"]
mod backings;
#[path = "run/bad_images.rs"]
mod bad_images;
#[path = "run/bad_usage.rs"]
mod bad_usage;
#[path = "run/broken_links.rs"]
mod broken_links;
#[path = "run/command.rs"]
mod command;
#[path = "run/confined.rs"]
mod confined;
#[path = "run/console.rs"]
mod console;
#[path = "run/failing_guests.rs"]
mod failing_guests;
#[path = "run/image.rs"]
mod image;
#[path = "run/kernel.rs"]
mod kernel;
#[path = "run/no_kvm.rs"]
mod no_kvm;
#[path = "run/odd_guests.rs"]
mod odd_guests;
#[path = "run/output.rs"]
mod output;
#[path = "run/panics.rs"]
mod panics;
#[path = "run/report.rs"]
mod report;
#[path = "run/signals.rs"]
mod signals;
#[path = "run/stop.rs"]
mod stop;
#[path = "run/whole.rs"]
mod whole;
#[path = "run/workloads.rs"]
mod workloads;

fn main() {
    let arguments = libtest_mimic::Arguments::from_args();
    let trials = [
        backings::trials(),
        bad_images::trials(),
        bad_usage::trials(),
        broken_links::trials(),
        confined::trials(),
        console::trials(),
        failing_guests::trials(),
        kernel::trials(),
        no_kvm::trials(),
        odd_guests::trials(),
        output::trials(),
        panics::trials(),
        signals::trials(),
        stop::trials(),
        whole::trials(),
        workloads::trials(),
    ];
    libtest_mimic::run(&arguments, trials.into_iter().flatten().collect()).exit();
}
