//! Panics of the caller's own code inside of a run: the run unwinds, and takes its
//! threads with it.
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use gracefault::machine::{Machine, MachineConfig, StopRequest};
use gracefault::trace::LiveVcpu;
use gracefault::trace::live::Doing;
use gracefault_guest::abi;
use libtest_mimic::Trial;

use crate::command::HANG;
use crate::support::{Outcome, kvm_test};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test("panics::one_in_the_progress_callback", progress),
        kvm_test(
            "panics::one_while_a_vcpu_waits_for_a_writer",
            beside_a_writer,
        ),
    ]
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

/// A vCPU that waits for a writer is told to stop before it is told to wait no more: its
/// guest does not go on with a copy that its device has not made.
fn beside_a_writer() -> Outcome {
    for _ in 0..5 {
        let config = MachineConfig {
            vcpus: 1,
            duration: Duration::from_secs(3600),
            timeout: Duration::from_secs(7200),
            ..MachineConfig::default()
        };
        let machine = Machine::new(config, Box::new(std::io::sink()))?;
        let handle = machine.handle()?;
        let mm = handle.memory().mm();
        let panics = Arc::new(AtomicBool::new(false));
        let panics_now = panics.clone();
        let (done, is_done) = mpsc::channel();
        // Not joined: it would hang with the run.
        thread::spawn(move || {
            let mut progress = |_| assert!(!panics_now.load(Relaxed), "the caller's own bug");
            let run = || drop(machine.run(&StopRequest::new(), &mut progress));
            let _ = done.send(catch_unwind(AssertUnwindSafe(run)).is_err());
        });
        let vcpu = &handle.vcpus()[0];
        until("it runs", || exits(vcpu) > 1000);
        let mut section = mm.mmap_write_lock()?;
        // By then the hotplug thread wants the map lock, and the run waits for that thread.
        thread::sleep(Duration::from_millis(200));
        // What the guest's device copies from and to.
        let ram = section.find_vma(abi::IMAGE_GPA).map(|vma| vma.range());
        section.unmap(ram.ok_or("boot RAM")?)?;
        let drained = section.lock()?;
        until("the vCPU waits", || !mm.waiters().is_empty());
        let before = exits(vcpu);
        panics.store(true, Relaxed);
        // The exit that it waits in, and the kick.
        let goes_on = || exits(vcpu) > before + 10;
        until("the vCPU ends", || {
            goes_on() || vcpu.now().doing == Doing::Ended
        });
        drop(drained);
        assert!(!goes_on(), "its guest goes on: {before}, {}", exits(vcpu));
        let panicked = is_done.recv_timeout(HANG / 3);
        assert!(panicked.map_err(|_| "the run hangs")?);
    }
    Ok(())
}

#[track_caller]
fn until(what: &str, is: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < HANG / 3, "{what}");
        thread::yield_now();
    }
}

fn exits(vcpu: &LiveVcpu) -> u64 {
    vcpu.exits().map(|(_, times)| times.count()).sum()
}
