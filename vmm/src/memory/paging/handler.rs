//! What a handler's thread does.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::PageSource;
use super::table::{Fault, Table};
use super::uffd::Userfaultfd;
use crate::memory::PAGE;
use crate::memory::ram::map_at;

/// What the handlers share with their [`Pager`](super::Pager).
pub(super) struct Shared {
    pub(super) uffd: Userfaultfd,
    pub(super) table: Table,
    pub(super) source: Arc<dyn PageSource>,
    /// Readable once the handlers are to end.
    pub(super) stop: File,
    /// A file of no length: touching a mapping of it is a SIGBUS.
    pub(super) nothing: File,
    /// Handlers that have a fault, or are about to see whether there is one.
    pub(super) busy: AtomicUsize,
    pub(super) served: AtomicU64,
    pub(super) failed: AtomicU64,
}

/// That a handler is at a fault; over when dropped.
struct Busy<'a>(&'a AtomicUsize);

impl<'a> Busy<'a> {
    fn new(busy: &'a AtomicUsize) -> Self {
        busy.fetch_add(1, Ordering::SeqCst);
        Self(busy)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn poll(fd: RawFd) -> libc::pollfd {
    libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    }
}

impl Shared {
    /// Serves faults until it is told to stop.
    pub(super) fn run(&self) {
        let mut page = Box::new([0; PAGE as usize]);
        while self.wait() {
            let _busy = Busy::new(&self.busy);
            match self.uffd.next_fault() {
                Ok(Some(addr)) => self.serve(addr, &mut page),
                // Another handler was faster.
                Ok(None) => {}
                Err(error) => {
                    log::error!("reading page faults: {error}; guest RAM stays incomplete");
                    return;
                }
            }
        }
    }

    /// Whether somebody waits for a page, as far as can be told.
    pub(super) fn is_awaited(&self) -> bool {
        let mut fds = [poll(self.uffd.as_fd().as_raw_fd())];
        // SAFETY: a valid descriptor, in an array that outlives the call, which does
        // not block.
        unsafe { libc::poll(fds.as_mut_ptr(), 1, 0) };
        // In this order: a handler is busy before it takes a fault from there.
        fds[0].revents != 0 || self.busy.load(Ordering::SeqCst) != 0
    }

    /// Sleeps until there may be a fault. `false`: it is time to stop.
    fn wait(&self) -> bool {
        let mut fds = [
            poll(self.uffd.as_fd().as_raw_fd()),
            poll(self.stop.as_raw_fd()),
        ];
        // SAFETY: two valid descriptors, in an array that outlives the call. An
        // error, as by a signal, leaves no answer, and is tried again.
        unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as u64, -1) };
        fds[1].revents == 0
    }

    fn serve(&self, addr: u64, page: &mut [u8; PAGE as usize]) {
        // Not in the table: the region went, and nobody sleeps there any more.
        let serving = match self.table.serve(addr) {
            Fault::Missing(serving) => serving,
            Fault::There => return self.wake(addr),
            Fault::Gone => return,
        };
        // Counted before whoever sleeps there wakes, and can look at the counts.
        let result = self.read(serving.offset, page).and_then(|()| {
            self.served.fetch_add(1, Ordering::Relaxed);
            self.put(addr, page).inspect_err(|_| {
                self.served.fetch_sub(1, Ordering::Relaxed);
            })
        });
        if result.is_ok() {
            serving.is_there();
        }
        if let Err(error) = result {
            let offset = serving.offset;
            log::error!("the page at {offset:#x} of the image of guest RAM: {error}");
            self.failed.fetch_add(1, Ordering::Relaxed);
            self.give_up(addr);
        }
    }

    /// Reads a page of the image. A source that panics has failed: without its handler
    /// whoever sleeps there would sleep for ever.
    fn read(&self, offset: u64, page: &mut [u8; PAGE as usize]) -> io::Result<()> {
        let read = AssertUnwindSafe(|| self.source.read_page(offset, page));
        catch_unwind(read)
            .unwrap_or_else(|_| Err(io::Error::other("the source of the pages panicked")))
    }

    fn wake(&self, addr: u64) {
        if let Err(error) = self.uffd.wake(addr) {
            log::error!("waking who waits for the page at {addr:#x}: {error}");
        }
    }

    fn put(&self, addr: u64, page: &[u8; PAGE as usize]) -> io::Result<()> {
        loop {
            let error = match self.uffd.put(addr, page) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            match error.raw_os_error() {
                // The process's mappings are changing.
                Some(libc::EAGAIN | libc::EINTR) => {}
                // Another handler has put it there, for another thread's fault.
                Some(libc::EEXIST) => return self.uffd.wake(addr),
                // It was taken out of the userfaultfd a moment ago.
                Some(libc::ENOENT) => return Ok(()),
                _ => return Err(error),
            }
        }
    }

    /// Makes touching the page an error, and lets who sleeps there meet it.
    fn give_up(&self, addr: u64) {
        let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
        // SAFETY: the page is in the table, so it is guest RAM that this pager has
        // mapped and still owns; and no handler has brought it, or is about to, so that
        // nothing is there that could be lost.
        let replaced = unsafe { map_at(addr, PAGE, flags, self.nothing.as_raw_fd()) };
        if let Err(error) = replaced {
            log::error!("and it cannot be replaced: {error}");
        }
        // In any case: who finds the page still missing asks for it again.
        self.wake(addr);
    }
}
