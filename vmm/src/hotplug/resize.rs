//! Resizing: so many bytes are to be plugged, whichever blocks that takes.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::resizing::Resizing;
use super::{HotplugError, HotplugRegion};
use crate::memory::faults::{self, Step};
use crate::mm::Holder;

/// The size of a region, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RegionSize {
    /// What can be plugged at most.
    pub total: u64,
    /// What was asked for last; 0 at first.
    pub requested: u64,
    /// What is plugged.
    pub plugged: u64,
}

/// How a resize goes about it.
#[derive(Clone, Copy, Debug)]
pub struct ResizeOptions {
    /// Take blocks out without asking the guest for them.
    pub forced: bool,
    /// How long the guest may take to give a block back, and readers to leave it,
    /// before the resize fails; and how long it waits for a block to be plugged
    /// that the guest has not finished with.
    pub patience: Duration,
}

impl Default for ResizeOptions {
    /// The guest is asked, and each block may take ten seconds.
    fn default() -> Self {
        Self {
            forced: false,
            patience: Duration::from_secs(10),
        }
    }
}

/// What a resize has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResizeReport {
    /// Blocks it has plugged.
    pub plugged: u32,
    /// Blocks it has unplugged.
    pub unplugged: u32,
    /// Those of them whose memory the host got back, but not the addresses.
    pub unmap_errors: u32,
    /// From the request to its end.
    pub took: Duration,
    /// Waiting for readers to leave, all blocks together.
    pub drained: Duration,
    /// Who was waited for.
    pub holders: Vec<Holder>,
}

/// How far a resize is.
#[derive(Clone, Debug)]
pub enum ResizeState {
    /// The worker is at it, or will be.
    Underway,
    /// As much was plugged as was asked for.
    Done(ResizeReport),
    /// It ended before that.
    Failed(ResizeError),
}

/// Why a resize did not reach its size, or was not seen to. The blocks that it had
/// plugged by then are plugged, and those it had unplugged are not.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResizeError {
    /// The deadline of the wait came first; the resize goes on.
    #[error("the resize goes on: {} of {} bytes are plugged", .size.plugged, .size.requested)]
    TimedOut {
        /// How far it is.
        size: RegionSize,
    },
    /// A newer request took its place.
    #[error("a newer request took the place of this resize")]
    Superseded,
    /// A block could not be plugged or unplugged.
    #[error("the resize ended: {0}")]
    Failed(#[source] Arc<HotplugError>),
    /// The resizer was dropped.
    #[error("the resizer was dropped before the resize was done")]
    Dropped,
}

/// Takes requests for a size, and has a thread carry them out. Dropping it ends
/// the thread, and waits for that: for what it is doing to one block.
#[derive(Debug)]
pub struct Resizer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// A request: to watch, and to wait for.
#[derive(Clone, Debug)]
pub struct Resize {
    shared: Arc<Shared>,
    job: Arc<Job>,
}

#[derive(Debug)]
pub(super) struct Job {
    /// 1 for the first request.
    number: u64,
    pub(super) bytes: u64,
    pub(super) options: ResizeOptions,
    since: Instant,
    /// Changed under the lock on the desk.
    state: Mutex<ResizeState>,
}

pub(super) struct Shared {
    pub(super) region: Arc<HotplugRegion>,
    desk: Mutex<Desk>,
    /// Notified when a job comes or ends.
    changed: Condvar,
    /// The number of the newest job; `u64::MAX` when there will be no more. What
    /// the worker looks at while it waits for the guest.
    newest: AtomicU64,
}

#[derive(Debug, Default)]
struct Desk {
    newest: Option<Arc<Job>>,
    closed: bool,
}

impl Resizer {
    /// Starts the thread. Fails with the system's error if there is none.
    pub fn new(region: Arc<HotplugRegion>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            region,
            desk: Mutex::default(),
            changed: Condvar::new(),
            newest: AtomicU64::new(0),
        });
        let of_thread = shared.clone();
        let builder = thread::Builder::new().name("resize".to_owned());
        faults::check(Step::StartResizer)?;
        let thread = builder.spawn(move || work(&of_thread))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Asks for so many bytes to be plugged, and returns at once. What was asked
    /// for before, and is not done, is given up.
    ///
    /// Fails with [`HotplugError::BadSize`] unless that is a number of blocks that
    /// the region has; then what was asked before goes on.
    pub fn request(&self, bytes: u64, options: ResizeOptions) -> Result<Resize, HotplugError> {
        let shared = self.shared.clone();
        let (block, total) = (shared.region.block_size(), shared.total());
        if !bytes.is_multiple_of(block) || bytes > total {
            return Err(HotplugError::BadSize {
                bytes,
                block,
                total,
            });
        }
        let job = shared.put(bytes, options);
        // The worker may be waiting for the guest.
        shared.region.controller.wake();
        Ok(Resize { shared, job })
    }

    /// Total, requested and plugged, now.
    pub fn size(&self) -> RegionSize {
        self.shared.size()
    }
}

impl Drop for Resizer {
    fn drop(&mut self) {
        self.shared.close();
        self.shared.region.controller.wake();
        if let Some(thread) = self.thread.take() {
            // What it panicked with has been printed, and its job failed.
            let _ = thread.join();
        }
    }
}

impl Resize {
    /// How far it is.
    pub fn state(&self) -> ResizeState {
        self.job.state()
    }

    /// Total, requested (by the newest request) and plugged, now.
    pub fn size(&self) -> RegionSize {
        self.shared.size()
    }

    /// Blocks until it has ended, or until `deadline`. May be called again, and
    /// from several threads.
    pub fn wait(&self, deadline: Instant) -> Result<ResizeReport, ResizeError> {
        let mut desk = self.shared.desk();
        loop {
            match self.job.state() {
                ResizeState::Done(report) => return Ok(report),
                ResizeState::Failed(error) => return Err(error),
                ResizeState::Underway => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(desk);
                let size = self.shared.size();
                return Err(ResizeError::TimedOut { size });
            }
            let waited = self.shared.changed.wait_timeout(desk, left);
            desk = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Job {
    fn state(&self) -> ResizeState {
        self.locked().clone()
    }

    fn locked(&self) -> MutexGuard<'_, ResizeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first end counts.
    fn end(&self, end: Result<ResizeReport, ResizeError>) {
        let mut state = self.locked();
        if let ResizeState::Underway = *state {
            *state = match end {
                Ok(report) => ResizeState::Done(ResizeReport {
                    took: self.since.elapsed(),
                    ..report
                }),
                Err(error) => ResizeState::Failed(error),
            };
        }
    }
}

impl Shared {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        // Nothing that runs under the lock can panic half-way.
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn total(&self) -> u64 {
        u64::from(self.region.blocks()) * self.region.block_size()
    }

    fn size(&self) -> RegionSize {
        let requested = self.desk().newest.as_ref().map_or(0, |job| job.bytes);
        RegionSize {
            total: self.total(),
            requested,
            plugged: self.region.plugged().len() as u64 * self.region.block_size(),
        }
    }

    /// Puts a job on the desk, in the place of the one before.
    fn put(&self, bytes: u64, options: ResizeOptions) -> Arc<Job> {
        let mut desk = self.desk();
        let number = desk.newest.as_ref().map_or(1, |job| job.number + 1);
        let job = Arc::new(Job {
            number,
            bytes,
            options,
            since: Instant::now(),
            state: Mutex::new(ResizeState::Underway),
        });
        if let Some(before) = desk.newest.replace(job.clone()) {
            before.end(Err(ResizeError::Superseded));
        }
        match desk.closed {
            true => job.end(Err(ResizeError::Dropped)),
            false => self.newest.store(number, Ordering::Relaxed),
        }
        drop(desk);
        self.changed.notify_all();
        job
    }

    /// No more jobs; the last one ends here.
    fn close(&self) {
        let mut desk = self.desk();
        desk.closed = true;
        self.newest.store(u64::MAX, Ordering::Relaxed);
        if let Some(job) = &desk.newest {
            job.end(Err(ResizeError::Dropped));
        }
        drop(desk);
        self.changed.notify_all();
    }

    /// Whether there is no more use in going on with this job.
    pub(super) fn is_over(&self, job: &Job) -> bool {
        self.newest.load(Ordering::Relaxed) != job.number
    }

    /// The newest job, once there is one after number `last`; `None` at the end.
    fn next(&self, last: u64) -> Option<Arc<Job>> {
        let mut desk = self.desk();
        loop {
            if desk.closed {
                return None;
            }
            if let Some(job) = desk.newest.as_ref().filter(|job| job.number > last) {
                return Some(job.clone());
            }
            let waited = self.changed.wait(desk);
            desk = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("region", &self.region)
            .field("desk", &self.desk)
            .finish_non_exhaustive()
    }
}

/// The worker. If it panics, no job waits for ever.
fn work(shared: &Shared) {
    struct Closes<'a>(&'a Shared);
    impl Drop for Closes<'_> {
        fn drop(&mut self) {
            self.0.close();
        }
    }
    let _closes = Closes(shared);
    let mut last = 0;
    while let Some(job) = shared.next(last) {
        last = job.number;
        let mut resizing = Resizing::new(shared, &job);
        // Superseded, it has its end already.
        let end = match resizing.run() {
            Ok(()) if shared.is_over(&job) => Err(ResizeError::Superseded),
            Ok(()) => Ok(resizing.report),
            Err(error) => Err(ResizeError::Failed(Arc::new(error))),
        };
        let desk = shared.desk();
        job.end(end);
        drop(desk);
        shared.changed.notify_all();
    }
}
