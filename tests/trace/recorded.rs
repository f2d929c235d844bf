//! A run that is recorded, with its report and its trace.
use std::path::{Path, PathBuf};

use gracefault::trace::TraceFile;
use gracefault::trace::event::{Event, Exit};
use serde_json::Value;

use crate::command::{Ended, run};

/// A recorded run. The file goes with it.
pub(crate) struct Recorded {
    dir: tempfile::TempDir,
    /// The run's report.
    pub(crate) report: Value,
    /// What was recorded.
    pub(crate) trace: TraceFile,
}

impl Recorded {
    /// Records a run with these options, and `record` options for the recording.
    pub(crate) fn new(record: &str, options: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory for a trace");
        let file = dir.path().join("run.trace");
        let command = format!("trace record -o {}{record} -- run --json", file.display());
        let ended = run(&format!("{command} --timeout 120s {options}"));
        let report = ended.expect_status(0).json();
        let trace = TraceFile::open(&file).expect("just written");
        Self { dir, report, trace }
    }

    /// Where the trace is.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("run.trace")
    }

    /// Where something beside it may be put.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The exits of one vCPU.
    pub(crate) fn exits(&self, vcpu: u64) -> impl Iterator<Item = &Exit> {
        self.trace
            .events()
            .filter_map(move |(_, event)| match event {
                Event::Exit(exit) if u64::from(exit.vcpu) == vcpu => Some(exit),
                _ => None,
            })
    }

    /// A number of the run's report.
    pub(crate) fn number(&self, pointer: &str) -> u64 {
        let value = self.report.pointer(pointer).and_then(Value::as_u64);
        value.unwrap_or_else(|| panic!("no number {pointer} in {}", self.report))
    }
}

/// `gracefault trace` on a file.
pub(crate) fn trace(words: &str, file: &Path) -> Ended {
    run(&format!("trace {words} {}", file.display()))
}

/// A run in which vCPUs have waited for writers: the stream that is kept, since chance
/// decides whether a fresh one has any. It has no report.
pub(crate) fn with_waits() -> Recorded {
    let dir = tempfile::tempdir().expect("a directory for a trace");
    let file = dir.path().join("run.trace");
    let kept = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/hotplug.trace");
    std::fs::copy(kept, &file).expect("it is in the repository");
    let trace = TraceFile::open(&file).expect("it is whole");
    let report = Value::Null;
    Recorded { dir, report, trace }
}
