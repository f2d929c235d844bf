//! A running VM by its socket, from outside: what `vmm/docs/api.json` says and what the
//! server does, clients that mean no good, and a guest that verifies its memory while it
//! comes and goes.
//!
//! A harness of its own, as `run`'s: what needs `/dev/kvm` is reported as ignored where
//! there is none. The contract is held without it too, by a stand-in and by a storm.
#![allow(
    dead_code,
    reason = "shared with other tests, of which each uses a part"
)]
mod support;

#[path = "api/clients.rs"]
mod clients;
#[path = "run/command.rs"]
mod command;
#[path = "api/commands.rs"]
mod commands;
#[path = "api/contract.rs"]
mod contract;
#[path = "api/cycles.rs"]
mod cycles;
#[path = "api/http.rs"]
mod http;
#[path = "api/life.rs"]
mod life;
#[path = "api/names.rs"]
mod names;
#[path = "api/recording.rs"]
mod recording;
#[path = "api/refusals.rs"]
mod refusals;
#[path = "api/stand_in.rs"]
mod stand_in;
#[path = "api/steered.rs"]
mod steered;
#[path = "api/storm.rs"]
mod storm;
#[path = "api/table.rs"]
mod table;

fn main() {
    let arguments = libtest_mimic::Arguments::from_args();
    let trials = [
        clients::trials(),
        commands::trials(),
        cycles::trials(),
        life::trials(),
        names::trials(),
        recording::trials(),
        refusals::trials(),
        storm::trials(),
        table::trials(),
    ];
    libtest_mimic::run(&arguments, trials.into_iter().flatten().collect()).exit();
}
