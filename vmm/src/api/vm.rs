//! What the socket belongs to: a machine, a storm, or a test's stand-in.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::model::{
    Counters, ErrorCode, Exits, Failure, MapEntry, PlugReport, PlugRequest, ResizeRequest,
    ResizeStatus, Sections, TraceRequest, TraceStatus, UnplugReport, UnplugRequest, Unreleased,
    VcpuInfo, VmInfo, Wait,
};

/// What the server serves. The first methods do not block: they take no lock that is held
/// for long. Those that return a `Result` may block, and
/// are called on one of a few threads of their own; but for `resume`, `resize_status` and
/// `trace_data`, which do not block either.
pub trait Vm: Send + Sync + 'static {
    /// See [`VmInfo`].
    fn info(&self) -> VmInfo;

    /// See [`VcpuInfo`].
    fn vcpus(&self) -> Vec<VcpuInfo>;

    /// With so many rows at most.
    fn exits(&self, limit: usize) -> Exits;

    /// See [`Wait`].
    fn waits(&self) -> Vec<Wait>;

    /// See [`Sections`].
    fn sections(&self) -> Sections;

    /// The first `limit` VMAs that end after `from`.
    fn map(&self, from: u64, limit: usize) -> Vec<MapEntry>;

    /// See [`Counters`].
    fn counters(&self) -> Counters;

    /// As OpenMetrics text, without its end.
    fn metrics(&self) -> String;

    /// Now, in nanoseconds since some moment.
    fn now_ns(&self) -> u64;

    /// Asks it to end.
    fn shutdown(&self);

    /// Returns when every vCPU rests.
    fn pause(&self) -> Result<(), Failure>;

    /// Lets them go on.
    fn resume(&self) -> Result<(), Failure>;

    /// How far the last resize is.
    fn resize_status(&self) -> Result<ResizeStatus, Failure>;

    /// Returns when the resize is over, or the request's time is, or `cancel` says so.
    fn resize(&self, request: &ResizeRequest, cancel: &Cancel) -> Result<ResizeStatus, Failure>;

    /// See [`PlugRequest`].
    fn plug(&self, request: &PlugRequest, cancel: &Cancel) -> Result<PlugReport, Failure>;

    /// See [`UnplugRequest`].
    fn unplug(&self, request: &UnplugRequest, cancel: &Cancel) -> Result<UnplugReport, Failure>;

    /// Whether it is being recorded.
    fn trace_status(&self) -> TraceStatus;

    /// Records from now on.
    fn trace_start(&self, request: &TraceRequest) -> Result<TraceStatus, Failure>;

    /// Ends the recording.
    fn trace_stop(&self) -> Result<TraceStatus, Failure>;

    /// The recording, which is stopped.
    fn trace_data(&self) -> Result<File, Failure>;

    /// Has each call that waits look whether it is cancelled.
    fn wake(&self);
}

/// That nobody waits for the outcome any more.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Whether that is so.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// It is.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Failure {
    /// A refusal.
    pub fn new(code: ErrorCode, error: impl Into<String>) -> Self {
        Self {
            code,
            error: error.into(),
            unreleased: None,
        }
    }

    /// It is no such request.
    pub fn bad(error: impl Into<String>) -> Self {
        Self::new(ErrorCode::BadRequest, error)
    }

    /// Not now.
    pub fn conflict(error: impl Into<String>) -> Self {
        Self::new(ErrorCode::Conflict, error)
    }

    /// Somebody did not let go.
    pub fn not_released(error: impl Into<String>, who: Unreleased) -> Self {
        Self {
            unreleased: Some(who),
            ..Self::new(ErrorCode::NotReleased, error)
        }
    }

    /// The HTTP status that goes with it.
    pub fn status(&self) -> u16 {
        match self.code {
            ErrorCode::BadRequest => 400,
            ErrorCode::NotFound => 404,
            ErrorCode::MethodNotAllowed => 405,
            ErrorCode::Timeout => 408,
            ErrorCode::Conflict | ErrorCode::NotSupported | ErrorCode::NotReleased => 409,
            ErrorCode::TooLarge => 413,
            ErrorCode::TooMany => 429,
            ErrorCode::Failed => 500,
        }
    }
}
