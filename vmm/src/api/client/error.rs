//! Why a client has no answer.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::super::model::Failure;

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
