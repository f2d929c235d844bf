//! The `gracefault` command as a child process that cannot outlive its test.
use std::ffi::OsStr;
use std::fmt;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

/// When a command has hung. Far more than any takes, however slow the machine.
pub(crate) const HANG: Duration = Duration::from_secs(240);

/// The command, with arguments, and no input.
pub(crate) fn gracefault<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Command {
    let built = env!("CARGO_BIN_EXE_gracefault");
    let binary = std::env::var_os("GRACEFAULT_BIN").unwrap_or_else(|| built.into());
    let mut command = Command::new(binary);
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs the command to its end. Words are separated by single spaces.
pub(crate) fn run(words: &str) -> Ended {
    Running::start(gracefault(words.split(' '))).wait()
}

/// A command that is running. Killed if it is dropped, so also by a failed test.
pub(crate) struct Running {
    child: Child,
    what: String,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
}

impl Running {
    /// Starts `command`; stdout and stderr go to pipes that are read meanwhile.
    pub(crate) fn start(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut running = Self::start_as_is(command);
        running.stdout = running.child.stdout.take().map(gather);
        running.stderr = running.child.stderr.take().map(gather);
        running
    }

    /// Starts `command` with whatever stdout and stderr it was given.
    pub(crate) fn start_as_is(mut command: Command) -> Self {
        let what = format!("{command:?}");
        let child = command
            .spawn()
            .unwrap_or_else(|e| panic!("{what} cannot be started: {e}"));
        Self {
            child,
            what,
            stdout: None,
            stderr: None,
        }
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: i32) {
        // SAFETY: a signal to a child that has not been waited for, so the id is
        // still its own.
        let failed = unsafe { libc::kill(self.child.id() as i32, signal) };
        assert_eq!(failed, 0, "{}: signal {signal}", self.what);
    }

    /// Waits for the end, and panics if that does not come.
    pub(crate) fn wait(mut self) -> Ended {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                break status;
            }
            assert!(start.elapsed() < HANG, "{} hangs", self.what);
            thread::sleep(Duration::from_millis(10));
        };
        let text = |gathered: &mut Option<JoinHandle<String>>| match gathered.take() {
            Some(thread) => thread.join().expect("reading a pipe does not panic"),
            None => String::new(),
        };
        let ended = Ended {
            status,
            stdout: text(&mut self.stdout),
            stderr: text(&mut self.stderr),
            what: std::mem::take(&mut self.what),
        };
        let panicked = ended.stderr.contains("panicked at") || ended.stdout.contains("panicked at");
        assert!(!panicked, "a panic: {ended}");
        ended
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended, and been waited for: then these do nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn gather(mut pipe: impl Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8(bytes).expect("output is UTF-8")
    })
}

/// A command that has ended.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    what: String,
}

impl Ended {
    /// Panics unless the exit status is this.
    #[track_caller]
    pub(crate) fn expect_status(&self, status: i32) -> &Self {
        assert_eq!(self.status.code(), Some(status), "{self}");
        self
    }

    /// Panics unless stderr is one message of the command's that has these words.
    #[track_caller]
    pub(crate) fn expect_message(&self, words: &[&str]) -> &Self {
        let lines: Vec<_> = self.stderr.lines().collect();
        assert!(
            lines.len() == 1 && lines[0].starts_with("gracefault: "),
            "one message: {self}"
        );
        self.expect_words(words)
    }

    /// Panics unless stderr has these words.
    #[track_caller]
    pub(crate) fn expect_words(&self, words: &[&str]) -> &Self {
        for word in words {
            assert!(self.stderr.contains(word), "no '{word}': {self}");
        }
        self
    }

    /// Stdout, which must be one JSON object.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        let value: Value =
            serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("no JSON ({e}): {self}"));
        assert!(value.is_object(), "{self}");
        value
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            status,
            stdout,
            stderr,
            what,
        } = self;
        let (code, signal) = (status.code(), status.signal());
        let tail: String = stdout.chars().take(6000).collect();
        write!(
            f,
            "{what}\nstatus {code:?}, signal {signal:?}\n-- stderr\n{stderr}\n-- stdout\n{tail}"
        )
    }
}
