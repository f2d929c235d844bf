//! Regions of RAM that come from an image, and the threads that bring them.

use std::ffi::CStr;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::FromRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use super::handler::Shared;
use super::table::Table;
use super::uffd::Userfaultfd;
use super::{PageSource, PagingError};
use crate::memory::faults::{self, Step};
use crate::memory::{HostMemory, Mapping};

/// Handlers: each reads one page at a time, and a slow image should not have every
/// vCPU wait for one of them.
const HANDLERS: usize = 4;

/// Maps RAM whose pages come from an image at first touch. Lives for as long as any
/// of that RAM.
pub struct Pager {
    shared: Arc<Shared>,
    handlers: Vec<JoinHandle<()>>,
}

/// What a [`Pager`] has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PagerCounts {
    /// Pages that came from the image, or would have if another fault of the same
    /// page had not been served before.
    pub served: u64,
    /// Pages that could not be read.
    pub failed: u64,
}

impl Pager {
    /// Starts the threads that bring pages from `source`.
    ///
    /// # Errors
    ///
    /// See [`PagingError`].
    pub fn new(source: Arc<dyn PageSource>) -> Result<Arc<Self>, PagingError> {
        let uffd = Userfaultfd::open()?;
        // SAFETY: returns a new descriptor or an error.
        let event = || owned(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) });
        let stop = faults::check(Step::MakePager).and_then(|()| event());
        let more = faults::check(Step::MakePager).and_then(|()| event());
        let nothing = faults::check(Step::MakePager).and_then(|()| memfd(c"no-page"));
        let shared = Arc::new(Shared {
            uffd,
            reading: Mutex::default(),
            table: Table::default(),
            source,
            stop: stop.map_err(PagingError::Handler)?,
            more: more.map_err(PagingError::Handler)?,
            nothing: nothing.map_err(PagingError::Handler)?,
            served: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        });
        // Made first, so that it ends those that were started if one cannot be.
        let mut pager = Self {
            shared,
            handlers: Vec::new(),
        };
        for number in 0..HANDLERS {
            let shared = pager.shared.clone();
            let thread = thread::Builder::new().name(format!("pager {number}"));
            let handler = faults::check(Step::StartPager)
                .and_then(|()| thread.spawn(move || shared.run()))
                .map_err(PagingError::Handler)?;
            pager.handlers.push(handler);
        }
        Ok(Arc::new(pager))
    }

    /// Maps `len` bytes that are the image's from `offset` on.
    ///
    /// # Errors
    ///
    /// As [`Mapping::anonymous`], or the system's refusal to watch it.
    pub fn map(self: &Arc<Self>, offset: u64, len: u64) -> io::Result<Mapping> {
        let mapping = Mapping::anonymous(len)?;
        let start = mapping.host_addr() as u64;
        // Before there can be a fault.
        self.shared.table.insert(start, len, offset);
        if let Err(error) = self.shared.uffd.register(start, len) {
            self.shared.table.remove(start);
            return Err(error);
        }
        Ok(mapping.paged_by(self.clone()))
    }

    /// Takes a region out: no handler will touch it any more. Nobody else may,
    /// either. Called right before it is unmapped.
    pub(in crate::memory) fn retire(&self, start: u64, len: u64) {
        if let Err(error) = self.shared.uffd.unregister(start, len) {
            // It is about to be unmapped, which does the same.
            log::debug!("taking guest RAM out of its userfaultfd: {error}");
        }
        self.shared.table.remove(start);
    }

    /// Waits for the pages that threads that [run a vCPU](crate::memory::RunsVcpu) are
    /// asleep for, and for those of `memory`, if given, that are being brought: KVM
    /// takes no memslot out before the former have come, and `memory` is not unmapped
    /// before the latter have. Pages that are first touched meanwhile do not count, so
    /// a guest that goes through an image holds nobody up for longer than the image
    /// takes. `false`: some page has not come by `deadline`.
    pub fn wait_for_vcpus(&self, memory: Option<&Mapping>, deadline: Instant) -> bool {
        // If it fails, the handlers have said so.
        let _ = self.shared.gather();
        self.shared.call();
        let range = memory.map_or(0..0, |memory| {
            let start = memory.host_addr() as u64;
            start..start + memory.len()
        });
        let table = &self.shared.table;
        table.wait_served(table.faults(), range, deadline)
    }

    /// What it has done.
    pub fn counts(&self) -> PagerCounts {
        PagerCounts {
            served: self.shared.served.load(Ordering::Relaxed),
            failed: self.shared.failed.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Pager {
    fn drop(&mut self) {
        // It can fail only when it has been done 2^64 - 1 times.
        let _ = (&self.shared.stop).write_all(&1_u64.to_ne_bytes());
        for handler in self.handlers.drain(..) {
            if handler.join().is_err() {
                log::error!("a handler of page faults panicked");
            }
        }
    }
}

impl fmt::Debug for Pager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pager")
            .field("table", &self.shared.table)
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

fn memfd(name: &CStr) -> io::Result<File> {
    // SAFETY: the name is a C string; returns a new descriptor or an error.
    owned(unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) })
}

fn owned(fd: i32) -> io::Result<File> {
    match fd {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the descriptor is new and nobody else's.
        fd => Ok(unsafe { File::from_raw_fd(fd) }),
    }
}
