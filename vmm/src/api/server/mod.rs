//! The server: one thread for all that goes over the socket, and a few for requests that
//! wait.
//!
//! A client can slow down nobody but itself. What it sends is bounded in length and in
//! time; what it does not read is dropped after a while; a request that waits has a
//! thread of its own, of which there are few, and ends when its client is gone. When too
//! many connections are there, the one that has been idle longest is closed for a new
//! one.

mod answer;
mod asking;
mod body;
mod connection;
mod lock;
mod routes;
mod socket;

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Builder;
use tokio::sync::oneshot;

use self::answer::{Server as Answers, THREADS};
use self::asking::Asking;
use self::connection::{Connections, Guarded, serve};
use super::Vm;
use crate::memory::LogLimit;

#[cfg(test)]
pub(super) use socket::full;
pub use socket::{Socket, SocketError};

/// Connections, at once.
const CONNECTIONS: usize = 64;
/// How long a head may take to come, and a connection to be idle.
const HEAD: Duration = Duration::from_secs(10);
/// Bytes of a head.
const HEAD_BYTES: usize = 16 << 10;
/// Fields of a head.
const HEAD_FIELDS: usize = 64;
/// How long answers that are under way may take at the end.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long requests that wait may take to notice the end.
const LAST_REQUESTS: Duration = Duration::from_secs(30);
/// How long to leave it alone when the system gives no more connections.
const REST: Duration = Duration::from_millis(100);

/// A server at work. Dropping it ends it: waits a second at most for answers that are
/// under way, and for the requests that wait, which are told to give up; then removes the
/// socket.
pub struct ApiServer {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    socket: Socket,
}

impl ApiServer {
    /// Serves `vm` at `socket`.
    ///
    /// # Errors
    /// If the system gives no thread or no event queue.
    pub fn start(socket: Socket, vm: Arc<dyn Vm>) -> io::Result<Self> {
        let listener = socket.listener()?;
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(THREADS)
            .thread_name("api worker")
            .build()?;
        let (stop, stopped) = oneshot::channel();
        let work = move || {
            let answers = Arc::new(Answers::new(vm));
            runtime.block_on(run(listener, answers.clone(), stopped));
            answers.cancel_all();
            runtime.shutdown_timeout(LAST_REQUESTS);
        };
        let thread = thread::Builder::new().name("api".to_owned()).spawn(work)?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
            socket,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.socket.path()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // It has ended already if nobody listens.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            // What it panicked with has been printed.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiServer")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

/// Serves until it is told to stop.
async fn run(
    listener: std::os::unix::net::UnixListener,
    answers: Arc<Answers>,
    stopped: oneshot::Receiver<()>,
) {
    let listener = match UnixListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return log::error!("the API socket cannot be listened at: {error}"),
    };
    let connections = Arc::new(Connections::new(CONNECTIONS));
    let accepting = tokio::spawn(accept(listener, answers, connections.clone()));
    // Whoever drops the sender means it too.
    let _ = stopped.await;
    accepting.abort();
    connections.close_all();
    let until = Instant::now() + FAREWELL;
    while !connections.is_empty() && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn accept(listener: UnixListener, answers: Arc<Answers>, connections: Arc<Connections>) {
    let complaints = LogLimit::new(Duration::from_secs(10));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Dropped, and so closed, where every other one has a request under way.
                if let Some(ticket) = connections.admit() {
                    tokio::spawn(serve_one(stream, ticket, answers.clone()));
                }
            }
            Err(error) => {
                if let Some(more) = complaints.pass() {
                    log::warn!("the API socket takes no connection: {error} ({more} more times)");
                }
                tokio::time::sleep(REST).await;
            }
        }
    }
}

async fn serve_one(stream: UnixStream, ticket: connection::Ticket, answers: Arc<Answers>) {
    let one = ticket.connection().clone();
    let stream = Arc::new(stream);
    let asking = Asking::new(one.clone(), stream.clone());
    let service = service_fn(move |request| {
        let (answers, asking) = (answers.clone(), asking.clone());
        async move { Ok::<_, std::convert::Infallible>(answers.answer(request, &asking).await) }
    });
    let http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_headers(HEAD_FIELDS)
        .max_header_size(HEAD_BYTES)
        .max_buf_size(4 * HEAD_BYTES)
        .serve_connection(TokioIo::new(Guarded::new(stream, one.clone())), service);
    // What a client does wrong is its own business.
    serve(http, &one).await;
    drop(ticket);
}
