//! A stand-in for a VM's API socket: it answers with looks at a VM that are files, and as
//! badly as it is told to.
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

/// How it answers.
pub(crate) const WELL: usize = 0;
/// It takes a connection, and never answers.
pub(crate) const NEVER: usize = 1;
/// It answers with what is no JSON.
pub(crate) const GARBAGE: usize = 2;
/// What has a name is called by what clears a screen.
pub(crate) const CLEARING: usize = 3;

const LOOKS: [&str; 2] = [
    include_str!("../data/top/before.json"),
    include_str!("../data/top/now.json"),
];

/// One that answers until it is dropped.
pub(crate) struct FakeApi {
    dir: TempDir,
    how: Arc<AtomicUsize>,
    asked: Arc<AtomicU64>,
}

impl FakeApi {
    pub(crate) fn start() -> Self {
        let dir = TempDir::new().expect("a temporary directory can be made");
        let listener = UnixListener::bind(dir.path().join("api")).expect("it can be bound");
        let (how, asked) = (
            Arc::new(AtomicUsize::new(WELL)),
            Arc::new(AtomicU64::new(0)),
        );
        let (of_thread, counted) = (how.clone(), asked.clone());
        // Not joined: it ends with the process.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (how, number) = (of_thread.load(SeqCst), counted.fetch_add(1, SeqCst));
                thread::spawn(move || answer(stream, how, number));
            }
        });
        Self { dir, how, asked }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("api")
    }

    /// Answers so from now on.
    pub(crate) fn answer(&self, how: usize) {
        self.how.store(how, SeqCst);
    }

    /// How many have asked.
    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(SeqCst)
    }

    /// Nobody comes in any more.
    pub(crate) fn vanish(&self) {
        std::fs::remove_file(self.path()).expect("it is there");
    }
}

fn answer(mut stream: UnixStream, how: usize, number: u64) {
    let mut request = Vec::<u8>::new();
    let mut some = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut some) {
            Ok(len @ 1..) => request.extend(&some[..len]),
            _ => return,
        }
    }
    let look = LOOKS[usize::from(number > 0)];
    let body = match how {
        WELL => look.to_owned(),
        CLEARING => look.replace("hotplug", "\\u001b[2J"),
        GARBAGE => "<html>".to_owned(),
        _ => {
            thread::sleep(Duration::from_secs(600));
            return;
        }
    };
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(body.as_bytes());
}

/// Where nobody ever was.
pub(crate) fn nowhere() -> &'static Path {
    Path::new("/nonexistent/api")
}
