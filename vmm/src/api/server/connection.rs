//! Connections: how many there are, which have been idle longest, and streams that give
//! up on a client that does not read.

use std::future::{Future, poll_fn};
use std::io;
use std::net::Shutdown;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::rt::{Read, Write};
use hyper::server::conn::http1;
use hyper::service::HttpService;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::time::{Sleep, sleep};

/// How long a client may take none of an answer.
const WRITE: Duration = Duration::from_secs(20);

/// A connection that is there.
#[derive(Debug)]
pub(super) struct Connection {
    /// A request of it is being answered.
    is_busy: AtomicBool,
    /// When something last went over it, in milliseconds.
    touched: AtomicU64,
    start: Instant,
    /// It is to end now.
    evicted: Notify,
    /// It is to end when what is under way is answered.
    closed: Notify,
}

impl Connection {
    fn new(start: Instant) -> Self {
        let one = Self {
            is_busy: AtomicBool::new(false),
            touched: AtomicU64::new(0),
            start,
            evicted: Notify::new(),
            closed: Notify::new(),
        };
        one.touch();
        one
    }

    fn touch(&self) {
        let now = self.start.elapsed().as_millis() as u64;
        self.touched.store(now, Ordering::Relaxed);
    }

    /// A request of it is being answered, until this is dropped.
    pub(super) fn busy(&self) -> Busy<'_> {
        self.is_busy.store(true, Ordering::Relaxed);
        Busy(self)
    }
}

pub(super) struct Busy<'a>(&'a Connection);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.touch();
        self.0.is_busy.store(false, Ordering::Relaxed);
    }
}

/// All that are there.
#[derive(Debug)]
pub(super) struct Connections {
    start: Instant,
    most: usize,
    list: Mutex<Vec<Arc<Connection>>>,
}

impl Connections {
    pub(super) fn new(most: usize) -> Self {
        Self {
            start: Instant::now(),
            most,
            list: Mutex::default(),
        }
    }

    fn list(&self) -> MutexGuard<'_, Vec<Arc<Connection>>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one more. If there are too many, the one that has been idle longest goes;
    /// `None` if none is idle.
    pub(super) fn admit(self: &Arc<Self>) -> Option<Ticket> {
        let mut list = self.list();
        if list.len() >= self.most {
            let idle = list.iter().enumerate();
            let idle = idle.filter(|(_, one)| !one.is_busy.load(Ordering::Relaxed));
            let longest = idle.min_by_key(|(_, one)| one.touched.load(Ordering::Relaxed));
            let (at, _) = longest?;
            list.swap_remove(at).evicted.notify_one();
        }
        let connection = Arc::new(Connection::new(self.start));
        list.push(connection.clone());
        Some(Ticket {
            connections: self.clone(),
            connection,
        })
    }

    /// Has all of them end as soon as what is under way is answered.
    pub(super) fn close_all(&self) {
        self.list().iter().for_each(|one| one.closed.notify_one());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list().is_empty()
    }
}

/// A place among the connections.
pub(super) struct Ticket {
    connections: Arc<Connections>,
    connection: Arc<Connection>,
}

impl Ticket {
    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let is_other = |one: &Arc<Connection>| !Arc::ptr_eq(one, &self.connection);
        self.connections.list().retain(is_other);
    }
}

/// Serves a connection to its end, whatever ends it.
pub(super) async fn serve<I, S, B>(http: http1::Connection<I, S>, one: &Connection)
where
    S: HttpService<hyper::body::Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    I: Read + Write + Unpin,
    B: hyper::body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut http = pin!(http);
    let mut evicted = pin!(one.evicted.notified());
    let mut closed = pin!(one.closed.notified());
    let mut is_closing = false;
    poll_fn(|context| {
        if evicted.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        if !is_closing && closed.as_mut().poll(context).is_ready() {
            is_closing = true;
            http.as_mut().graceful_shutdown();
        }
        http.as_mut().poll(context).map(drop)
    })
    .await;
}

/// A stream that notes when something goes over it, and fails if what is to be sent is
/// not taken for too long.
pub(super) struct Guarded {
    stream: Arc<UnixStream>,
    one: Arc<Connection>,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Guarded {
    pub(super) fn new(stream: Arc<UnixStream>, one: Arc<Connection>) -> Self {
        Self {
            stream,
            one,
            stalled: None,
        }
    }

    fn sent<T>(
        &mut self,
        context: &mut Context<'_>,
        sent: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if sent.is_ready() {
            self.stalled = None;
            self.one.touch();
            return sent;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(WRITE)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = loop {
            ready!(self.stream.poll_read_ready(context))?;
            match self.stream.try_read(into.initialize_unfilled()) {
                // It was told too early: asks to be told again.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => break read,
            }
        };
        self.one.touch();
        Poll::Ready(read.map(|len| into.advance(len)))
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let sent = loop {
            match self.stream.poll_write_ready(context) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
            match self.stream.try_write(data) {
                // As for reads.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => break Poll::Ready(sent),
            }
        };
        self.sent(context, sent)
    }

    /// Nothing is kept back.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&*self.stream).shutdown(Shutdown::Write))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_is_idle_longest_makes_room() {
        let all = Arc::new(Connections::new(2));
        let (first, second) = (all.admit().unwrap(), all.admit().unwrap());
        let at = |ticket: &Ticket, ms| ticket.connection.touched.store(ms, Ordering::Relaxed);
        at(&first, 5);
        at(&second, 3);
        let third = all.admit().unwrap();
        at(&third, 9);
        let is_there = |ticket: &Ticket| {
            let list = all.list();
            list.iter().any(|one| Arc::ptr_eq(one, &ticket.connection))
        };
        assert_eq!([&first, &second, &third].map(is_there), [true, false, true]);
        // One that waits for its answer stays, however long.
        let _busy = first.connection.busy();
        at(&first, 0);
        let fourth = all.admit().unwrap();
        assert_eq!([&first, &third, &fourth].map(is_there), [true, false, true]);
        let _busy_too = fourth.connection.busy();
        assert!(all.admit().is_none());
        drop([first.connection.clone()]);
        drop(second);
        assert_eq!(all.list().len(), 2);
    }
}
