//! A machine whose console is in trouble: it panics, fails, or blocks.
use std::io::{self, PipeWriter, Write};
use std::os::fd::AsRawFd;
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
        kvm_test("console::a_panic_is_a_failed_write", || failing(Panics)),
        kvm_test("console::an_error_is_a_failed_write", || failing(Fails)),
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
        // Not by `panic!`: with a backtrace it takes a loaded machine longer than a
        // console is waited for.
        std::panic::resume_unwind(Box::new("the console's own bug"))
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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

/// The guest does not notice, the counts hold, and the report tells.
fn failing(console: impl Write + Send + 'static) -> Outcome {
    let report = run(hello(), console);
    assert_eq!(report.verdict, Verdict::Passed, "{report:#?}");
    let told: u64 = report
        .exits
        .iter()
        .filter(|row| row.target == "serial")
        .map(|row| row.times.count)
        .sum();
    assert_eq!(report.console.dropped_bytes, told, "{report:#?}");
    assert!(told > 0 && report.console.error.is_some(), "{report:#?}");
    for vcpu in &report.vcpus {
        assert_eq!(Some(vcpu.mmio_exits), vcpu.kvm_mmio_exits, "{report:#?}");
    }
    Ok(())
}

/// A guest that prints for ever, to a pipe that nobody reads: its vCPU does not wait
/// for that, and the timeout ends it as any other.
fn one_that_blocks() -> Outcome {
    let code = guest!("mov dx, 0x3f8", "mov al, 10", "5: out dx, al", "jmp 5b");
    let image = ImageFile::of_code(code);
    let (reader, mut writer): (_, PipeWriter) = io::pipe()?;
    // SAFETY: no memory; the descriptor is open.
    let size = unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_GETPIPE_SZ) };
    // Full from the start: the guest may be too slow to fill it.
    writer.write_all(&vec![b'.'; usize::try_from(size)?])?;
    let config = MachineConfig {
        kernel: Some(image.path.clone()),
        vcpus: 1,
        duration: Duration::from_millis(100),
        timeout: Duration::from_secs(3),
        ..MachineConfig::default()
    };
    let (done, is_done) = mpsc::channel();
    // Not joined: it would hang with the run.
    thread::spawn(move || drop(done.send(run(config, writer))));
    let report = is_done
        .recv_timeout(HANG / 3)
        .map_err(|_| "the machine hangs with its console")?;
    drop(reader);
    assert_eq!(report.verdict, Verdict::Failed, "{report:#?}");
    assert!(
        report.findings[0].contains("did not end within 3s"),
        "{report:#?}"
    );
    assert!(report.console.dropped_bytes > 0, "{report:#?}");
    Ok(())
}
