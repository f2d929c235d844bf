//! Plug, unplug and resize on real KVM, beside running vCPUs.
//!
//! As `kvm`, one test at a time. The long turns are ignored unless asked for:
//! `cargo test --release --test hotplug -- --ignored`.
mod support;

#[path = "hotplug/cycles.rs"]
mod cycles;
#[path = "hotplug/moves.rs"]
mod moves;
#[path = "hotplug/races.rs"]
mod races;
#[path = "hotplug/resize.rs"]
mod resize;
#[path = "hotplug/unplug.rs"]
mod unplug;

fn main() {
    support::blocks::one_arena();
    let mut arguments = libtest_mimic::Arguments::from_args();
    arguments.test_threads = Some(1);
    let trials = [
        cycles::trials(),
        moves::trials(),
        races::trials(),
        resize::trials(),
        unplug::trials(),
    ];
    libtest_mimic::run(&arguments, trials.into_iter().flatten().collect()).exit();
}
