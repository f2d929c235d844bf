//! What a handler's thread does.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::PageSource;
use super::table::{Noted, Serving, Table};
use super::uffd::Userfaultfd;
use crate::memory::PAGE;
use crate::memory::faults::{self, Step};
use crate::memory::ram::map_at;

/// How long who waits for a page sleeps on that can neither be had nor made an error.
const AGAIN: Duration = Duration::from_millis(100);

/// How often whoever sleeps for a page is woken.
const TRIES: u32 = 10;

/// What the handlers share with their [`Pager`](super::Pager).
pub(super) struct Shared {
    pub(super) uffd: Userfaultfd,
    /// Held while faults are read and noted, which waits for nothing.
    pub(super) reading: Mutex<()>,
    pub(super) table: Table,
    pub(super) source: Arc<dyn PageSource>,
    /// Readable once the handlers are to end.
    pub(super) stop: File,
    /// Readable while there may be more in the table than who filled it can serve.
    pub(super) more: File,
    /// A file of no length: touching a mapping of it is a SIGBUS.
    pub(super) nothing: File,
    pub(super) served: AtomicU64,
    pub(super) failed: AtomicU64,
}

impl Shared {
    /// Serves faults until it is told to stop.
    pub(super) fn run(&self) {
        let mut page = Box::new([0; PAGE as usize]);
        while self.wait() {
            if let Err(error) = self.gather() {
                log::error!("reading page faults: {error}; guest RAM stays incomplete");
                return;
            }
            while let Some((serving, more)) = self.table.next() {
                if more {
                    self.call();
                }
                self.serve(serving, &mut page);
            }
        }
    }

    /// Notes every fault that there is: when this returns none is left that somebody
    /// has read and not noted yet.
    pub(super) fn gather(&self) -> io::Result<()> {
        let mut there = Vec::new();
        let read = self.read_faults(&mut there);
        // Waking may take several tries.
        there.into_iter().for_each(|addr| self.wake(addr));
        read
    }

    /// Notes every fault that there is; those of pages that are there go to `there`.
    fn read_faults(&self, there: &mut Vec<u64>) -> io::Result<()> {
        let _reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((addr, thread)) = self.uffd.next_fault()? {
            if self.table.note(addr, thread) == Noted::There {
                there.push(addr);
            }
        }
        Ok(())
    }

    /// Has a handler that sleeps look into the table.
    pub(super) fn call(&self) {
        // It can fail only when it has been done 2^64 - 1 times.
        let _ = (&self.more).write_all(&1_u64.to_ne_bytes());
    }

    /// Sleeps until there may be a fault. `false`: it is time to stop.
    fn wait(&self) -> bool {
        let poll = |fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        };
        let mut fds = [
            poll(self.uffd.as_fd().as_raw_fd()),
            poll(self.stop.as_raw_fd()),
            poll(self.more.as_raw_fd()),
        ];
        // SAFETY: valid descriptors, in an array that outlives the call. An error, as
        // by a signal, leaves no answer, and is tried again.
        unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as u64, -1) };
        if fds[2].revents != 0 {
            // Whoever reads it first takes the call, and calls on if there is more.
            let _ = (&self.more).read(&mut [0; 8]);
        }
        fds[1].revents == 0
    }

    fn serve(&self, serving: Serving<'_>, page: &mut [u8; PAGE as usize]) {
        let Serving { addr, offset, .. } = serving;
        // Counted before whoever sleeps there wakes, and can look at the counts.
        let result = self.read(offset, page).and_then(|()| {
            self.served.fetch_add(1, Ordering::Relaxed);
            self.put(addr, page).inspect_err(|_| {
                self.served.fetch_sub(1, Ordering::Relaxed);
            })
        });
        match result {
            Ok(()) => serving.is_there(),
            Err(error) => {
                log::error!("the page at {offset:#x} of the image of guest RAM: {error}");
                self.failed.fetch_add(1, Ordering::Relaxed);
                self.give_up(addr);
                // First, since who wakes touches the page again at once: while a handler
                // is at it, that would be taken to be seen to, should it be missing yet.
                drop(serving);
                self.wake(addr);
            }
        }
    }

    /// Reads a page of the image. A source that panics has failed: without its handler
    /// whoever sleeps there would sleep for ever.
    fn read(&self, offset: u64, page: &mut [u8; PAGE as usize]) -> io::Result<()> {
        let read = AssertUnwindSafe(|| self.source.read_page(offset, page));
        catch_unwind(read)
            .unwrap_or_else(|_| Err(io::Error::other("the source of the pages panicked")))
    }

    /// Has who sleeps for the page touch it again. They do not ask twice.
    fn wake(&self, addr: u64) {
        for _ in 0..TRIES {
            match self.uffd.wake(addr) {
                Ok(()) => return,
                Err(error) => {
                    log::error!("waking who waits for the page at {addr:#x}: {error}");
                    thread::sleep(AGAIN);
                }
            }
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
                // Prefaulting has put it there, or somebody outside.
                Some(libc::EEXIST) => {
                    self.wake(addr);
                    return Ok(());
                }
                // It was taken out of the userfaultfd a moment ago.
                Some(libc::ENOENT) => return Ok(()),
                _ => return Err(error),
            }
        }
    }

    /// Makes touching the page an error, for who sleeps there to meet when they wake.
    fn give_up(&self, addr: u64) {
        let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
        let replaced = faults::check(Step::ReplacePage).and_then(|()| {
            // SAFETY: the page is in the table, so it is guest RAM that this pager has
            // mapped and still owns; and no handler has brought it, or is about to, so
            // that nothing is there that could be lost.
            unsafe { map_at(addr, PAGE, flags, self.nothing.as_raw_fd()) }
        });
        if let Err(error) = replaced {
            log::error!("and it cannot be replaced: {error}; it is tried again");
            // Who finds the page still missing asks for it at once.
            thread::sleep(AGAIN);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::FromRawFd;

    use super::*;
    use crate::memory::faults::{Fault, Watch};
    use crate::memory::{HostMemory, Mapping};

    /// Others may look for faults while it waits.
    #[test]
    fn who_cannot_be_woken_yet_does_not_keep_others_from_reading_faults() {
        let uffd = match Userfaultfd::open() {
            Ok(uffd) => uffd,
            Err(error) => {
                crate::memory::not_tried("GRACEFAULT_REQUIRE_UFFD", &error);
                return;
            }
        };
        // SAFETY: a new descriptor, which is nobody else's.
        let event = || unsafe { File::from_raw_fd(libc::eventfd(0, libc::EFD_CLOEXEC)) };
        let shared = Shared {
            uffd,
            reading: Mutex::default(),
            table: Table::default(),
            source: Arc::new(event()),
            stop: event(),
            more: event(),
            nothing: event(),
            served: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        };
        let memory = Mapping::anonymous(PAGE).unwrap();
        let addr = memory.host_addr() as u64;
        shared.table.insert(addr, PAGE, 0);
        shared.uffd.register(addr, PAGE).unwrap();
        // It is said to be there, and somebody sleeps for it.
        shared.table.note(addr, 1);
        shared.table.next().unwrap().0.is_there();
        let watch = Watch::begin(&[Fault {
            step: Step::WakeSleeper,
            after: 0,
            times: 3,
        }]);
        thread::scope(|scope| {
            scope.spawn(|| memory.read(0, &mut [0]).unwrap());
            scope.spawn(|| {
                while watch.reached(Step::WakeSleeper) == 0 {
                    shared.gather().unwrap();
                }
            });
            while watch.failed(Step::WakeSleeper) == 0 {
                thread::yield_now();
            }
            let is_free = shared.reading.try_lock().is_ok();
            shared.uffd.put(addr, &[0; PAGE as usize]).unwrap();
            assert!(is_free, "it is held for as long as waking takes");
        });
    }
}
