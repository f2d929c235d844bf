//! Scenarios too large for loom, run by shuttle on the real code: many threads, in
//! some orders of the very many that there are, chosen by a seed.
//!
//!     RUSTFLAGS="--cfg shuttle" cargo test --release -p gracefault \
//!         --no-default-features --lib shuttle
//!
//! `GRACEFAULT_SCHEDULES` says how many orders each scheduler tries in each model
//! (2000), `GRACEFAULT_SEED` which (1). A failure prints the schedule, and the same
//! seed fails again. Some ten minutes' worth:
//!
//!     GRACEFAULT_SCHEDULES=50000 GRACEFAULT_SEED=$RANDOM ...
//!
//! Two schedulers take turns: one that picks any thread at each step, and one that
//! gives threads priorities and changes these at a few points, which finds what takes
//! few, but ill-timed, preemptions.

mod pages;
mod spaces;
mod world;

use shuttle::rand::Rng;
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, Runner};

use super::core::Pace;
use super::{AddrRange, AddressSpace, Strategy, VmFlags};

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(value) => value.parse().unwrap_or_else(|_| panic!("{name}={value}")),
        Err(_) => default,
    }
}

/// Runs `f` under both schedulers.
fn check(f: impl Fn() + Clone + Send + Sync + 'static) {
    let schedules = number("GRACEFAULT_SCHEDULES", 2000) as usize;
    let seed = number("GRACEFAULT_SEED", 1);
    run(RandomScheduler::new_from_seed(seed, schedules), f.clone());
    run(PctScheduler::new_from_seed(seed, 4, schedules), f);
}

fn run(scheduler: impl Scheduler + 'static, f: impl Fn() + Send + Sync + 'static) {
    let mut config = Config::new();
    config.stack_size = 1 << 18;
    // That every load sees the last store is known: see `sync`.
    config.silence_warnings = true;
    config
        .ungraceful_shutdown_config
        .immediately_return_on_panic = true;
    Runner::new(scheduler, config).run(f);
}

/// A number below `end`, as the seed says.
fn random(end: u64) -> u64 {
    shuttle::rand::thread_rng().gen_range(0..end)
}

fn once_in(times: u64) -> bool {
    random(times) == 0
}

/// A model's clock stands still: rounds of no length end after every scan, others
/// never.
fn pace(round_seconds: u64) -> Pace {
    Pace {
        round: std::time::Duration::from_secs(round_seconds),
        ..Pace::default()
    }
}

fn range(start: u64, len: u64) -> AddrRange {
    AddrRange::new(start, len).unwrap()
}
