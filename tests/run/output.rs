//! Readers of the output that went away or do not read: no panic, no hang, and a
//! status that is not success.
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use libtest_mimic::Trial;

use crate::command::{Running, gracefault, run};
use crate::report::number;
use crate::support::{Outcome, kvm_test};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test("output::stdout_that_nobody_reads", || stdout_closed(&[])),
        kvm_test("output::stdout_that_nobody_reads_json", || {
            stdout_closed(&["--json"])
        }),
        kvm_test("output::stderr_that_nobody_reads", stderr_closed),
        kvm_test("output::a_full_disk", a_full_disk),
        kvm_test("output::a_guest_cannot_flood_the_log", a_guest_cannot_flood),
        kvm_test("output::a_console_that_nobody_reads", console_closed),
    ]
}

/// A pipe's writing end that has no reader.
fn broken_pipe() -> std::io::Result<Stdio> {
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    Ok(OwnedFd::from(writer).into())
}

fn hello(more: &[&str]) -> Command {
    let mut command = gracefault(["run", "--workload", "hello", "--no-churn"]);
    command.args(more);
    command
}

fn stdout_closed(more: &[&str]) -> Outcome {
    let mut command = hello(more);
    command.stdout(broken_pipe()?).stderr(Stdio::null());
    let ended = Running::start_as_is(command).wait();
    assert!(!ended.status.success(), "{ended}");
    assert_ne!(ended.status.code(), Some(101), "{ended}");
    Ok(())
}

/// What goes there is lost, and nothing else: the results and the status are as
/// they would be.
fn stderr_closed() -> Outcome {
    for (more, status) in [
        (&["--timeout", "0s"][..], 1),
        (&["--kvm-device", "/nonexistent"], 2),
        (&["--json"], 0),
    ] {
        let mut command = hello(more);
        command.stdout(Stdio::null()).stderr(broken_pipe()?);
        let ended = Running::start_as_is(command).wait();
        ended.expect_status(status);
    }
    Ok(())
}

fn a_full_disk() -> Outcome {
    for more in [&[][..], &["--json"]] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full")?;
        let mut command = hello(more);
        command.stdout(full).stderr(Stdio::null());
        let ended = Running::start_as_is(command).wait();
        ended.expect_status(1);
    }
    Ok(())
}

/// Only the guest's lines go to stderr here.
fn console_closed() -> Outcome {
    let words = "run --json --workload hello --cpus 4";
    run(words).expect_status(0);
    let mut command = gracefault(words.split(' '));
    command.stdout(Stdio::null()).stderr(broken_pipe()?);
    Running::start_as_is(command).wait().expect_status(0);
    Ok(())
}

/// Thousands of accesses to nothing: a line a second, and the others are counted.
fn a_guest_cannot_flood() -> Outcome {
    let ended = run("run --json --duration 3s --log-level info");
    let report = ended.expect_status(0).json();
    let lines = ended.stderr.lines();
    let lines: Vec<_> = lines.filter(|l| l.contains("nothing is there")).collect();
    let seconds = report["seconds"].as_f64().expect("seconds");
    assert!(!lines.is_empty(), "{ended}");
    assert!(lines.len() as f64 <= seconds + 1.0, "{ended}");
    // What was held back before the last line is in one of them.
    let held_back = |line: &&str| {
        let (_, count) = line.rsplit_once('(').expect("a count");
        count.split(' ').next().and_then(|n| n.parse::<u64>().ok())
    };
    let told: u64 = lines.iter().filter_map(held_back).sum::<u64>() + lines.len() as u64;
    let unmapped = number(&report, "/refused/unmapped");
    assert!(
        told > lines.len() as u64 && told <= unmapped,
        "{told}: {ended}"
    );
    Ok(())
}
