//! The thread that writes the file.

use std::fs::File;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::super::event::Space;
use super::super::file::{BlockOf, Meta, Outcome, Output, ThreadEnd, Threads};
use super::ring::{Consumer, Who};
use super::threads::Shared;
use super::{RecordOptions, SpaceObserver, VcpuRecorder};
use crate::clock::Anchor;

/// How often the rings are emptied: what a crash costs.
const PERIOD: Duration = Duration::from_millis(5);

/// Records in a block, at most.
const BLOCK: u64 = 1024;

/// Blocks of one ring in a row, while it may still fill.
const MOST_BLOCKS: u32 = 64;

/// Records in all rings of vCPUs together, about, and the most and fewest in one: 80
/// bytes each.
const RINGS: usize = 1 << 19;
const RING: (usize, usize) = (1 << 10, 1 << 14);

/// Why nothing, or not all, was recorded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The file is to be smaller than anything useful.
    #[error("a trace of {size} bytes holds nothing useful: give it at least {least} (--size)")]
    TooSmall {
        /// What was asked for.
        size: u64,
        /// The least that may be.
        least: u64,
    },
    /// The file could not be written.
    #[error("writing the trace: {0}")]
    Io(#[from] io::Error),
    /// There is no thread to write it.
    #[error("no thread could be started to write the trace: {0}")]
    NoThread(io::Error),
    /// Somebody else observes the space.
    #[error("somebody else observes the space already")]
    Observed,
}

/// A recording that is on. [Finished](Self::finish), the file is complete; dropped, it
/// has all events, but no word about how the run ended.
#[derive(Debug)]
pub struct Recording {
    shared: Arc<Shared>,
    stop: Arc<Stop>,
    thread: Option<JoinHandle<(Written, io::Result<()>)>>,
}

/// What became of the events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Events that were written to the file. (Where it overwrites, they need not be
    /// there any more.)
    pub events: u64,
    /// Events that were lost in a ring, or for which the file had no room.
    pub lost: u64,
}

#[derive(Debug, Default)]
struct Stop {
    asked: Mutex<Option<Option<Outcome>>>,
    changed: Condvar,
}

impl Recording {
    /// Begins to record into `file`, which is empty.
    ///
    /// # Errors
    /// See [`RecordError`].
    pub fn start(file: File, options: &RecordOptions, meta: Meta) -> Result<Self, RecordError> {
        let (size, least) = (options.size, RecordOptions::MIN_SIZE);
        if size < least {
            return Err(RecordError::TooSmall { size, least });
        }
        let share = RINGS / (meta.machine.vcpus as usize).max(1);
        let usual = share.clamp(RING.0, RING.1).next_power_of_two();
        let ring = options.ring.unwrap_or(usual);
        let shared = Arc::new(Shared::new(options.events, ring, options.on_full));
        let output = Output::create(file, &meta, size, options.on_full)?;
        let mut rings = Rings {
            shared: shared.clone(),
            output,
            rings: Vec::new(),
            threads: Threads::default(),
            buffer: Vec::new(),
        };
        let stop = Arc::new(Stop::default());
        let of_thread = stop.clone();
        let thread = thread::Builder::new()
            .name("trace".to_owned())
            .spawn(move || rings.run(&of_thread))
            .map_err(RecordError::NoThread)?;
        Ok(Self {
            shared,
            stop,
            thread: Some(thread),
        })
    }

    /// What threads that record need of it.
    pub fn handle(&self) -> RecordingHandle {
        RecordingHandle(self.shared.clone())
    }

    /// Who records the exits of a vCPU.
    pub fn vcpu(&self, vcpu: u32) -> VcpuRecorder {
        self.handle().vcpu(vcpu)
    }

    /// Who records the write sections of a space.
    pub fn observer(&self, space: Space) -> Arc<SpaceObserver> {
        self.handle().observer(space)
    }

    /// Ends it, with how the run ended. Blocks until all is written. Events that are
    /// under way may be left out: end what makes them first.
    ///
    /// Also returns the first error in writing the file.
    pub fn finish(mut self, outcome: Outcome) -> (Written, Option<RecordError>) {
        let (written, result) = self.end(Some(outcome));
        (written, result.err().map(RecordError::Io))
    }

    fn end(&mut self, outcome: Option<Outcome>) -> (Written, io::Result<()>) {
        let Some(thread) = self.thread.take() else {
            return (Written::default(), Ok(()));
        };
        self.shared.stop();
        let asked = self.stop.asked.lock();
        *asked.unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        self.stop.changed.notify_one();
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// What threads that record need of a recording. Once that is finished, nothing is
/// recorded by it any more.
#[derive(Clone, Debug)]
pub struct RecordingHandle(Arc<Shared>);

impl RecordingHandle {
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.0
    }

    /// Who records the exits of a vCPU.
    pub fn vcpu(&self, vcpu: u32) -> VcpuRecorder {
        let vcpu = u16::try_from(vcpu).unwrap_or(u16::MAX);
        VcpuRecorder::new(self.0.clone(), vcpu)
    }

    /// Who records the write sections of a space.
    pub fn observer(&self, space: Space) -> Arc<SpaceObserver> {
        Arc::new(SpaceObserver::new(self.0.clone(), space))
    }

    /// Nothing more is recorded: by no exit or section whose event is not being recorded
    /// at this moment.
    pub(crate) fn stop(&self) {
        self.0.stop();
    }

    /// What has been written and lost, as of a few milliseconds ago.
    pub fn so_far(&self) -> Written {
        self.0.so_far()
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if let Err(error) = self.end(None).1 {
            log::error!("writing the trace: {error}");
        }
    }
}

/// What the writer's thread has.
struct Rings {
    shared: Arc<Shared>,
    output: Output,
    rings: Vec<OneRing>,
    threads: Threads,
    buffer: Vec<u8>,
}

struct OneRing {
    consumer: Consumer,
    /// Its place in the file's list of threads.
    thread: usize,
    over: bool,
}

impl Rings {
    fn run(&mut self, stop: &Stop) -> (Written, io::Result<()>) {
        let mut failed = None;
        loop {
            let asked = stop.asked.lock().unwrap_or_else(PoisonError::into_inner);
            let (mut asked, _) = stop
                .changed
                .wait_timeout_while(asked, PERIOD, |asked| asked.is_none())
                .unwrap_or_else(PoisonError::into_inner);
            let outcome = asked.take();
            drop(asked);
            // A disk that is full now may have room later; the gap is counted.
            failed = self.empty().err().or(failed);
            self.shared.tell(self.threads.written());
            if let Some(outcome) = outcome {
                let end = self.output.end(&self.threads, outcome);
                return (self.threads.written(), failed.map_or(end, Err));
            }
        }
    }

    /// Writes what is in the rings.
    fn empty(&mut self) -> io::Result<()> {
        for (who, consumer) in self.shared.take_new() {
            let Who { tid, name, vcpu } = who;
            let thread = self.threads.add(ThreadEnd::new(tid, name, vcpu));
            self.rings.push(OneRing {
                consumer,
                thread,
                over: false,
            });
        }
        let mut result = Ok(());
        for ring in &mut self.rings {
            // Before the last look, so that nothing comes after it.
            ring.over = ring.consumer.is_closed();
            // One that fills faster than this empties must not keep the others waiting.
            let mut blocks = 0..MOST_BLOCKS;
            while ring.over || blocks.next().is_some() {
                self.buffer.clear();
                let records = ring.consumer.take(BLOCK, &mut self.buffer);
                let thread = &mut self.threads[ring.thread];
                thread.lost = ring.consumer.lost();
                if records == 0 {
                    break;
                }
                let block = BlockOf {
                    thread,
                    index: ring.thread as u32,
                    anchor: Anchor::now(),
                };
                match self.output.records(&block, &self.buffer) {
                    Ok(true) => thread.written += records,
                    Ok(false) => thread.not_written += records,
                    Err(error) => {
                        thread.not_written += records;
                        result = Err(error);
                    }
                }
            }
        }
        self.rings.retain(|ring| !ring.over);
        result
    }
}
