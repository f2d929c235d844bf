//! A file that the user named: opened, checked, made long enough.

mod open;

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::file::{self, Store};
use super::room::HostRoom;
use super::{Backend, RamError, RamOptions, RamSizes};
use crate::memory::PAGE;
use crate::memory::faults::{self, Step};

/// A file that the user named, and what is to be done with it.
pub(super) struct Named<'a> {
    options: &'a RamOptions,
    path: &'a PathBuf,
    /// Whether the guest's writes go to it.
    shared: bool,
    sizes: RamSizes,
}

impl<'a> Named<'a> {
    /// `None` if the backend has none.
    pub(super) fn of(options: &'a RamOptions, sizes: RamSizes) -> Option<Self> {
        let (path, shared) = match &options.backend {
            Backend::File(path) => (path, true),
            Backend::PrivateFile(path) | Backend::Image(path) => (path, false),
            _ => return None,
        };
        Some(Self {
            options,
            path,
            shared,
            sizes,
        })
    }

    /// Opens it, and makes it long enough if it is to be written to. On an error it is
    /// as it was, and not there if it was not (where it cannot be locked it may be left,
    /// empty). While it is open no other guest gets it, unless both only read it.
    pub(super) fn open(&self, room: &HostRoom) -> Result<File, RamError> {
        let opened = self.open_locked(|| self.open_or_make())?;
        let ready = self
            .check(room, &opened.file)
            .and_then(|found| self.lengthen(&opened.file, found));
        if ready.is_err() {
            self.take_back(&opened);
        }
        ready.map(|()| opened.file)
    }

    /// Whether it will do, and the host has room for what it has not got yet; its
    /// length. Changes nothing.
    fn check(&self, room: &HostRoom, file: &File) -> Result<u64, RamError> {
        let about = file
            .metadata()
            .map_err(|error| self.wrong(error.to_string()))?;
        if !about.is_file() {
            return Err(self.wrong("it is no regular file: name one".into()));
        }
        let (found, len) = (about.len(), self.sizes.file_len());
        if !self.shared && found < len {
            let path = self.path.display();
            return Err(self.wrong(format!(
                "it has {found} bytes, and the guest's memory {len}: make it longer \
                 (`truncate -s {len} {path}`), or ask for less memory"
            )));
        }
        let needed = match self.shared {
            true => len.saturating_sub(about.blocks() * 512),
            false => self.sizes.all(),
        };
        let prefault = self.options.prefault;
        match (Store::of(file), &self.options.backend) {
            // Only read: what the guest has is other memory, which has been checked.
            (_, Backend::Image(_)) => {}
            (Store::Pool(page), _) => {
                self.check_pages(page)?;
                room.check_pool(page, needed)?;
            }
            (Store::Memory, _) => room.check_memory(prefault, needed)?,
            // Its pages go back to it when memory is short.
            (Store::Elsewhere, Backend::File(_)) if !prefault => {}
            (Store::Elsewhere, _) => room.check_memory(prefault, self.sizes.all())?,
        }
        if self.shared {
            self.check_room(file, needed)?;
        }
        if self.options.discard {
            self.check_holes(file, found)?;
        }
        Ok(found)
    }

    /// Whether pages of that size make it up.
    fn check_pages(&self, page: u64) -> Result<(), RamError> {
        let odd = self.sizes.not_made_of(page);
        odd.map_or(Ok(()), |(what, bytes)| {
            Err(self.wrong(format!(
                "it is made of huge pages of {page} bytes, and {what} of {bytes} bytes is no \
                 multiple of that: choose one (--memory {what}=), or name a file elsewhere"
            )))
        })
    }

    /// Whether the file system has room for that.
    fn check_room(&self, file: &File, needed: u64) -> Result<(), RamError> {
        match file::room_left(file) {
            Some(room) if needed > room => Err(self.wrong(format!(
                "its file system has room for {room} bytes, and the guest's memory needs \
                 {needed} more: make room, ask for less memory, or name a file elsewhere"
            ))),
            _ => Ok(()),
        }
    }

    /// Whether its file system makes holes. Tried behind its end, where it changes
    /// nothing.
    fn check_holes(&self, file: &File, end: u64) -> Result<(), RamError> {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let end = end.next_multiple_of(PAGE) as i64;
        let tried = faults::check(Step::TryHole).and_then(|()| {
            // SAFETY: changes the file only, and nothing of that.
            match unsafe { libc::fallocate(file.as_raw_fd(), mode, end, PAGE as i64) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        });
        tried.map_err(|error| {
            self.wrong(format!(
                "its file system makes no holes ({error}): discard=off"
            ))
        })
    }

    /// The last step, since it changes the file.
    fn lengthen(&self, file: &File, found: u64) -> Result<(), RamError> {
        let len = self.sizes.file_len();
        match found < len {
            true => file::set_len(file, len),
            false => Ok(()),
        }
        .map_err(|error| self.wrong(format!("it cannot be made {len} bytes long: {error}")))
    }

    fn wrong(&self, what: String) -> RamError {
        RamError::File {
            backing: self.options.backing(),
            path: self.path.clone(),
            what,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    fn open(path: &Path, shared: bool, len: u64) -> Result<File, RamError> {
        let backend = match shared {
            true => Backend::File(path.into()),
            false => Backend::PrivateFile(path.into()),
        };
        let options = RamOptions {
            backend,
            ..RamOptions::default()
        };
        let sizes = RamSizes {
            boot: len,
            hotplug: 0,
            block: 4096,
        };
        Named::of(&options, sizes).unwrap().open(&HostRoom::read())
    }

    fn error(path: &Path, shared: bool, len: u64) -> String {
        open(path, shared, len).unwrap_err().to_string()
    }

    #[test]
    fn a_shared_file_is_made_and_lengthened_and_keeps_what_it_has() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ram");
        open(&path, true, 8192).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 8192);
        std::fs::write(&path, "kept").unwrap();
        open(&path, true, 4096).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!((bytes.len(), &bytes[..5]), (4096, &b"kept\0"[..]));
    }

    #[test]
    fn a_private_file_must_be_there_and_long_enough() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ram");
        assert!(error(&path, false, 4096).contains("cannot be opened"));
        assert!(!path.exists());
        std::fs::write(&path, "short").unwrap();
        let text = error(&path, false, 4096);
        assert!(text.contains("truncate -s 4096"), "{text}");
        assert_eq!(std::fs::read(&path).unwrap(), b"short");
    }

    #[test]
    fn what_is_no_regular_file_is_refused() {
        for path in ["/dev/null", "/dev/zero"] {
            let text = error(Path::new(path), false, 4096);
            assert!(text.contains("no regular file"), "{text}");
        }
        let text = error(Path::new("/"), true, 4096);
        assert!(text.contains("cannot be opened"), "{text}");
    }

    #[test]
    fn a_link_to_no_file_makes_one_and_takes_it_back() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("deep")).unwrap();
        symlink("deep/two", at("one")).unwrap();
        symlink("../ram", at("deep/two")).unwrap();
        let text = error(&at("one"), true, 1 << 55);
        assert!(text.contains("has room for"), "{text}");
        assert!(!at("ram").exists());
        assert!(at("one").is_symlink() && at("deep/two").is_symlink());
        open(&at("one"), true, 4096).unwrap();
        assert_eq!(fs::metadata(at("ram")).unwrap().len(), 4096);
        // A link in a circle leads nowhere.
        symlink("circle", at("circle")).unwrap();
        assert!(error(&at("circle"), true, 4096).contains("cannot be opened"));
    }

    /// It has no name, and is at this path all the same.
    #[test]
    fn a_file_that_was_inherited_will_do() {
        let file = file::memfd(c"inherited", 0).unwrap();
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        open(&path, true, 4096).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 4096);
    }

    #[test]
    fn a_file_system_without_room_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ram");
        for is_there in [false, true] {
            let text = error(&path, true, 1 << 55);
            assert!(text.contains("its file system has room for"), "{text}");
            let len = std::fs::metadata(&path).map(|about| about.len());
            assert_eq!(len.ok(), is_there.then_some(4));
            std::fs::write(&path, "kept").unwrap();
        }
    }
}
