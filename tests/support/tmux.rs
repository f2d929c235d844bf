//! A real terminal, by tmux: keys go in, and the screen is read.
use std::error::Error;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::{Completion, Trial};
use tempfile::TempDir;

use super::Outcome;
use super::required::{self, left_out};

/// When something does not come any more. Far more than anything takes.
const HANG: Duration = Duration::from_secs(90);

/// A test that needs tmux. Where that is not installed it is reported as ignored, or as
/// failed if `GRACEFAULT_REQUIRE_TMUX` is 1.
pub(crate) fn tmux_test(name: &str, test: fn() -> Outcome) -> Trial {
    Trial::ignorable_test(name, move || {
        if let Some(reason) = missing() {
            return Ok(left_out(required::TMUX, reason)?);
        }
        test().map_err(|error| error.to_string())?;
        Ok(Completion::Completed)
    })
}

/// Why there is no tmux, if there is none.
pub(crate) fn missing() -> Option<&'static str> {
    match Command::new("tmux").arg("-V").output() {
        Ok(output) if output.status.success() => None,
        _ => Some("tmux is not installed"),
    }
}

/// A terminal in which a command runs, and after it, if it ends, a shell that tells how.
pub(crate) struct Terminal {
    server: String,
    dir: TempDir,
}

/// What is in a script of a terminal.
pub(crate) struct Script<'a> {
    /// The command, as a shell has it.
    pub(crate) command: &'a str,
    pub(crate) width: u16,
    pub(crate) height: u16,
    /// Variables of its environment.
    pub(crate) env: &'a [(&'a str, &'a str)],
    /// What the shell does once the command has ended, or stopped.
    pub(crate) then: &'a str,
}

impl<'a> Script<'a> {
    /// The command on a terminal of the usual size.
    pub(crate) fn of(command: &'a str) -> Self {
        Self {
            command,
            width: 80,
            height: 24,
            env: &[],
            then: "",
        }
    }

    /// Opens the terminal, and starts it.
    pub(crate) fn start(&self) -> Result<Terminal, Box<dyn Error>> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let dir = TempDir::new()?;
        let number = NUMBER.fetch_add(1, Relaxed);
        let server = format!("gracefault-test-{}-{number}", std::process::id());
        let path = dir.path().to_owned();
        let at = |name: &str| path.join(name);
        // A shell ends with a child that Ctrl-C ends, unless it catches that itself.
        let mut script = String::from("set -m\ntrap : INT\necho 'the line before'\n");
        writeln!(script, "stty -g >{}", at("before").display())?;
        // The number of the command itself, which the shell waits for.
        let pid = at("pid").display().to_string();
        writeln!(script, "sh -c 'echo $$ >{pid}; exec {}'", self.command)?;
        writeln!(
            script,
            "echo \"status $?\"\nstty -g >{}",
            at("after").display()
        )?;
        writeln!(script, "{}\necho 'no more'\nsleep 1000", self.then)?;
        std::fs::write(at("script"), script)?;
        std::fs::write(
            at("conf"),
            "set -g status off\nset -g default-terminal screen-256color\n",
        )?;
        let terminal = Terminal { server, dir };
        let mut command = terminal.tmux();
        command.arg("-f").arg(at("conf")).arg("-u");
        command.args(["new-session", "-d"]);
        command.args([
            "-x",
            &self.width.to_string(),
            "-y",
            &self.height.to_string(),
        ]);
        for (name, value) in [("LC_ALL", "C.UTF-8")].iter().chain(self.env) {
            command.arg("-e").arg(format!("{name}={value}"));
        }
        command.arg(format!("sh {}", at("script").display()));
        // One that calls itself a terminal of its own would have itself nested.
        command.env_remove("TMUX").env_remove("NO_COLOR");
        let output = command.output()?;
        match output.status.success() {
            true => Ok(terminal),
            false => Err(String::from_utf8_lossy(&output.stderr).into()),
        }
    }
}

impl Terminal {
    fn tmux(&self) -> Command {
        let mut command = Command::new("tmux");
        command.args(["-L", &self.server]);
        command
    }

    fn ask(&self, arguments: &[&str]) -> String {
        let output = self.tmux().args(arguments).output().expect("tmux runs");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Presses keys, in tmux's words: `q`, `Down`, `C-z`.
    pub(crate) fn press(&self, keys: &[&str]) {
        self.ask(&[&["send-keys", "-t", ":0"], keys].concat());
    }

    /// Has another size.
    pub(crate) fn resize(&self, width: u16, height: u16) {
        let (width, height) = (width.to_string(), height.to_string());
        self.ask(&["resize-window", "-t", ":0", "-x", &width, "-y", &height]);
    }

    /// What is on the screen, a line each.
    pub(crate) fn screen(&self) -> String {
        self.ask(&["capture-pane", "-p", "-t", ":0"])
    }

    /// The same with the terminal's codes for colours and the like.
    pub(crate) fn screen_with_colours(&self) -> String {
        self.ask(&["capture-pane", "-p", "-e", "-t", ":0"])
    }

    /// Waits until the screen is as it should be, which must come; the screen.
    #[track_caller]
    pub(crate) fn wait(&self, what: &str, is_so: impl Fn(&str) -> bool) -> String {
        let since = Instant::now();
        loop {
            let screen = self.screen();
            if is_so(&screen) {
                return screen;
            }
            assert!(since.elapsed() < HANG, "{what} does not come:\n{screen}");
            thread::sleep(Duration::from_millis(30));
        }
    }

    /// Waits until this is on the screen.
    #[track_caller]
    pub(crate) fn wait_for(&self, text: &str) -> String {
        self.wait(&format!("'{text}'"), |screen| screen.contains(text))
    }

    /// The command's process.
    pub(crate) fn pid(&self) -> i32 {
        let text = self.file("pid");
        text.trim()
            .parse()
            .expect("the shell has written its number")
    }

    fn file(&self, name: &str) -> String {
        let path: PathBuf = Path::new(self.dir.path()).join(name);
        std::fs::read_to_string(path).expect("the shell has written it")
    }

    /// Waits until the command has ended with this status, and the terminal is as it was:
    /// what was there before, the cursor, and how it treats what is typed.
    #[track_caller]
    pub(crate) fn assert_given_back(&self, status: i32) -> String {
        self.wait_for("no more");
        let screen = self.screen();
        assert!(screen.contains("the line before"), "{screen}");
        assert!(screen.contains(&format!("status {status}\n")), "{screen}");
        let flags = "#{alternate_on} #{cursor_flag} #{keypad_cursor_flag}";
        let flags = self.ask(&["display-message", "-p", "-t", ":0", flags]);
        assert_eq!(flags.trim(), "0 1 0", "{screen}");
        assert_eq!(self.file("after"), self.file("before"));
        screen
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // With all that runs in it.
        let _ = self.tmux().arg("kill-server").output();
    }
}
