//! A client that blocks.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use super::model::{
    Counters, Exits, Failure, Live, MapEntry, Ping, PlugReport, PlugRequest, ResizeRequest,
    ResizeStatus, Sections, TraceRequest, TraceStatus, UnplugReport, UnplugRequest, VcpuInfo,
    VmInfo, Wait,
};

/// What every path begins with.
const BASE: &str = "/api/v1/";

/// The longest answer that is taken for JSON.
const LONGEST: usize = 64 << 20;

/// How long an answer may take, beside what the request itself may wait for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody is at the socket, or takes no more connections there.
    #[error("{path}: {source}{}", hint(.source))]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The VM refused, or failed.
    #[error("{}", .failure.error)]
    Refused {
        /// The HTTP status.
        status: u16,
        /// Why.
        failure: Box<Failure>,
    },
    /// What came back is no answer of this API.
    #[error("{path}: no answer of this API: {what}")]
    Garbled {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The VM went away before it had answered.
    #[error("{path}: the connection ended before the answer: {source}")]
    Gone {
        /// The socket.
        path: PathBuf,
        /// How it ended.
        source: hyper::Error,
    },
    /// It takes too long.
    #[error("{path}: no answer within {after:?}; is the process stopped?")]
    TimedOut {
        /// The socket.
        path: PathBuf,
        /// How long was waited.
        after: Duration,
    },
    /// The client's own trouble: no runtime, or nowhere to write to.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl ClientError {
    /// Whether the VM has ended, or never was there: nobody is at the socket. A
    /// connection that ends ([`ClientError::Gone`]) does not say that, since a VM that has
    /// too many of them closes some; whoever asks again learns it.
    pub fn is_gone(&self) -> bool {
        let Self::Connect { source, .. } = self else {
            return false;
        };
        matches!(
            source.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
        )
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            "; is a VM running with --api-socket, and this its path?"
        }
        io::ErrorKind::WouldBlock => "; too many wait there already: is the process stopped?",
        io::ErrorKind::PermissionDenied => "; the socket is its owner's alone",
        _ => "",
    }
}

/// Asks a VM by its socket. Each call makes a connection of its own, and blocks until
/// the answer is there or does not come in time (30 s, and besides as long as the request
/// itself says that it may wait).
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    patience: Duration,
    runtime: Runtime,
}

impl Client {
    /// One for the socket at `path`. Connects only when it is asked something.
    ///
    /// # Errors
    /// If the system gives no event queue.
    pub fn new(path: impl Into<PathBuf>) -> io::Result<Self> {
        Ok(Self {
            path: path.into(),
            patience: PATIENCE,
            runtime: Builder::new_current_thread().enable_all().build()?,
        })
    }

    /// The same, with another time for each answer to come.
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `GET /vmm.ping`.
    ///
    /// # Errors
    /// See [`ClientError`], as for all that follow.
    pub fn ping(&self) -> Result<Ping, ClientError> {
        self.get("vmm.ping")
    }

    /// `GET /vm.info`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn info(&self) -> Result<VmInfo, ClientError> {
        self.get("vm.info")
    }

    /// `GET /vm.live`: everything at once, with `limit` rows of exits at most (the VM
    /// has 256 if not told, and gives 4096 at most).
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn live(&self, limit: Option<u32>) -> Result<Live, ClientError> {
        self.get(&limited("vm.live", limit))
    }

    /// `GET /vm.vcpus`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn vcpus(&self) -> Result<Vec<VcpuInfo>, ClientError> {
        self.get("vm.vcpus")
    }

    /// `GET /vm.exits`, with `limit` rows at most.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn exits(&self, limit: Option<u32>) -> Result<Exits, ClientError> {
        self.get(&limited("vm.exits", limit))
    }

    /// `GET /vm.waits`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn waits(&self) -> Result<Vec<Wait>, ClientError> {
        self.get("vm.waits")
    }

    /// `GET /vm.sections`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn sections(&self) -> Result<Sections, ClientError> {
        self.get("vm.sections")
    }

    /// `GET /vm.map`, as often as it takes to have all of it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn map(&self) -> Result<Vec<MapEntry>, ClientError> {
        const LIMIT: usize = 16384;
        let mut all: Vec<MapEntry> = Vec::new();
        let mut from = 0;
        loop {
            let path = format!("vm.map?limit={LIMIT}&from={from}");
            let part: Vec<MapEntry> = self.get(&path)?;
            let is_last = part.len() < LIMIT;
            all.extend(part);
            match all
                .last()
                .and_then(|last| last.start.checked_add(last.size))
            {
                Some(end) if !is_last => from = end,
                _ => return Ok(all),
            }
        }
    }

    /// `GET /vm.counters`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn counters(&self) -> Result<Counters, ClientError> {
        self.get("vm.counters")
    }

    /// `GET /vm.metrics`: OpenMetrics text.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn metrics(&self) -> Result<String, ClientError> {
        let bytes = self.ask(Method::GET, "vm.metrics", None, Duration::ZERO)?;
        String::from_utf8(bytes).map_err(|_| self.garbled("metrics that are no UTF-8"))
    }

    /// `PUT /vm.pause`: returns when every vCPU is out of the guest.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn pause(&self) -> Result<(), ClientError> {
        self.put_nothing("vm.pause")
    }

    /// `PUT /vm.resume`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn resume(&self) -> Result<(), ClientError> {
        self.put_nothing("vm.resume")
    }

    /// `PUT /vm.shutdown`: returns when the VM has been told to end.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn shutdown(&self) -> Result<(), ClientError> {
        self.put_nothing("vm.shutdown")
    }

    /// `GET /vm.resize`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn resize_status(&self) -> Result<ResizeStatus, ClientError> {
        self.get("vm.resize")
    }

    /// `PUT /vm.resize`. Whether it is over is in the answer's state.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn resize(&self, request: &ResizeRequest) -> Result<ResizeStatus, ClientError> {
        self.put("vm.resize", request, request.wait_ms.unwrap_or(0))
    }

    /// `PUT /vm.plug`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn plug(&self, request: &PlugRequest) -> Result<PlugReport, ClientError> {
        self.put("vm.plug", request, 0)
    }

    /// `PUT /vm.unplug`.
    ///
    /// # Errors
    /// See [`ClientError`]; [`ClientError::Refused`] tells who did not let go.
    pub fn unplug(&self, request: &UnplugRequest) -> Result<UnplugReport, ClientError> {
        let deadline = request.deadline_ms.unwrap_or(10_000);
        self.put("vm.unplug", request, deadline)
    }

    /// `GET /vm.trace`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn trace_status(&self) -> Result<TraceStatus, ClientError> {
        self.get("vm.trace")
    }

    /// `PUT /vm.trace-start`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn trace_start(&self, request: &TraceRequest) -> Result<TraceStatus, ClientError> {
        self.put("vm.trace-start", request, 0)
    }

    /// `PUT /vm.trace-stop`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn trace_stop(&self) -> Result<TraceStatus, ClientError> {
        let body = self.ask(Method::PUT, "vm.trace-stop", None, Duration::ZERO)?;
        self.parsed(&body)
    }

    /// `GET /vm.trace-data`: writes the recording, which is stopped, to `out`; how many
    /// bytes.
    ///
    /// # Errors
    /// See [`ClientError`]. Part of it may have been written then.
    pub fn trace_fetch(&self, out: &mut dyn Write) -> Result<u64, ClientError> {
        self.runtime.block_on(async {
            let response = self
                .in_time(
                    self.sent(Method::GET, "vm.trace-data", None),
                    Duration::ZERO,
                )
                .await?;
            let status = response.status();
            let mut body = response.into_body();
            if status != StatusCode::OK {
                let bytes = self.in_time(self.gathered(body), Duration::ZERO).await?;
                return Err(self.refusal(status, &bytes));
            }
            let mut written = 0;
            loop {
                let frame = self.in_time(self.frame(&mut body), Duration::ZERO).await?;
                let Some(bytes) = frame else {
                    return Ok(written);
                };
                out.write_all(&bytes)?;
                written += bytes.len() as u64;
            }
        })
    }

    /// Once more if the connection ends, which tells a VM that has ended from one that has
    /// too many connections.
    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let ask = || self.ask(Method::GET, path, None, Duration::ZERO);
        let body = match ask() {
            Err(ClientError::Gone { .. }) => ask()?,
            answer => answer?,
        };
        self.parsed(&body)
    }

    fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        request: &impl Serialize,
        wait_ms: u64,
    ) -> Result<T, ClientError> {
        let json = serde_json::to_vec(request).map_err(io::Error::other)?;
        let wait = Duration::from_millis(wait_ms);
        let body = self.ask(Method::PUT, path, Some(json), wait)?;
        self.parsed(&body)
    }

    fn put_nothing(&self, path: &str) -> Result<(), ClientError> {
        self.ask(Method::PUT, path, None, Duration::ZERO).map(drop)
    }

    fn parsed<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(body).map_err(|error| self.garbled(&error.to_string()))
    }

    fn garbled(&self, what: &str) -> ClientError {
        ClientError::Garbled {
            path: self.path.clone(),
            what: what.to_owned(),
        }
    }

    fn refusal(&self, status: StatusCode, body: &[u8]) -> ClientError {
        match serde_json::from_slice(body) {
            Ok(failure) => ClientError::Refused {
                status: status.as_u16(),
                failure: Box::new(failure),
            },
            Err(_) => self.garbled(&format!("status {status} without a reason")),
        }
    }

    /// The body of the answer, which is one of the good ones.
    fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        wait: Duration,
    ) -> Result<Vec<u8>, ClientError> {
        self.runtime.block_on(async {
            let answer = async {
                let response = self.sent(method, path, body).await?;
                let status = response.status();
                Ok((status, self.gathered(response.into_body()).await?))
            };
            let (status, body) = self.in_time(answer, wait).await?;
            match status.is_success() {
                true => Ok(body),
                false => Err(self.refusal(status, &body)),
            }
        })
    }

    async fn in_time<T>(
        &self,
        answer: impl Future<Output = Result<T, ClientError>>,
        wait: Duration,
    ) -> Result<T, ClientError> {
        let after = self.patience.saturating_add(wait);
        let timed_out = |_| ClientError::TimedOut {
            path: self.path.clone(),
            after,
        };
        timeout(after, answer).await.map_err(timed_out)?
    }

    /// Connects, and sends the request.
    async fn sent(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Response<Incoming>, ClientError> {
        let connect = |source| ClientError::Connect {
            path: self.path.clone(),
            source,
        };
        let stream = UnixStream::connect(&self.path).await.map_err(connect)?;
        let gone = |source| self.gone(source);
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(gone)?;
        // Ends with the answer, or with the runtime.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(format!("{BASE}{path}"))
            .header(hyper::header::HOST, "localhost")
            .header(hyper::header::CONTENT_TYPE, "application/json")
            // One request a connection: so it ends with the answer.
            .header(hyper::header::CONNECTION, "close")
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(io::Error::other)?;
        sender.send_request(request).await.map_err(gone)
    }

    async fn gathered(&self, mut body: Incoming) -> Result<Vec<u8>, ClientError> {
        let mut all = Vec::new();
        while let Some(bytes) = self.frame(&mut body).await? {
            if all.len() + bytes.len() > LONGEST {
                return Err(self.garbled("an answer that is too long"));
            }
            all.extend(bytes);
        }
        Ok(all)
    }

    async fn frame(&self, body: &mut Incoming) -> Result<Option<Bytes>, ClientError> {
        while let Some(frame) = body.frame().await {
            if let Ok(bytes) = frame.map_err(|source| self.gone(source))?.into_data() {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    fn gone(&self, source: hyper::Error) -> ClientError {
        ClientError::Gone {
            path: self.path.clone(),
            source,
        }
    }
}

fn limited(path: &str, limit: Option<u32>) -> String {
    match limit {
        Some(limit) => format!("{path}?limit={limit}"),
        None => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::super::server::full;
    use super::*;

    #[test]
    fn one_that_takes_nobody_is_not_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let client = Client::new(&path).unwrap();
        assert!(client.ping().unwrap_err().is_gone(), "not there yet");
        let there = full(&path);
        let error = client.ping().unwrap_err();
        assert!(matches!(error, ClientError::Connect { .. }), "{error:?}");
        assert!(!error.is_gone(), "{error}");
        assert!(error.to_string().contains("stopped"), "{error}");
        drop(there);
        assert!(client.ping().unwrap_err().is_gone(), "nobody's any more");
    }

    #[test]
    fn one_that_closes_unanswered_is_asked_once_more_and_not_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let answers = [false, true, false, false, false];
        let server = thread::spawn(move || {
            for is_answered in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    request.extend(byte);
                }
                if is_answered {
                    let head = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]";
                    stream.write_all(head.as_bytes()).unwrap();
                }
            }
        });
        let client = Client::new(&path).unwrap();
        assert_eq!(client.waits().unwrap().len(), 0);
        let error = client.waits().unwrap_err();
        assert!(matches!(error, ClientError::Gone { .. }), "{error:?}");
        assert!(!error.is_gone(), "{error}");
        // What changes something may have been done.
        let error = client.pause().unwrap_err();
        assert!(matches!(error, ClientError::Gone { .. }), "{error:?}");
        server.join().unwrap();
        assert!(client.waits().unwrap_err().is_gone());
    }
}
