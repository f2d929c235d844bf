//! The files behind guest RAM: made, opened, checked, made long enough.

use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::RamError;
use crate::memory::faults::{self, Step};

/// A file in memory of `len` bytes, all of them a hole.
pub(super) fn memfd(name: &CStr, len: u64) -> Result<File, RamError> {
    let make = || {
        // SAFETY: the name is a C string; returns a new descriptor or an error.
        let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
        match fd {
            -1 => Err(io::Error::last_os_error()),
            // SAFETY: the descriptor is new and nobody else's.
            fd => Ok(unsafe { File::from_raw_fd(fd) }),
        }
    };
    let made = faults::check(Step::MakeMemfd).and_then(|()| make());
    let sized = made.and_then(|file| set_len(&file, len).map(|()| file));
    sized.map_err(|source| RamError::Memfd { bytes: len, source })
}

fn set_len(file: &File, len: u64) -> io::Result<()> {
    faults::check(Step::SizeFile)?;
    file.set_len(len)
}

/// Whether a file's pages have nowhere to go when memory is short.
pub(super) fn is_in_memory(file: &File) -> bool {
    const RAMFS_MAGIC: i64 = 0x8584_58f6;
    let mut found = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: fills in a structure of the right type; zeroes are valid too.
    let found = unsafe {
        libc::fstatfs(file.as_raw_fd(), found.as_mut_ptr());
        found.assume_init()
    };
    [libc::TMPFS_MAGIC, RAMFS_MAGIC].contains(&found.f_type)
}

/// A file that the user named, and what is to be done with it.
pub(super) struct Named<'a> {
    pub(super) backing: &'static str,
    pub(super) path: &'a Path,
    /// Whether the guest's writes go to it.
    pub(super) shared: bool,
    /// Whether holes are to be made in it.
    pub(super) discard: bool,
    /// Bytes it is to have.
    pub(super) len: u64,
}

impl Named<'_> {
    /// Opens it, and makes it long enough if it is to be written to.
    pub(super) fn open(&self) -> Result<File, RamError> {
        let mut how = OpenOptions::new();
        how.read(true)
            .write(self.shared)
            .create(self.shared)
            // A pipe would make it wait for a reader.
            .custom_flags(libc::O_NONBLOCK);
        let file = faults::check(Step::OpenFile)
            .and_then(|()| how.open(self.path))
            .map_err(|error| self.wrong(format!("it cannot be opened: {error}")))?;
        let about = file
            .metadata()
            .map_err(|error| self.wrong(error.to_string()))?;
        if !about.is_file() {
            return Err(self.wrong("it is no regular file: name one".into()));
        }
        if self.shared {
            self.check_room(&file, about.blocks() * 512)?;
        }
        if about.len() < self.len {
            self.lengthen(&file, about.len())?;
        }
        if self.discard {
            self.check_holes(&file)?;
        }
        Ok(file)
    }

    fn lengthen(&self, file: &File, found: u64) -> Result<(), RamError> {
        let len = self.len;
        if !self.shared {
            let path = self.path.display();
            return Err(self.wrong(format!(
                "it has {found} bytes, and the guest's memory {len}: make it longer \
                 (`truncate -s {len} {path}`), or ask for less memory"
            )));
        }
        set_len(file, len)
            .map_err(|error| self.wrong(format!("it cannot be made {len} bytes long: {error}")))
    }

    /// Whether the file system has room for what the file has not got yet.
    fn check_room(&self, file: &File, has: u64) -> Result<(), RamError> {
        let mut found = MaybeUninit::<libc::statvfs>::zeroed();
        // SAFETY: fills in a structure of the right type; zeroes are valid too.
        let found = unsafe {
            libc::fstatvfs(file.as_raw_fd(), found.as_mut_ptr());
            found.assume_init()
        };
        let room = found.f_bavail.saturating_mul(found.f_frsize);
        let needed = self.len.saturating_sub(has);
        if found.f_frsize != 0 && needed > room {
            return Err(self.wrong(format!(
                "its file system has room for {room} bytes, and the guest's memory needs \
                 {needed} more: make room, ask for less memory, or name a file elsewhere"
            )));
        }
        Ok(())
    }

    /// Whether its file system makes holes. Tried behind its end, where it changes
    /// nothing.
    fn check_holes(&self, file: &File) -> Result<(), RamError> {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let end = file.metadata().map_or(self.len, |about| about.len());
        let end = end.next_multiple_of(crate::memory::PAGE) as i64;
        // SAFETY: changes the file only, and nothing of that.
        match unsafe { libc::fallocate(file.as_raw_fd(), mode, end, 4096) } {
            0 => Ok(()),
            _ => {
                let error = io::Error::last_os_error();
                Err(self.wrong(format!(
                    "its file system makes no holes ({error}): discard=off"
                )))
            }
        }
    }

    fn wrong(&self, what: String) -> RamError {
        RamError::File {
            backing: self.backing,
            path: self.path.into(),
            what,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(path: &Path, shared: bool, len: u64) -> Named<'_> {
        Named {
            backing: "file",
            path,
            shared,
            discard: false,
            len,
        }
    }

    fn error(named: &Named<'_>) -> String {
        named.open().unwrap_err().to_string()
    }

    #[test]
    fn a_shared_file_is_made_and_lengthened_and_keeps_what_it_has() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ram");
        named(&path, true, 8192).open().unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 8192);
        std::fs::write(&path, "kept").unwrap();
        named(&path, true, 4096).open().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!((bytes.len(), &bytes[..5]), (4096, &b"kept\0"[..]));
    }

    #[test]
    fn a_private_file_must_be_there_and_long_enough() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ram");
        assert!(error(&named(&path, false, 4096)).contains("cannot be opened"));
        assert!(!path.exists());
        std::fs::write(&path, "short").unwrap();
        let text = error(&named(&path, false, 4096));
        assert!(text.contains("truncate -s 4096"), "{text}");
        assert_eq!(std::fs::read(&path).unwrap(), b"short");
    }

    #[test]
    fn what_is_no_regular_file_is_refused() {
        for path in ["/dev/null", "/dev/zero"] {
            let text = error(&named(Path::new(path), false, 4096));
            assert!(text.contains("no regular file"), "{text}");
        }
        let text = error(&named(Path::new("/"), true, 4096));
        assert!(text.contains("cannot be opened"), "{text}");
    }

    #[test]
    fn a_file_system_without_room_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ram");
        let text = error(&named(&path, true, 1 << 55));
        assert!(text.contains("its file system has room for"), "{text}");
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
    }
}
