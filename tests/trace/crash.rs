//! A VMM that is killed leaves all of its trace but the last moments.
use std::thread;
use std::time::{Duration, Instant};

use gracefault::trace::TraceFile;
use libtest_mimic::Trial;

use crate::command::{HANG, Running, gracefault};
use crate::recorded::trace;
use crate::support::{Outcome, kvm_test};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test("crash::killed", || ended_by(libc::SIGKILL)),
        kvm_test("crash::stopped_from_outside", || ended_by(libc::SIGTERM)),
    ]
}

fn ended_by(signal: i32) -> Outcome {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("run.trace");
    let mut command = gracefault(["run", "--duration", "60s", "--trace"]);
    command.arg(&file);
    let running = Running::start(command);
    // Until something has been written, and a while longer.
    let begun = Instant::now();
    let there = || TraceFile::open(&file).map_or(0, |trace| trace.events().count());
    while there() < 2_000 {
        assert!(begun.elapsed() < HANG, "nothing is recorded");
        thread::sleep(Duration::from_millis(20));
    }
    let before = there();
    running.signal(signal);
    let ended = running.wait();
    let left = TraceFile::open(&file)?;
    assert!(left.events().count() >= before);
    assert_eq!(left.skipped, 0, "no block is half written but the last");
    let report = trace("report --json", &file);
    report.expect_status(0);
    let missing = &report.json()["missing"];
    if signal == libc::SIGKILL {
        assert!(!left.complete && left.outcome.is_none());
        report.expect_words(&["it has no end"]);
        assert_eq!(missing["complete"], false);
    } else {
        ended.expect_status(128 + signal);
        assert!(left.complete);
        assert_eq!(left.outcome.ok_or("no outcome")?.verdict, "stopped");
        assert_eq!(
            (&report.stderr[..], &missing["complete"]),
            ("", &true.into())
        );
    }
    trace("replay", &file).expect_status(0);
    Ok(())
}
