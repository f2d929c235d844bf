//! The command's vCPU threads are confined unless it is told otherwise.
use std::os::unix::process::ExitStatusExt;

use libtest_mimic::Trial;

use crate::command::run;
use crate::support::{Outcome, kvm_test};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test("confined::a_violation_ends_the_process", violation),
        kvm_test("confined::unless_told_otherwise", otherwise),
    ]
}

/// A run whose first vCPU makes a call that a filter would not allow.
const CALLS: &str = "run --duration 200ms --timeout 120s --break system-call";

fn violation() -> Outcome {
    for words in [
        CALLS.to_owned(),
        format!("{CALLS} --seccomp on --memory lazy=on"),
    ] {
        let ended = run(&words);
        assert_eq!(ended.status.signal(), Some(libc::SIGSYS), "{ended}");
        ended.expect_message(&["vCPU 0", "(socketpair)", "SIGSYS", "--seccomp log"]);
    }
    Ok(())
}

fn otherwise() -> Outcome {
    for seccomp in ["log", "off"] {
        let ended = run(&format!("{CALLS} --seccomp {seccomp}"));
        ended.expect_status(0);
        assert!(ended.stdout.contains("PASSED"), "{ended}");
    }
    Ok(())
}
