//! Recording a VM that runs.

use serde::{Deserialize, Serialize};

use crate::trace::record::{EventSet, RecordOptions};

/// The most bytes of a recording.
const MOST: u64 = 1 << 30;

/// What is lost when a ring, or the recording, is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFull {
    /// The new: the recording has the beginning.
    #[default]
    Drop,
    /// The old: the recording has the end.
    Overwrite,
}

/// `PUT /vm.trace-start`: each exit and each write section is recorded from now on, into
/// a file without a name that the VM keeps. What was recorded before is forgotten.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceRequest {
    /// Which events, as `gracefault trace record --events` has them: all if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<String>,
    /// The most bytes: 64 MiB if not given, from 256 KiB to 1 GiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// What to lose when there is no room.
    #[serde(default)]
    pub on_full: OnFull,
}

impl TraceRequest {
    /// Whether it can be a request.
    ///
    /// # Errors
    /// What to change.
    pub fn check(&self) -> Result<(), String> {
        if let Some(events) = &self.events {
            EventSet::matching(events).map_err(|error| format!("events: {error}"))?;
        }
        let (least, most) = (RecordOptions::MIN_SIZE, MOST);
        match self.size {
            Some(size) if !(least..=most).contains(&size) => Err(format!(
                "size: choose from {least} to {most} bytes, not {size}"
            )),
            _ => Ok(()),
        }
    }
}

/// Whether there is a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TraceState {
    /// There is none.
    None,
    /// It goes on.
    Recording,
    /// It was stopped, and can be fetched.
    Stopped,
    /// It belongs to the command line (`--trace`), and goes to that file.
    CommandLine,
}

/// `GET /vm.trace`, and the answer to starting and stopping.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceStatus {
    /// Whether there is a recording.
    pub state: TraceState,
    /// Events that it has so far.
    pub events: u64,
    /// Events that it has lost.
    pub lost: u64,
    /// Bytes of it, once it is stopped.
    pub size: u64,
    /// If it could not be written: why.
    pub error: Option<String>,
}
