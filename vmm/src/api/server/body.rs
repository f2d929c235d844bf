//! Bodies: what a client sends, bounded; what it gets.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use serde::de::DeserializeOwned;

use super::super::model::{ErrorCode, Failure};

/// Bytes of a request's body.
const MOST: usize = 64 << 10;
/// How long it may take to come.
const TIME: Duration = Duration::from_secs(10);
/// Bytes of a file that are sent at once.
const CHUNK: u64 = 64 << 10;

/// All of a request's body.
pub(super) async fn gather(body: Incoming) -> Result<Bytes, Failure> {
    let too_large = || {
        let error = format!("the body is longer than {MOST} bytes");
        Failure::new(ErrorCode::TooLarge, error)
    };
    if body.size_hint().lower() > MOST as u64 {
        return Err(too_large());
    }
    let all = async move {
        let (mut body, mut all) = (body, Vec::new());
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Failure::bad(format!("the body: {error}")))?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            if all.len() + data.len() > MOST {
                return Err(too_large());
            }
            all.extend_from_slice(&data);
        }
        Ok(all.into())
    };
    tokio::time::timeout(TIME, all).await.unwrap_or_else(|_| {
        let error = format!("the body did not come within {TIME:?}");
        Err(Failure::new(ErrorCode::Timeout, error))
    })
}

/// A request's body, which is JSON.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    if body.is_empty() {
        return Err(Failure::bad(
            "the body is empty: send a JSON object (curl -d '{...}'); see docs/api.md",
        ));
    }
    // An array of the fields' values would do for the parser.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(Failure::bad("the body is no JSON object"));
    }
    let bad = |error| Failure::bad(format!("the body is no such request: {error}"));
    serde_json::from_slice(body).map_err(bad)
}

/// A request's body where none is needed: no more than an empty object.
pub(super) fn expect_nothing(body: &[u8]) -> Result<(), Failure> {
    match body.trim_ascii() {
        b"" | b"{}" => Ok(()),
        _ => Err(Failure::bad("this request takes no body")),
    }
}

/// What a client gets.
pub(super) enum Sent {
    /// All of it is here.
    Bytes(Option<Bytes>),
    /// A file, from `at` on.
    File { file: File, at: u64, len: u64 },
}

impl Sent {
    pub(super) fn bytes(bytes: impl Into<Bytes>) -> Self {
        Self::Bytes(Some(bytes.into()))
    }
}

impl Body for Sent {
    type Data = Bytes;
    type Error = io::Error;

    /// A file is read here, on the thread for all: 64 KiB, which were written a moment
    /// ago.
    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let bytes = match &mut *self {
            Self::Bytes(bytes) => bytes.take(),
            Self::File { at, len, .. } if at == len => None,
            Self::File { file, at, len } => {
                let mut bytes = vec![0; (*len - *at).min(CHUNK) as usize];
                if let Err(error) = file.read_exact_at(&mut bytes, *at) {
                    return Poll::Ready(Some(Err(error)));
                }
                *at += bytes.len() as u64;
                Some(bytes.into())
            }
        };
        Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Bytes(bytes) => bytes.is_none(),
            Self::File { at, len, .. } => at == len,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Bytes(bytes) => bytes.as_ref().map_or(0, |bytes| bytes.len() as u64),
            Self::File { at, len, .. } => len - at,
        })
    }
}
