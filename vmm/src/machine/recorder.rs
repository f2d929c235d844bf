//! Who records a machine: from its start on for the command line, or for a while of a
//! run for somebody who steers it.

use std::fs::File;
use std::sync::{MutexGuard, PoisonError};

use super::MachineHandle;
use super::handle::Inner;
use crate::memory::Backing;
use crate::mm::MmapReadGuard;
use crate::trace::event::Space;
use crate::trace::file::Outcome;
use crate::trace::record::{RecordError, RecordOptions, Recording, Written};

/// A recording, and what was before it.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    /// The one that is on.
    pub(super) recording: Option<Recording>,
    /// Whether it is the command line's, so that it goes on to the end.
    for_the_run: bool,
    /// The file of the one that is on, or that was stopped last, if it can be asked for.
    file: Option<File>,
    /// What became of the one that was stopped last.
    stopped: Option<(Written, Option<String>)>,
    /// Events that recordings have lost that are over.
    lost: u64,
}

/// Whether there is a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordingState {
    /// There is none.
    None,
    /// It goes on.
    Recording {
        /// Whether to the end of the run, and for nobody who asks.
        for_the_run: bool,
        /// What it has so far.
        so_far: Written,
    },
    /// It was stopped.
    Stopped {
        /// What it has.
        written: Written,
        /// If it could not be written: why.
        error: Option<String>,
    },
}

impl Inner {
    /// Has both spaces watched from now on.
    pub(super) fn watch(&self) -> Result<(), RecordError> {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if *watched {
            return Ok(());
        }
        let spaces = [
            (&self.shared.memory, &self.monitor),
            (&self.shared.ports, &self.ports_monitor),
        ];
        for (space, monitor) in spaces {
            let observed = space.mm().observe(monitor.clone());
            observed.map_err(|_| RecordError::Observed)?;
        }
        *watched = true;
        Ok(())
    }

    /// Begins to record into `file`, which is empty. `kept` is another handle of it, for
    /// who wants it when the recording is stopped; without one it goes on to the end of
    /// the run.
    pub(super) fn record(
        &self,
        file: File,
        kept: Option<File>,
        options: &RecordOptions,
    ) -> Result<(), RecordError> {
        self.watch()?;
        let _one_at_a_time = self.recording_changes();
        if self.recorder().recording.is_some() {
            return Err(RecordError::Observed);
        }
        // Nothing changes between what the file says was mapped and the first section
        // that it has.
        let _still = self.still();
        let recording = Recording::start(file, options, self.meta(options))?;
        for (monitor, space) in [
            (&self.monitor, Space::Memory),
            (&self.ports_monitor, Space::Ports),
        ] {
            monitor.record(Some(recording.observer(space)));
        }
        self.shared.gate.record(Some(recording.handle()));
        let mut recorder = self.recorder();
        recorder.for_the_run = kept.is_none();
        recorder.file = kept;
        recorder.stopped = None;
        recorder.recording = Some(recording);
        Ok(())
    }

    /// While it is there, no section is open or begins. Blocks while one is.
    fn still(&self) -> [MmapReadGuard<'_, Backing>; 2] {
        [&self.shared.ports, &self.shared.memory].map(|space| {
            let lock = space.mm().mmap_read_lock();
            lock.expect("no section of this thread's")
        })
    }

    /// Held by who starts or stops a recording, while that takes.
    fn recording_changes(&self) -> MutexGuard<'_, ()> {
        let changes = self.recording_changes.lock();
        changes.unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody records any more.
    fn unhook(&self) {
        self.shared.gate.record(None);
        self.monitor.record(None);
        self.ports_monitor.record(None);
    }

    /// Takes the recording that is the run's, which is over.
    pub(super) fn take_recording(&self) -> Option<Recording> {
        let _one_at_a_time = self.recording_changes();
        let mut recorder = self.recorder();
        let recording = recorder.recording.take()?;
        recorder.lost += recording.handle().so_far().lost;
        let for_the_run = recorder.for_the_run;
        drop(recorder);
        self.unhook();
        for_the_run.then_some(recording)
    }
}

impl MachineHandle {
    /// Records each exit and each write section into `file`, which is empty, until it is
    /// [stopped](Self::stop_recording). `kept` is another handle of the file. What was
    /// recorded before, and stopped, is forgotten. Blocks while a write section is open.
    ///
    /// # Errors
    /// See [`RecordError`]; [`RecordError::Observed`] if it is being recorded already.
    pub fn start_recording(
        &self,
        file: File,
        kept: File,
        options: &RecordOptions,
    ) -> Result<(), RecordError> {
        self.0.record(file, Some(kept), options)
    }

    /// Ends the recording that was [started](Self::start_recording). Blocks while a write
    /// section is open, and until it is written. Whether there was one.
    pub fn stop_recording(&self) -> bool {
        let _one_at_a_time = self.0.recording_changes();
        let mut recorder = self.0.recorder();
        let is_ours = !recorder.for_the_run;
        let Some(recording) = recorder.recording.take_if(|_| is_ours) else {
            return false;
        };
        drop(recorder);
        {
            // A section that it does not have is followed by no exit that it has.
            let _still = self.0.still();
            recording.handle().stop();
            self.0.unhook();
        }
        let outcome = Outcome {
            verdict: "recording stopped".to_owned(),
            ..Outcome::default()
        };
        let (written, error) = recording.finish(outcome);
        let mut recorder = self.0.recorder();
        recorder.lost += written.lost;
        recorder.stopped = Some((written, error.map(|error| error.to_string())));
        true
    }

    /// Whether there is a recording.
    pub fn recording(&self) -> RecordingState {
        let recorder = self.0.recorder();
        match (&recorder.recording, &recorder.stopped) {
            (Some(recording), _) => RecordingState::Recording {
                for_the_run: recorder.for_the_run,
                so_far: recording.handle().so_far(),
            },
            (None, Some((written, error))) => RecordingState::Stopped {
                written: *written,
                error: error.clone(),
            },
            (None, None) => RecordingState::None,
        }
    }

    /// The file of the recording that was stopped last.
    ///
    /// # Errors
    /// If the system gives no handle of it.
    pub fn recorded(&self) -> std::io::Result<Option<File>> {
        let recorder = self.0.recorder();
        match (&recorder.recording, &recorder.stopped, &recorder.file) {
            (None, Some(_), Some(file)) => file.try_clone().map(Some),
            _ => Ok(None),
        }
    }

    /// Events that recordings of this machine have lost so far.
    pub fn events_lost(&self) -> u64 {
        let recorder = self.0.recorder();
        let now = recorder.recording.as_ref();
        recorder.lost + now.map_or(0, |recording| recording.handle().so_far().lost)
    }
}
