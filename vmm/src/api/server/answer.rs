//! From a request to its answer.

use std::fmt::Display;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::Poll;

use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response, StatusCode};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::super::model::{
    ErrorCode, Failure, Live, Ping, PlugRequest, ResizeRequest, ResizeState, TraceRequest,
    UnplugRequest,
};
use super::super::{Cancel, Vm};
use super::asking::Asking;
use super::body::{Sent, expect_nothing, gather, parse};
use super::routes::{Call, Query, VMAS, find};

/// Requests that wait, at once.
const WORKERS: usize = 8;
/// Looks that take a while, at once: others wait for their turn.
const LOOKS: usize = 2;
/// Threads for both.
pub(super) const THREADS: usize = WORKERS + LOOKS;

const JSON: &str = "application/json";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const BYTES: &str = "application/octet-stream";

/// What all connections share.
pub(super) struct Server {
    vm: Arc<dyn Vm>,
    /// Places for requests that wait.
    places: Arc<Semaphore>,
    /// Places for looks that take a while.
    looks: Arc<Semaphore>,
    /// The requests that wait.
    waiting: Mutex<Vec<Weak<Cancels>>>,
}

type Answer = Response<Sent>;

impl Server {
    pub(super) fn new(vm: Arc<dyn Vm>) -> Self {
        Self {
            vm,
            places: Arc::new(Semaphore::new(WORKERS)),
            looks: Arc::new(Semaphore::new(LOOKS)),
            waiting: Mutex::default(),
        }
    }

    /// Answers a request, whatever it is. Its connection is busy only when all of it is
    /// there: one whose body does not come is as idle as any.
    pub(super) async fn answer(&self, request: Request<Incoming>, asking: &Asking) -> Answer {
        let (head, body) = request.into_parts();
        let call = match find(&head.method, head.uri.path()) {
            Ok(call) => call,
            Err((failure, allowed)) => {
                let mut answer = refused(&failure);
                let allowed = allowed.map(HeaderValue::try_from);
                if let Some(Ok(allowed)) = allowed {
                    answer.headers_mut().insert(ALLOW, allowed);
                }
                return answer;
            }
        };
        let answer = async {
            let query = Query::parse(call, head.uri.query())?;
            let body = gather(body).await?;
            match call {
                Call::Plug | Call::Unplug | Call::Resize | Call::TraceStart => {}
                _ => expect_nothing(&body)?,
            }
            let _busy = asking.busy();
            match call {
                Call::Pause
                | Call::Resize
                | Call::Plug
                | Call::Unplug
                | Call::TraceStart
                | Call::TraceStop => self.wait_for(call, body.to_vec(), asking).await,
                Call::Live
                | Call::Vcpus
                | Call::Exits
                | Call::Map
                | Call::Counters
                | Call::Metrics => self.look(call, query).await,
                _ => caught(|| at_once(&*self.vm, call, query)),
            }
        };
        answer.await.unwrap_or_else(|failure| refused(&failure))
    }

    /// What does not block, but may have much to add up: on another thread, when it is
    /// its turn.
    async fn look(&self, call: Call, query: Query) -> Result<Answer, Failure> {
        let ended = || Failure::new(ErrorCode::Failed, "the server ends");
        let turn = self.looks.clone().acquire_owned().await;
        let turn = turn.map_err(|_| ended())?;
        let vm = self.vm.clone();
        let work = move || {
            let _turn: OwnedSemaphorePermit = turn;
            caught(|| at_once(&*vm, call, query))
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|_| ended())?
    }

    /// What may block, on a thread of its own, if there is one. Whoever drops this
    /// cancels it, and so does a client that goes away.
    async fn wait_for(
        &self,
        call: Call,
        body: Vec<u8>,
        asking: &Asking,
    ) -> Result<Answer, Failure> {
        let busy = |_| {
            let error = "too many requests wait already; try again when one of them is answered";
            Failure::new(ErrorCode::TooMany, error)
        };
        let place = self.places.clone().try_acquire_owned().map_err(busy)?;
        let vm = self.vm.clone();
        let cancels = Arc::new(Cancels {
            cancel: Cancel::default(),
            vm: vm.clone(),
        });
        self.remember(&cancels);
        let cancel = cancels.cancel.clone();
        let work = move || {
            let _place: OwnedSemaphorePermit = place;
            caught(|| blocking(&*vm, call, &body, &cancel))
        };
        let mut done = tokio::task::spawn_blocking(work);
        let mut gone = pin!(asking.has_gone());
        let ended = poll_fn(|context| {
            if let Poll::Ready(done) = Pin::new(&mut done).poll(context) {
                return Poll::Ready(Some(done));
            }
            gone.as_mut().poll(context).map(|()| None)
        });
        let ended = ended.await;
        drop(cancels);
        let given_up = |why: &dyn Display| {
            let error = format!("the request was given up: {why}");
            Err(Failure::new(ErrorCode::Failed, error))
        };
        match ended {
            Some(done) => done.unwrap_or_else(|error| given_up(&error)),
            // For nobody.
            None => given_up(&"its client is gone"),
        }
    }

    fn remember(&self, cancels: &Arc<Cancels>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|other| other.strong_count() > 0);
        waiting.push(Arc::downgrade(cancels));
    }

    /// No request waits on.
    pub(super) fn cancel_all(&self) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for cancels in waiting.iter().filter_map(Weak::upgrade) {
            cancels.cancel.cancel();
        }
        drop(waiting);
        self.vm.wake();
    }
}

/// Cancels a request when it is dropped: its client is gone, or it is over.
struct Cancels {
    cancel: Cancel,
    vm: Arc<dyn Vm>,
}

impl Drop for Cancels {
    fn drop(&mut self) {
        self.cancel.cancel();
        self.vm.wake();
    }
}

/// What does not block.
fn at_once(vm: &dyn Vm, call: Call, query: Query) -> Result<Answer, Failure> {
    match call {
        Call::Ping => json(&Ping {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
        }),
        Call::Info => json(&vm.info()),
        Call::Live => json(&Live {
            now_ns: vm.now_ns(),
            info: vm.info(),
            vcpus: vm.vcpus(),
            exits: vm.exits(query.limit),
            waits: vm.waits(),
            sections: vm.sections(),
            counters: vm.counters(),
            map: vm.map(0, VMAS.0 as usize),
        }),
        Call::Vcpus => json(&vm.vcpus()),
        Call::Exits => json(&vm.exits(query.limit)),
        Call::Waits => json(&vm.waits()),
        Call::Sections => json(&vm.sections()),
        Call::Map => json(&vm.map(query.from, query.limit)),
        Call::Counters => json(&vm.counters()),
        Call::Metrics => {
            let text = vm.metrics() + "# EOF\n";
            Ok(with(StatusCode::OK, OPENMETRICS, Sent::bytes(text)))
        }
        Call::Resume => vm.resume().map(|()| nothing()),
        Call::Shutdown => {
            vm.shutdown();
            Ok(nothing())
        }
        Call::ResizeStatus => json(&vm.resize_status()?),
        Call::TraceStatus => json(&vm.trace_status()),
        Call::TraceData => {
            let file = vm.trace_data()?;
            let len = file.metadata().map_err(|error| {
                Failure::new(ErrorCode::Failed, format!("the recording: {error}"))
            })?;
            let (at, len) = (0, len.len());
            let sent = Sent::File { file, at, len };
            Ok(with(StatusCode::OK, BYTES, sent))
        }
        _ => unreachable!("the caller has it wait"),
    }
}

fn blocking(vm: &dyn Vm, call: Call, body: &[u8], cancel: &Cancel) -> Result<Answer, Failure> {
    match call {
        Call::Pause => vm.pause().map(|()| nothing()),
        Call::Plug => {
            let request: PlugRequest = parse(body)?;
            request.check().map_err(Failure::bad)?;
            json(&vm.plug(&request, cancel)?)
        }
        Call::Unplug => {
            let request: UnplugRequest = parse(body)?;
            request.check().map_err(Failure::bad)?;
            json(&vm.unplug(&request, cancel)?)
        }
        Call::Resize => {
            let request: ResizeRequest = parse(body)?;
            request.check().map_err(Failure::bad)?;
            let status = vm.resize(&request, cancel)?;
            let mut answer = json(&status)?;
            if status.state == ResizeState::Underway {
                *answer.status_mut() = StatusCode::ACCEPTED;
            }
            Ok(answer)
        }
        Call::TraceStart => {
            let request: TraceRequest = match body.trim_ascii() {
                b"" => TraceRequest::default(),
                body => parse(body)?,
            };
            request.check().map_err(Failure::bad)?;
            json(&vm.trace_start(&request)?)
        }
        Call::TraceStop => json(&vm.trace_stop()?),
        _ => unreachable!("the caller has it answered at once"),
    }
}

/// A bug of ours is told to the client, and ends nobody else.
fn caught(answer: impl FnOnce() -> Result<Answer, Failure>) -> Result<Answer, Failure> {
    catch_unwind(AssertUnwindSafe(answer)).unwrap_or_else(|_| {
        let error = "answering this has panicked, which is a bug; stderr says where";
        Err(Failure::new(ErrorCode::Failed, error))
    })
}

fn with(status: StatusCode, kind: &'static str, body: Sent) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let kind = HeaderValue::from_static(kind);
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}

fn nothing() -> Answer {
    let mut answer = Response::new(Sent::Bytes(None));
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer
}

fn json(value: &impl Serialize) -> Result<Answer, Failure> {
    match serde_json::to_vec(value) {
        Ok(bytes) => Ok(with(StatusCode::OK, JSON, Sent::bytes(bytes))),
        Err(error) => {
            let error = format!("the answer as JSON: {error}");
            Err(Failure::new(ErrorCode::Failed, error))
        }
    }
}

fn refused(failure: &Failure) -> Answer {
    let status = StatusCode::from_u16(failure.status());
    let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    // Of strings and numbers.
    let bytes = serde_json::to_vec(failure).unwrap_or_default();
    with(status, JSON, Sent::bytes(bytes))
}
