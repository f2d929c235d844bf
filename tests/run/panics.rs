//! Panics of the caller's own code inside of a run: the run unwinds, and takes its
//! threads with it.
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use gracefault::machine::{Machine, MachineConfig, StopRequest};
use libtest_mimic::Trial;

use crate::command::HANG;
use crate::support::{Outcome, kvm_test};

pub(crate) fn trials() -> Vec<Trial> {
    vec![kvm_test("panics::one_in_the_progress_callback", progress)]
}

fn progress() -> Outcome {
    for churn in [true, false] {
        let config = MachineConfig {
            duration: Duration::from_secs(3600),
            timeout: Duration::from_secs(7200),
            churn,
            ..MachineConfig::default()
        };
        let (done, is_done) = mpsc::channel();
        // Not joined: it would hang with the run.
        thread::spawn(move || {
            let machine = Machine::new(config, Box::new(std::io::sink())).expect("a machine");
            let mut ticks = 0;
            let mut progress = |_| {
                ticks += 1;
                assert!(ticks < 5, "the caller's own bug");
            };
            let run = || drop(machine.run(&StopRequest::new(), &mut progress));
            let _ = done.send(catch_unwind(AssertUnwindSafe(run)).is_err());
        });
        let panicked = is_done
            .recv_timeout(HANG / 3)
            .map_err(|_| format!("the run hangs (churn: {churn})"))?;
        assert!(panicked, "the panic reaches the caller");
    }
    Ok(())
}
