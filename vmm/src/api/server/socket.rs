//! The socket in the file system: its owner's alone, and gone when it is over.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Type};

use super::lock::DirectoryLock;

/// Connections that may wait to be taken.
const BACKLOG: i32 = 64;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    /// Somebody serves there.
    #[error("{path}: another process serves there; end it, or choose another path")]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// Something else is there.
    #[error("{path}: there is a file that is no socket; remove it, or choose another path")]
    NoSocket {
        /// The path.
        path: PathBuf,
    },
    /// A path that no socket can have.
    #[error(
        "{path}: a socket's path has at most 107 bytes, and this one {len}; choose a shorter one"
    )]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its bytes.
        len: usize,
    },
    /// The system refused.
    #[error("{path}: the API socket cannot be made: {source}")]
    Io {
        /// The path.
        path: PathBuf,
        /// Its error.
        source: io::Error,
    },
}

/// A socket that listens. Dropped, it is removed, if it is still the one at its path.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    listener: UnixListener,
    /// Device and inode, to know it by.
    identity: (u64, u64),
}

impl Socket {
    /// Makes a socket at `path` that its owner alone can use, from its first moment on.
    /// One that is left of a process that has ended is replaced.
    ///
    /// # Errors
    /// See [`SocketError`]. Nothing has been removed then that somebody serves, or that
    /// is no socket.
    pub fn bind(path: impl Into<PathBuf>) -> Result<Self, SocketError> {
        let path = path.into();
        let io = |source| SocketError::Io {
            path: path.clone(),
            source,
        };
        let address = SockAddr::unix(&path).map_err(|_| SocketError::TooLong {
            path: path.clone(),
            len: path.as_os_str().len(),
        })?;
        // Between the look at what is there and the socket that takes its place nobody
        // else puts one there.
        let lock = DirectoryLock::of(&path).map_err(io)?;
        remove_stale(&path)?;
        let listener = listen(&address).map_err(io)?;
        let there = fs::symlink_metadata(&path).map_err(io)?;
        let identity = (there.dev(), there.ino());
        let socket = Self {
            path: path.clone(),
            listener,
            identity,
        };
        // A socket that is dropped takes it too.
        drop(lock);
        let rights = there.mode() & 0o777;
        if rights != 0o600 {
            let error = format!(
                "the system has made it with the rights {rights:04o} instead of 0600; \
                 is it the umask?"
            );
            return Err(io(io::Error::other(error)));
        }
        Ok(socket)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn listener(&self) -> io::Result<UnixListener> {
        let listener = self.listener.try_clone()?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let lock = DirectoryLock::of(&self.path);
        let there = fs::symlink_metadata(&self.path);
        if lock.is_ok() && there.is_ok_and(|there| (there.dev(), there.ino()) == self.identity) {
            // Gone already is as good.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Linux gives the file the rights that the socket has before it is bound, less the
/// umask.
fn listen(address: &SockAddr) -> io::Result<UnixListener> {
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
    let as_file = File::from(OwnedFd::from(socket));
    as_file.set_permissions(Permissions::from_mode(0o600))?;
    let socket = socket2::Socket::from(OwnedFd::from(as_file));
    socket.bind(address)?;
    socket.listen(BACKLOG)?;
    Ok(UnixListener::from(OwnedFd::from(socket)))
}

/// Connects, without waiting for a place among those that wait.
fn try_connect(path: &Path) -> io::Result<()> {
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)
}

/// Removes a socket that nobody serves.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let own = || path.to_owned();
    let io = |source| SocketError::Io {
        path: own(),
        source,
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io(error)),
        Ok(there) if !there.file_type().is_socket() => {
            return Err(SocketError::NoSocket { path: own() });
        }
        Ok(_) => {}
    }
    match try_connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(io)
        }
        // It is there, and full.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(SocketError::InUse { path: own() })
        }
        Err(error) => Err(io(error)),
        Ok(_) => Err(SocketError::InUse { path: own() }),
    }
}

/// A listener that takes nobody, with as many waiting for it as may.
#[cfg(test)]
pub(in super::super) fn full(path: &Path) -> (socket2::Socket, Vec<socket2::Socket>) {
    let new = || socket2::Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    let address = SockAddr::unix(path).unwrap();
    let listener = new();
    listener.bind(&address).unwrap();
    listener.listen(1).unwrap();
    let mut waiting = Vec::new();
    loop {
        let socket = new();
        socket.set_nonblocking(true).unwrap();
        match socket.connect(&address) {
            Ok(()) => waiting.push(socket),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                return (listener, waiting);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn is_its_owner_s_alone_and_goes_with_its_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let socket = Socket::bind(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        UnixStream::connect(&path).unwrap();
        let error = Socket::bind(&path).unwrap_err();
        assert!(matches!(error, SocketError::InUse { .. }), "{error}");
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn replaces_what_is_stale_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        drop(UnixListener::bind(&path).unwrap());
        let socket = Socket::bind(&path).unwrap();
        // Somebody has put another one in its place.
        fs::remove_file(&path).unwrap();
        let other = UnixListener::bind(&path).unwrap();
        drop(socket);
        UnixStream::connect(&path).unwrap();
        drop(other);
        let file = dir.path().join("file");
        fs::write(&file, "precious").unwrap();
        let error = Socket::bind(&file).unwrap_err();
        assert!(matches!(error, SocketError::NoSocket { .. }), "{error}");
        assert_eq!(fs::read(&file).unwrap(), b"precious");
        std::os::unix::fs::symlink(&file, dir.path().join("link")).unwrap();
        let error = Socket::bind(dir.path().join("link")).unwrap_err();
        assert!(matches!(error, SocketError::NoSocket { .. }), "{error}");
    }

    #[test]
    fn of_many_that_want_the_same_path_one_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        drop(UnixListener::bind(&path).unwrap());
        let sockets: Vec<_> = std::thread::scope(|scope| {
            let bind = || Socket::bind(&path);
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(bind)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert_eq!(sockets.iter().filter(|socket| socket.is_ok()).count(), 1);
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn one_that_is_full_is_in_use_and_nobody_waits_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let (_listener, _waiting) = full(&path);
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || tell.send(Socket::bind(path)));
        let bound = told.recv_timeout(std::time::Duration::from_secs(60));
        let error = bound.expect("it waits").unwrap_err();
        assert!(matches!(error, SocketError::InUse { .. }), "{error}");
    }

    #[test]
    fn says_what_is_wrong_with_a_path() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("x".repeat(108));
        let error = Socket::bind(&long).unwrap_err().to_string();
        assert!(error.contains("107"), "{error}");
        let missing = dir.path().join("missing/socket");
        let error = Socket::bind(&missing).unwrap_err().to_string();
        assert!(
            error.contains("missing/socket") && error.contains("No such file"),
            "{error}"
        );
    }
}
