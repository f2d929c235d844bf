//! Readers of the output that went away or do not read: no panic, no hang, and a
//! status that is not success.
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use libtest_mimic::Trial;

use crate::command::{Running, gracefault, run};
use crate::support::{Outcome, kvm_test};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test("output::stdout_that_nobody_reads", || stdout_closed(&[])),
        kvm_test("output::stdout_that_nobody_reads_json", || {
            stdout_closed(&["--json"])
        }),
        kvm_test("output::stderr_that_nobody_reads", stderr_closed),
        kvm_test("output::a_full_disk", a_full_disk),
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
