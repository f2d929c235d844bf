//! Recording a machine for somebody at the socket.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;

use super::super::model::{ErrorCode, Failure, OnFull, TraceRequest, TraceState, TraceStatus};
use super::MachineVm;
use crate::machine::RecordingState;
use crate::trace::record::{self, EventSet, RecordError, RecordOptions};

/// The usual size of a recording.
const SIZE: u64 = 64 << 20;

impl MachineVm {
    pub(super) fn recording(&self) -> TraceStatus {
        let recorded = || self.machine.recorded().ok().flatten();
        let size = || recorded()?.metadata().ok().map(|file| file.len());
        let (state, written, error) = match self.machine.recording() {
            RecordingState::None => (TraceState::None, Default::default(), None),
            RecordingState::Recording {
                for_the_run,
                so_far,
            } => match for_the_run {
                true => (TraceState::CommandLine, so_far, None),
                false => (TraceState::Recording, so_far, None),
            },
            RecordingState::Stopped { written, error } => (TraceState::Stopped, written, error),
        };
        TraceStatus {
            state,
            events: written.events,
            lost: written.lost,
            size: match state {
                TraceState::Stopped => size().unwrap_or(0),
                _ => 0,
            },
            error,
        }
    }

    pub(super) fn start_recording(&self, request: &TraceRequest) -> Result<TraceStatus, Failure> {
        let events = request.events.as_deref().map(EventSet::matching);
        let events = events.unwrap_or(Ok(EventSet::ALL));
        let options = RecordOptions {
            events: events.map_err(|error| Failure::bad(format!("events: {error}")))?,
            size: request.size.unwrap_or(SIZE),
            on_full: match request.on_full {
                OnFull::Drop => record::OnFull::Drop,
                OnFull::Overwrite => record::OnFull::Overwrite,
            },
            ring: None,
        };
        let phase = self.machine.phase();
        if phase > crate::machine::Phase::Running {
            return Err(self.not_running());
        }
        let failed = |error: io::Error| {
            let error = format!(
                "a file for the recording, in {}: {error}",
                place().display()
            );
            Failure::new(ErrorCode::Failed, error)
        };
        let file = nameless().map_err(failed)?;
        let kept = file.try_clone().map_err(failed)?;
        match self.machine.start_recording(file, kept, &options) {
            Ok(()) => Ok(self.recording()),
            Err(RecordError::Observed) => Err(Failure::conflict(
                "it is being recorded already: stop that first (trace stop), or, if it is the \
                 command line's --trace, wait for its end",
            )),
            Err(error) => Err(Failure::new(ErrorCode::Failed, error.to_string())),
        }
    }

    pub(super) fn stop_recording(&self) -> Result<TraceStatus, Failure> {
        match self.machine.stop_recording() {
            true => Ok(self.recording()),
            false => Err(Failure::conflict(
                "there is no recording that was started by this API",
            )),
        }
    }

    pub(super) fn recorded(&self) -> Result<File, Failure> {
        let failed = |error: io::Error| Failure::new(ErrorCode::Failed, error.to_string());
        let file = self.machine.recorded().map_err(failed)?;
        file.ok_or_else(|| {
            Failure::conflict("there is no recording that was stopped: start one, and stop it")
        })
    }
}

fn place() -> std::path::PathBuf {
    std::env::temp_dir()
}

/// A file that nobody else can open, and that goes when it is closed.
fn nameless() -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    let without_name = options.clone().custom_flags(libc::O_TMPFILE).open(place());
    let unsupported = |error: &io::Error| {
        let errno = error.raw_os_error();
        matches!(errno, Some(libc::EOPNOTSUPP | libc::EISDIR | libc::ENOENT))
    };
    match without_name {
        Err(error) if unsupported(&error) => {
            let name = format!("gracefault-{:016x}", fastrand::u64(..));
            let path = place().join(name);
            let file = options.create_new(true).open(&path)?;
            std::fs::remove_file(&path)?;
            Ok(file)
        }
        opened => opened,
    }
}
