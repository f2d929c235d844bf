//! A lock on a directory, by which processes take turns at a socket in it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long others may have it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Nobody else is at the sockets of a directory, until this is dropped.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    _directory: File,
}

impl DirectoryLock {
    /// Takes it for the directory that `path` is in. Blocks for five seconds at most.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let directory = File::open(directory)?;
        let until = Instant::now() + PATIENCE;
        loop {
            // SAFETY: touches no memory; the descriptor is open.
            let failed =
                unsafe { libc::flock(directory.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
            if failed == 0 {
                return Ok(Self {
                    _directory: directory,
                });
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::WouldBlock || Instant::now() >= until {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
