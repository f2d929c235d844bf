//! The terminal, which is given back as it was whatever happens.

use std::fs::File;
use std::io::{self, IsTerminal, Stdout, stdin, stdout};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use signal_hook::consts::SIGSTOP;

use super::sixteen::Sixteen;

/// Whether the terminal is ours at the moment.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// A screen of our own on the terminal. Dropping it gives the terminal back.
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<Sixteen<Stdout>>>,
    /// Where keys come from.
    keys: OwnedFd,
}

impl Screen {
    /// Takes the terminal behind stdout.
    pub(super) fn open() -> io::Result<Self> {
        if !stdout().is_terminal() {
            let what = "stdout is no terminal: `top -1` prints once, to anything";
            return Err(io::Error::other(what));
        }
        // As crossterm has it.
        let keys = match stdin().is_terminal() {
            true => stdin().as_fd().try_clone_to_owned()?,
            false => File::open("/dev/tty")?.into(),
        };
        give_back_on_panic();
        take()?;
        match Terminal::new(CrosstermBackend::new(Sixteen::new(stdout()))) {
            Ok(terminal) => Ok(Self { terminal, keys }),
            Err(error) => {
                give_back();
                Err(error)
            }
        }
    }

    /// Where to draw.
    pub(super) fn terminal(&mut self) -> &mut Terminal<CrosstermBackend<Sixteen<Stdout>>> {
        &mut self.terminal
    }

    /// Waits until a key is pressed, a signal comes, or `time` is over. Fails if the
    /// terminal has gone away: who reads from it then is told of its end again and again,
    /// and crossterm reads on for ever.
    pub(super) fn wait(&self, time: Duration) -> io::Result<()> {
        let mut keys = libc::pollfd {
            fd: self.keys.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let ms = i32::try_from(time.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one descriptor, which is open as long as `self` is there.
        if unsafe { libc::poll(&raw mut keys, 1, ms) } < 0 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::Interrupted => Ok(()),
                _ => Err(error),
            };
        }
        match keys.revents & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) {
            0 => Ok(()),
            _ => Err(io::Error::other("it has gone away")),
        }
    }

    /// Gives the terminal back while the process is stopped, as by Ctrl-Z in a shell, and
    /// takes it again when it goes on.
    pub(super) fn suspend(&mut self) -> io::Result<()> {
        give_back();
        // It cannot be caught, so no handler is in its way.
        signal_hook::low_level::raise(SIGSTOP)?;
        take()?;
        self.terminal.clear()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

fn take() -> io::Result<()> {
    enable_raw_mode()?;
    TAKEN.store(true, Ordering::SeqCst);
    execute!(stdout(), EnterAlternateScreen, Hide).inspect_err(|_| give_back())
}

/// Gives it back, once. There is nobody to tell of an error: the terminal may be gone.
fn give_back() {
    if TAKEN.swap(false, Ordering::SeqCst) {
        let _ = execute!(stdout(), LeaveAlternateScreen, Show);
        let _ = disable_raw_mode();
    }
}

/// A panic's message is to be readable.
fn give_back_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            give_back();
            before(panic);
        }));
    });
}
