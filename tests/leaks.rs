//! What machines leave behind: no thread, no mapping, no file descriptor.
//!
//! A process of its own, one test at a time: they count what the whole process
//! has.
mod support;

#[path = "run/image.rs"]
#[allow(dead_code, reason = "shared with the tests of whole runs")]
mod image;
#[path = "leaks/left.rs"]
mod left;

use std::io::sink;
use std::path::PathBuf;
use std::time::Duration;

use gracefault::machine::{Machine, MachineConfig, MemoryConfig, StopRequest, Verdict};
use gracefault_guest::abi::Workload;
use libtest_mimic::{Arguments, Trial};

use left::assert_nothing_left;
use support::{Outcome, kvm_test};

fn main() {
    let mut arguments = Arguments::from_args();
    // On the main thread, too: a thread of the harness would be counted.
    arguments.test_threads = Some(1);
    let trials: Vec<Trial> = vec![
        kvm_test("leaks::by_100_launches", by_100_launches),
        kvm_test("leaks::by_machines_that_never_ran", by_unused_machines),
        kvm_test("leaks::by_machines_that_cannot_be", by_failures),
        kvm_test("leaks::by_guests_that_fail", by_failing_guests),
        kvm_test("leaks::by_runs_that_are_stopped", by_stopped_runs),
    ];
    libtest_mimic::run(&arguments, trials).exit();
}

/// A small machine whose blocks come and go for a few milliseconds.
fn small(workload: Workload) -> MachineConfig {
    MachineConfig {
        memory: MemoryConfig {
            size: 8 << 20,
            hotplug_size: 8 << 20,
            block: 64 << 10,
            ..MemoryConfig::default()
        },
        workload,
        duration: Duration::from_millis(20),
        timeout: Duration::from_secs(120),
        ..MachineConfig::default()
    }
}

fn launch(config: MachineConfig, verdict: Verdict) {
    let machine = Machine::new(config, Box::new(sink())).expect("a machine can be made");
    let report = machine.run(&StopRequest::new(), &mut |_| ());
    let report = report.expect("a machine can be run");
    assert_eq!(report.verdict, verdict, "{:?}", report.findings);
}

fn by_100_launches() -> Outcome {
    assert_nothing_left(100, |run| {
        let workload = [Workload::Hotplug, Workload::Hello][run % 2];
        launch(small(workload), Verdict::Passed);
    });
    Ok(())
}

fn by_unused_machines() -> Outcome {
    assert_nothing_left(50, |_| {
        drop(Machine::new(small(Workload::Hotplug), Box::new(sink())).expect("a machine"));
    });
    Ok(())
}

fn by_failures() -> Outcome {
    let bad = image::ImageFile::new(b"no image");
    let out = image::ImageFile::new(&image::elf(&[image::Segment::code(0x1000, &[0xeb, 0xfe])]));
    assert_nothing_left(50, |run| {
        let mut config = small(Workload::Hello);
        match run % 5 {
            0 => config.kernel = Some(bad.path.clone()),
            1 => config.kernel = Some(out.path.clone()),
            2 => config.kvm_device = PathBuf::from("/dev/null"),
            3 => config.vcpus = 0,
            _ => config.memory.size = 4096,
        }
        let error = Machine::new(config, Box::new(sink())).expect_err("it cannot be");
        assert!(error.is_usage(), "{error}");
    });
    Ok(())
}

fn by_failing_guests() -> Outcome {
    let crash = image::ImageFile::of_code(&[0x0f, 0x0b]);
    let hang = image::ImageFile::of_code(&[0xeb, 0xfe]);
    assert_nothing_left(20, |run| {
        let mut config = small(Workload::Hello);
        config.timeout = Duration::from_millis(50);
        config.kernel = Some([&crash, &hang][run % 2].path.clone());
        launch(config, Verdict::Failed);
    });
    Ok(())
}

fn by_stopped_runs() -> Outcome {
    assert_nothing_left(30, |_| {
        let mut config = small(Workload::Hotplug);
        config.duration = Duration::from_secs(60);
        let machine = Machine::new(config, Box::new(sink())).expect("a machine can be made");
        let stop = StopRequest::new();
        let mut ticks = 0;
        let report = machine.run(&stop, &mut |_| {
            ticks += 1;
            if ticks == 2 {
                stop.now();
            }
        });
        let report = report.expect("it ran");
        assert_eq!(report.verdict, Verdict::Stopped, "{report:#?}");
    });
    Ok(())
}
