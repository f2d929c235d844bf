//! Who asks: a connection that has a request answered.

use std::future::pending;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use tokio::io::Interest;
use tokio::net::UnixStream;

use super::connection::{Busy, Connection};

/// The client of a request.
#[derive(Clone)]
pub(super) struct Asking {
    one: Arc<Connection>,
    stream: Arc<UnixStream>,
}

impl Asking {
    pub(super) fn new(one: Arc<Connection>, stream: Arc<UnixStream>) -> Self {
        Self { one, stream }
    }

    /// Its request is there and is being answered, until this is dropped.
    pub(super) fn busy(&self) -> Busy<'_> {
        self.one.busy()
    }

    /// Ends when the client has closed its end, whatever of it has not been read yet:
    /// the parser stops to read when it has a part of the next request, and sees no end
    /// then. One that sends no more but still reads has not closed it.
    ///
    /// Where the system gives nothing to watch it by, this never ends.
    pub(super) async fn has_gone(&self) {
        if let Err(error) = hang_up(&self.stream).await {
            log::debug!("a client of the API socket cannot be watched: {error}");
            pending().await
        }
    }
}

/// Of a descriptor of its own, since what else is told of the stream is the parser's.
/// Writable is the least that can be asked for; the end is told besides, and stays.
async fn hang_up(stream: &UnixStream) -> io::Result<()> {
    let own = stream.as_fd().try_clone_to_owned()?;
    let own = UnixStream::from_std(own.into())?;
    loop {
        if own.ready(Interest::WRITABLE).await?.is_write_closed() {
            return Ok(());
        }
        // Has it wait for the next news.
        let _ = own.try_io(Interest::WRITABLE, || {
            Err::<(), _>(io::ErrorKind::WouldBlock.into())
        });
    }
}
