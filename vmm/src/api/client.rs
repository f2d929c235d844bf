//! A client that blocks.

mod error;
mod wire;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::{Builder, Runtime};

pub use self::error::ClientError;
use super::model::{
    Counters, Exits, Live, MapEntry, Ping, PlugReport, PlugRequest, ResizeRequest, ResizeStatus,
    Sections, TraceRequest, TraceStatus, UnplugReport, UnplugRequest, VcpuInfo, VmInfo, Wait,
};

/// How long an answer may take, beside what the request itself may wait for.
const PATIENCE: Duration = Duration::from_secs(30);

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
