//! A run that is stopped at any moment: it returns soon, and what it has counted
//! until then is what KVM has.
use std::thread;
use std::time::{Duration, Instant};

use gracefault::hotplug::BlockKind;
use gracefault::machine::{Machine, MachineConfig, MemoryConfig, RunReport, StopRequest, Verdict};
use gracefault::trace::live::Doing;
use gracefault_guest::abi::{DMA_GPA, Workload};
use libtest_mimic::Trial;

use crate::command::HANG;
use crate::image::ImageFile;
use crate::support::{Outcome, guest, kvm_test};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test("stop::at_any_moment", at_any_moment),
        kvm_test("stop::before_the_start", before_the_start),
        kvm_test("stop::while_a_copy_waits", while_a_copy_waits),
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

/// A copy to a block that a writer has locked, and does not let go before the machine
/// has ended.
fn while_a_copy_waits() -> Outcome {
    let code = guest!(
        // The descriptor is on the stack; what is copied is its own first word.
        "lea rax, [rsp - 64]",
        "mov [rax], rax",
        "mov [rax + 8], rcx",
        "mov qword ptr [rax + 16], 8",
        "mov edi, 0xd0300000",
        "mov [rdi], rax",
        "xor eax, eax",
        "mov edi, 0xd0100000",
        "mov [rdi], rax",
    );
    let mut config = MachineConfig {
        vcpus: 1,
        churn: false,
        ..machine(0)
    };
    let region = Machine::new(config.clone(), Box::new(std::io::sink()))?;
    let block = region.hotplug().block_range(0);
    drop(region);
    // mov rcx, block
    let target = [&[0x48, 0xb9][..], &block.start().to_le_bytes()].concat();
    let image = ImageFile::of_code(&[&target, code].concat());
    config.kernel = Some(image.path.clone());
    let machine = Machine::new(config, Box::new(std::io::sink()))?;
    machine.hotplug().plug(0, BlockKind::Volatile)?;
    let (handle, space) = (machine.handle()?, machine.memory().clone());
    let stop = StopRequest::new();
    thread::scope(|scope| -> Outcome {
        let mut section = space.mm().mmap_write_lock()?;
        section.unmap(block)?;
        let drained = section.lock()?;
        let (machine, asked) = (machine, &stop);
        let run = scope.spawn(move || machine.run(asked, &mut |_| ()));
        let vcpu = || handle.vcpus()[0].now().doing;
        while !matches!(vcpu(), Doing::Exit(_, DMA_GPA)) {
            assert!(!run.is_finished(), "it does not get to the copy");
            thread::sleep(Duration::from_millis(1));
        }
        // Whether or not the copy waits already.
        thread::sleep(Duration::from_millis(20));
        stop.now();
        let asked = Instant::now();
        while vcpu() != Doing::Ended && asked.elapsed() < SOON {
            thread::sleep(Duration::from_millis(1));
        }
        let at_last = vcpu();
        // The report is of the map, too, and waits for the section.
        drop(drained);
        let report = run.join().expect("it does not panic")?;
        assert_eq!(at_last, Doing::Ended, "the section had to end first");
        assert_consistent(&report);
        assert_eq!(report.vcpus[0].device_accesses["dma"], 1);
        Ok(())
    })
}
