//! Opening it, and making it this guest's alone.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::Named;
use crate::memory::faults::{self, Step};
use crate::memory::ram::RamError;

/// How often a file is opened that is replaced before it is locked.
const TRIES: u32 = 100;

/// As many links as the system follows.
const LINKS: u32 = 40;

/// A file that was opened.
pub(super) struct Opened {
    pub(super) file: File,
    /// Where, if it was not there before.
    made: Option<PathBuf>,
}

impl Named<'_> {
    /// Opens it until what is locked is what is at its path: whoever made it may have
    /// been refused, and taken it away, between the one and the other, and guest RAM
    /// would be in a file that nobody finds again.
    pub(super) fn open_locked(
        &self,
        open: impl Fn() -> Result<Option<Opened>, RamError>,
    ) -> Result<Opened, RamError> {
        for _ in 0..TRIES {
            let Some(opened) = open()? else { continue };
            if let Err(error) = self.lock(&opened.file) {
                self.take_back(&opened);
                return Err(error);
            }
            // That a file has no name left is no reason: `/dev/fd/3` may be a memfd.
            if is_at(&opened.file, self.path) {
                return Ok(opened);
            }
        }
        Err(self.wrong("whenever it is opened, another file is put in its place".into()))
    }

    /// `None`: somebody else makes it, or takes it away, at this moment.
    pub(super) fn open_or_make(&self) -> Result<Option<Opened>, RamError> {
        let mut how = OpenOptions::new();
        how.read(true)
            .write(self.shared)
            // A pipe would make it wait for a reader.
            .custom_flags(libc::O_NONBLOCK);
        let open = || match how.open(self.path) {
            Ok(file) => Ok(Some(Opened { file, made: None })),
            Err(error) if self.shared && error.kind() == io::ErrorKind::NotFound => {
                let path = end_of_links(self.path);
                match how.clone().create_new(true).open(&path) {
                    Ok(file) => Ok(Some(Opened {
                        file,
                        made: Some(path),
                    })),
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
                    Err(error) => Err(error),
                }
            }
            Err(error) => Err(error),
        };
        faults::check(Step::OpenFile)
            .and_then(|()| open())
            .map_err(|error| self.wrong(format!("it cannot be opened: {error}")))
    }

    /// Removes the file if it was made here, and nobody can have anything in it: it is
    /// locked, and what is at the path is no other.
    pub(super) fn take_back(&self, opened: &Opened) {
        if let Some(path) = &opened.made
            && self.try_lock(&opened.file).is_ok()
            && is_at(&opened.file, path)
        {
            let _ = fs::remove_file(path);
        }
    }

    /// Makes it this guest's alone, or, if it is only read, no other's who writes.
    fn lock(&self, file: &File) -> Result<(), RamError> {
        let Err(error) = self.try_lock(file) else {
            return Ok(());
        };
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EACCES) => Err(self.wrong(
                "another guest uses it (it is locked): end that one, or name another file".into(),
            )),
            // Not every file system has locks.
            Some(libc::ENOLCK | libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSYS) => {
                log::warn!(
                    "{} cannot be locked ({error}): see that no other guest uses it",
                    self.path.display()
                );
                Ok(())
            }
            _ => Err(self.wrong(format!("it cannot be locked: {error}"))),
        }
    }

    /// Does nothing if this has locked it before.
    fn try_lock(&self, file: &File) -> io::Result<()> {
        let kind = match self.shared {
            true => libc::F_WRLCK,
            false => libc::F_RDLCK,
        };
        let lock = libc::flock {
            l_type: kind as i16,
            l_whence: libc::SEEK_SET as i16,
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        faults::check(Step::LockFile)?;
        // SAFETY: reads the structure, which outlives the call.
        match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Whether the file is the one at `path`.
fn is_at(file: &File, path: &Path) -> bool {
    let which = |about: &fs::Metadata| (about.dev(), about.ino());
    let (file, found) = (file.metadata(), fs::metadata(path));
    matches!((file, found), (Ok(file), Ok(found)) if which(&file) == which(&found))
}

/// Where opening `path` makes a file if there is none: links may lead elsewhere.
fn end_of_links(path: &Path) -> PathBuf {
    let mut end = path.to_path_buf();
    for _ in 0..LINKS {
        let Ok(next) = fs::read_link(&end) else { break };
        end = end.parent().unwrap_or(Path::new("")).join(next);
    }
    end
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::memory::ram::{Backend, RamOptions, RamSizes};

    fn options(path: &Path) -> RamOptions {
        RamOptions {
            backend: Backend::File(path.into()),
            ..RamOptions::default()
        }
    }

    const SMALL: RamSizes = RamSizes {
        boot: 4096,
        hotplug: 0,
        block: 4096,
    };

    /// As by another guest, which had made it and was refused.
    #[test]
    fn a_file_that_is_taken_away_before_it_is_locked_is_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ram");
        let options = options(&path);
        let named = Named::of(&options, SMALL).unwrap();
        for is_replaced in [false, true] {
            let opens = Cell::new(0);
            let opened = named.open_locked(|| {
                let opened = named.open_or_make();
                opens.set(opens.get() + 1);
                if opens.get() == 1 {
                    fs::remove_file(&path).unwrap();
                    if is_replaced {
                        fs::write(&path, "another").unwrap();
                    }
                }
                opened
            });
            let opened = opened.unwrap();
            assert_eq!(opens.get(), 2);
            assert!(is_at(&opened.file, &path));
            assert_eq!(opened.made.is_none(), is_replaced);
        }
        // Not for ever.
        let error = named.open_locked(|| {
            let opened = named.open_or_make();
            fs::remove_file(&path).unwrap();
            opened
        });
        let text = error.err().unwrap().to_string();
        assert!(text.contains("another file is put"), "{text}");
    }

    #[test]
    fn another_file_at_its_path_or_another_guest_s_is_not_taken_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ram");
        let options = options(&path);
        let named = Named::of(&options, SMALL).unwrap();
        let made = || named.open_locked(|| named.open_or_make()).unwrap();
        named.take_back(&made());
        assert!(!path.exists());
        // Put there since.
        let opened = made();
        fs::write(dir.path().join("other"), "other").unwrap();
        fs::rename(dir.path().join("other"), &path).unwrap();
        named.take_back(&opened);
        assert_eq!(fs::read(&path).unwrap(), b"other");
        fs::remove_file(&path).unwrap();
        // Not locked, and another guest has.
        let opened = named.open_or_make().unwrap().unwrap();
        let other = made();
        named.take_back(&opened);
        assert!(is_at(&other.file, &path));
    }
}
