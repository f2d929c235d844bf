//! A machine whose console is in trouble: it panics, fails, or blocks.
use std::io::{self, PipeWriter, Write};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use gracefault::machine::{Machine, MachineConfig, RunReport, StopRequest, Verdict};
use gracefault_guest::abi::Workload;
use libtest_mimic::Trial;

use crate::command::HANG;
use crate::image::ImageFile;
use crate::support::{Outcome, guest, kvm_test};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test("console::a_panic_ends_the_vcpu_alone", a_panic),
        kvm_test("console::an_error_is_nothing_to_the_guest", an_error),
        kvm_test("console::one_that_blocks_can_be_stopped", one_that_blocks),
    ]
}

fn hello() -> MachineConfig {
    MachineConfig {
        workload: Workload::Hello,
        duration: Duration::from_millis(100),
        timeout: HANG,
        ..MachineConfig::default()
    }
}

fn run(config: MachineConfig, console: impl Write + Send + 'static) -> RunReport {
    let machine = Machine::new(config, Box::new(console)).expect("a machine can be made");
    let report = machine.run(&StopRequest::new(), &mut |_| ());
    report.expect("a machine can be run")
}

struct Panics;

impl Write for Panics {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        panic!("the console's own bug")
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The vCPU's thread was in the handler, in the middle of a lookup's guard: the
/// rest of the machine ends in good order.
fn a_panic() -> Outcome {
    let report = run(hello(), Panics);
    assert_eq!(report.verdict, Verdict::Failed, "{report:#?}");
    let findings = report.findings.join("\n");
    let words = "ended by a panic of its exit handler: the console's own bug";
    assert!(findings.contains(words), "{report:#?}");
    for vcpu in &report.vcpus {
        assert_eq!(Some(vcpu.mmio_exits), vcpu.kvm_mmio_exits, "{report:#?}");
    }
    Ok(())
}

struct Fails;

impl Write for Fails {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::Error::other("no room"))
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn an_error() -> Outcome {
    let report = run(hello(), Fails);
    assert_eq!(report.verdict, Verdict::Passed, "{report:#?}");
    Ok(())
}

/// A guest that prints for ever, to a pipe that nobody reads: its vCPU waits in the
/// middle of an exit, and the timeout ends it all the same.
fn one_that_blocks() -> Outcome {
    let code = guest!("mov dx, 0x3f8", "mov al, 10", "5: out dx, al", "jmp 5b");
    let image = ImageFile::of_code(code);
    let (reader, writer): (_, PipeWriter) = io::pipe()?;
    let config = MachineConfig {
        kernel: Some(image.path.clone()),
        vcpus: 1,
        duration: Duration::from_millis(100),
        // Long enough to fill the pipe's 64 KiB on any machine; what counts is
        // that there is an end.
        timeout: Duration::from_secs(8),
        ..MachineConfig::default()
    };
    let (done, is_done) = mpsc::channel();
    // Not joined: it would hang with the run.
    thread::spawn(move || done.send(run(config, writer)));
    let report = is_done
        .recv_timeout(HANG / 3)
        .map_err(|_| "the machine hangs with its console")?;
    drop(reader);
    assert_eq!(report.verdict, Verdict::Failed, "{report:#?}");
    assert!(
        report.findings[0].contains("did not end within 8s"),
        "{report:#?}"
    );
    Ok(())
}
