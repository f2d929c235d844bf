//! A command with a socket, and what tests ask of it.
use std::path::{Path, PathBuf};
use std::time::Duration;

use gracefault::api::Client;
use serde_json::Value;

use crate::command::{Ended, HANG, Running, gracefault};
use crate::contract::get;
use crate::stand_in::until;

/// `gracefault` with `--api-socket`, at work.
pub(crate) struct Steered {
    running: Option<Running>,
    pub(crate) socket: PathBuf,
    pub(crate) client: Client,
    _dir: tempfile::TempDir,
}

impl Steered {
    /// Starts it. Words are separated by single spaces.
    pub(crate) fn start(words: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let mut command = gracefault(words.split(' '));
        command.arg("--api-socket").arg(&socket);
        let running = Running::start(command);
        let client = Client::new(&socket).unwrap().with_patience(HANG);
        until("the socket is served", || client.ping().is_ok());
        Self {
            running: Some(running),
            socket,
            client,
            _dir: dir,
        }
    }

    /// A VM that does nothing but what it is told, and prints JSON at its end.
    pub(crate) fn quiet(words: &str) -> Self {
        let vm = Self::start(format!("run --no-churn --json {words}").trim_end());
        vm.verifies();
        vm
    }

    /// Waits until the guest has verified some more memory.
    pub(crate) fn verifies(&self) {
        let before = self.count("guest", "rounds");
        until("the guest goes on", || {
            self.count("guest", "rounds") > before + 2
        });
    }

    pub(crate) fn count(&self, group: &str, name: &str) -> u64 {
        self.client.counters().unwrap()[group][name]
    }

    pub(crate) fn running(&mut self) -> &mut Running {
        self.running.as_mut().expect("not ended")
    }

    pub(crate) fn get(&self, path: &str) -> Value {
        get(&self.socket, path)
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Tells it to end, and waits for that.
    pub(crate) fn shut_down(mut self) -> Ended {
        self.client.shutdown().unwrap();
        let ended = self.running.take().expect("not ended").wait();
        assert!(!self.socket.exists(), "the socket is still there");
        ended
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> Ended {
        let ended = self.running.take().expect("not ended").wait();
        assert!(!self.socket.exists(), "the socket is still there");
        ended
    }

    /// Runs another command on it.
    pub(crate) fn ctl(&self, words: &str) -> Ended {
        let mut command = gracefault(words.split(' '));
        command.arg("--api-socket").arg(&self.socket);
        Running::start(command).wait()
    }
}

/// A passed run's report.
#[track_caller]
pub(crate) fn passed(ended: &Ended) -> Value {
    let report = ended.expect_status(0).json();
    assert_eq!(report["verdict"], "passed", "{ended}");
    assert_eq!(report["guest"]["mismatches"], 0, "{ended}");
    report
}

pub(crate) const SOON: Duration = Duration::from_millis(200);
