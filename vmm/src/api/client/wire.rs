//! A request and its answer, on a connection of their own.

use std::io;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::{Client, ClientError};

/// What every path begins with.
const BASE: &str = "/api/v1/";

/// The longest answer that is taken for JSON.
const LONGEST: usize = 64 << 20;

impl Client {
    pub(super) fn parsed<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(body).map_err(|error| self.garbled(&error.to_string()))
    }

    pub(super) fn garbled(&self, what: &str) -> ClientError {
        ClientError::Garbled {
            path: self.path.clone(),
            what: what.to_owned(),
        }
    }

    pub(super) fn refusal(&self, status: StatusCode, body: &[u8]) -> ClientError {
        match serde_json::from_slice(body) {
            Ok(failure) => ClientError::Refused {
                status: status.as_u16(),
                failure: Box::new(failure),
            },
            Err(_) => self.garbled(&format!("status {status} without a reason")),
        }
    }

    /// The body of the answer, which is one of the good ones.
    pub(super) fn ask(
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

    pub(super) async fn in_time<T>(
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
    pub(super) async fn sent(
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

    pub(super) async fn gathered(&self, mut body: Incoming) -> Result<Vec<u8>, ClientError> {
        let mut all = Vec::new();
        while let Some(bytes) = self.frame(&mut body).await? {
            if all.len() + bytes.len() > LONGEST {
                return Err(self.garbled("an answer that is too long"));
            }
            all.extend(bytes);
        }
        Ok(all)
    }

    pub(super) async fn frame(&self, body: &mut Incoming) -> Result<Option<Bytes>, ClientError> {
        while let Some(frame) = body.frame().await {
            if let Ok(bytes) = frame.map_err(|source| self.gone(source))?.into_data() {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    pub(super) fn gone(&self, source: hyper::Error) -> ClientError {
        ClientError::Gone {
            path: self.path.clone(),
            source,
        }
    }
}
