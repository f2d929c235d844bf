//! A run that is stopped at any moment: it returns soon, and what it has counted
//! until then is what KVM has.
use std::thread;
use std::time::{Duration, Instant};

use gracefault::machine::{Machine, MachineConfig, MemoryConfig, RunReport, StopRequest, Verdict};
use gracefault_guest::abi::Workload;
use libtest_mimic::Trial;

use crate::command::HANG;
use crate::support::{Outcome, kvm_test};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test("stop::at_any_moment", at_any_moment),
        kvm_test("stop::before_the_start", before_the_start),
    ]
}

/// How soon a stopped run must have returned, on the slowest of machines. Where
/// all is well it takes some milliseconds.
const SOON: Duration = Duration::from_secs(10);

fn machine(run: u32) -> MachineConfig {
    MachineConfig {
        vcpus: 1 + run % 3,
        memory: MemoryConfig {
            size: 8 << 20,
            hotplug_size: 16 << 20,
            block: 64 << 10,
            ..MemoryConfig::default()
        },
        workload: [Workload::Hotplug, Workload::Mmio, Workload::Memory][run as usize / 3 % 3],
        duration: HANG,
        timeout: HANG * 2,
        churn: !run.is_multiple_of(4),
        seed: run.into(),
        ..MachineConfig::default()
    }
}

fn assert_consistent(report: &RunReport) {
    let RunReport { findings, .. } = report;
    assert_eq!(report.verdict, Verdict::Stopped, "{findings:?}");
    for vcpu in &report.vcpus {
        assert_eq!(Some(vcpu.mmio_exits), vcpu.kvm_mmio_exits, "{vcpu:?}");
        assert_eq!(vcpu.end, "was stopped");
    }
    if let Some(hotplug) = &report.hotplug {
        let [plug, unplug, surprise] =
            [hotplug.plug, hotplug.unplug, hotplug.surprise_unplug].map(|op| op.total.count);
        assert_eq!(plug, unplug + surprise, "what was plugged is unplugged");
    }
}

fn at_any_moment() -> Outcome {
    // The moments differ from run to run, on purpose, but the same on each day.
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut longest = Duration::ZERO;
    for run in 0..200 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let after = Duration::from_micros(random % 40_000);
        let machine = Machine::new(machine(run), Box::new(std::io::sink()))?;
        let stop = StopRequest::new();
        let (report, took) = thread::scope(|scope| {
            let asked = scope.spawn(|| {
                thread::sleep(after);
                stop.now();
                Instant::now()
            });
            let report = machine.run(&stop, &mut |_| ());
            let returned = Instant::now();
            let asked = asked.join().expect("a store does not panic");
            (report, returned.saturating_duration_since(asked))
        });
        assert_consistent(&report?);
        assert!(took < SOON, "run {run}, stopped after {after:?}: {took:?}");
        longest = longest.max(took);
    }
    println!("200 runs stopped, the slowest within {longest:?}");
    Ok(())
}

fn before_the_start() -> Outcome {
    let stop = StopRequest::new();
    stop.now();
    assert!(stop.is_asked() && stop.signal().is_none());
    let machine = Machine::new(machine(1), Box::new(std::io::sink()))?;
    assert_consistent(&machine.run(&stop, &mut |_| ())?);
    Ok(())
}
