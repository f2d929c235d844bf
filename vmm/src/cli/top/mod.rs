//! `gracefault top`: a running VM on a terminal, by its API socket.
//!
//! [`state`] has what is shown and [`keys`] changes it; [`rows`] and [`strip`] turn looks
//! at the VM into figures; [`draw`] puts them on a screen; [`terminal`] owns that.

mod draw;
mod figures;
mod keys;
mod looker;
mod rows;
mod sixteen;
mod state;
mod strip;
mod terminal;
mod theme;
mod units;

#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use gracefault::api::ClientError;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use super::{Failure, print_json, print_text, tell};
use keys::Flow;
use looker::Looker;
use state::State;
use terminal::Screen;
use theme::Theme;

#[derive(Args, Debug)]
pub(crate) struct TopArgs {
    /// The socket of the VM: what its --api-socket says.
    #[arg(long, value_name = "PATH")]
    api_socket: PathBuf,
    /// Time from one look at it to the next: 2 (seconds), 500ms.
    #[arg(short, long, value_name = "TIME", default_value = "1s", value_parser = state::parse_delay)]
    delay: Duration,
    /// Look twice, print what is between as text, and end; no terminal is needed.
    #[arg(short = '1', long)]
    once: bool,
    /// With -1: look once, and print that as one JSON object (see vmm/docs/api.md, vm.live).
    #[arg(long, requires = "once")]
    json: bool,
    /// For tests: go wrong.
    #[arg(long = "break", value_name = "WHAT", hide = true)]
    sabotage: Option<Sabotage>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Sabotage {
    /// Panics after the first look is shown.
    Panic,
}

pub(crate) fn top(args: &TopArgs) -> Result<(), Failure> {
    let client = looker::client(&args.api_socket)
        .map_err(|error| Failure::Broken(format!("asking the VM: {error}")))?;
    let live = client.live(None).map_err(cannot)?;
    if args.json {
        return print_json(&live);
    }
    let mut state = State::new(args.delay);
    state.take(live);
    if args.once {
        std::thread::sleep(args.delay);
        // One that has ended meanwhile is shown as it was.
        match client.live(None) {
            Ok(live) => state.take(live),
            Err(error) if error.is_gone() => {}
            Err(error) => return Err(cannot(error)),
        }
        return print_text(&draw::plain(&state, Theme::of_environment(), columns()));
    }
    let signal =
        catch_signals().map_err(|error| Failure::Broken(format!("catching signals: {error}")))?;
    let no_screen = |error: io::Error| Failure::Cannot(format!("top: {error}"));
    let screen = Screen::open().map_err(no_screen)?;
    let looker = Looker::start(client, args.delay)
        .map_err(|error| Failure::Broken(format!("no thread could be started: {error}")))?;
    let mut top = Top {
        state,
        screen,
        looker,
        signal,
        sabotage: args.sabotage,
    };
    let ended = top.run();
    // The terminal first: what follows is to stay on it.
    drop(top);
    match ended {
        Ok(Ended::ByKey) => Ok(()),
        Ok(Ended::Gone(error)) => {
            tell(&format_args!("the VM has ended ({error})"));
            Ok(())
        }
        Ok(Ended::Signal(signal)) => Err(Failure::Signal(signal)),
        // The terminal has gone away.
        Err(error) => Err(Failure::Broken(format!("the terminal: {error}"))),
    }
}

fn cannot(error: ClientError) -> Failure {
    Failure::Cannot(error.to_string())
}

/// As wide as the terminal that it may be, and else as one usually is.
fn columns() -> u16 {
    let of_terminal = ratatui::crossterm::terminal::size().ok();
    of_terminal.map_or(100, |(width, _)| width.clamp(80, 200))
}

/// A cell into which a signal that ends a program stores its number.
fn catch_signals() -> io::Result<Arc<AtomicUsize>> {
    let cell = Arc::new(AtomicUsize::new(0));
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
        signal_hook::flag::register_usize(signal, cell.clone(), signal as usize)?;
    }
    Ok(cell)
}

/// What ended it.
enum Ended {
    ByKey,
    Signal(i32),
    Gone(ClientError),
}

/// How long a signal may wait.
const TICK: Duration = Duration::from_millis(50);

struct Top {
    state: State,
    screen: Screen,
    looker: Looker,
    signal: Arc<AtomicUsize>,
    sabotage: Option<Sabotage>,
}

impl Top {
    fn run(&mut self) -> io::Result<Ended> {
        let theme = Theme::of_environment();
        let mut drawn = None::<Instant>;
        let mut changed = true;
        loop {
            // Without anything new, too: it may have been drawn over.
            if changed || drawn.is_none_or(|at| at.elapsed() > Duration::from_secs(1)) {
                let state = &self.state;
                self.screen
                    .terminal()
                    .draw(|frame| draw::draw(frame, state, theme))?;
                drawn = Some(Instant::now());
            }
            assert!(self.sabotage.is_none(), "on purpose");
            changed = false;
            self.screen.wait(TICK)?;
            if event::poll(Duration::ZERO)? {
                match event::read()? {
                    Event::Key(key) if key.kind != KeyEventKind::Release => {
                        if let Some(ended) = self.press(key)? {
                            return Ok(ended);
                        }
                    }
                    _ => {}
                }
                changed = true;
            }
            let signal = self.signal.load(Ordering::Relaxed);
            if signal != 0 {
                return Ok(Ended::Signal(signal as i32));
            }
            while let Some(look) = self.looker.next() {
                changed = true;
                match look {
                    Ok(live) => self.state.take(*live),
                    Err(error) if error.is_gone() => return Ok(Ended::Gone(error)),
                    Err(error) => self.state.trouble = Some(error.to_string()),
                }
            }
        }
    }

    fn press(&mut self, key: event::KeyEvent) -> io::Result<Option<Ended>> {
        let delay = self.state.delay;
        let flow = keys::press(&mut self.state, key);
        if self.state.delay != delay {
            self.looker.set_delay(self.state.delay);
        }
        match flow {
            Flow::GoOn => {}
            Flow::Redraw => self.screen.terminal().clear()?,
            Flow::Look => self.looker.look_now(),
            Flow::Suspend => self.screen.suspend()?,
            Flow::Quit => return Ok(Some(Ended::ByKey)),
        }
        Ok(None)
    }
}
