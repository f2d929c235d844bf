//! What each key does: as in `kvm_stat` where that has it, else as in `htop`.

use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::rows::{Sort, Span};
use super::state::{Entry, Focus, State};

/// What a key asks of who owns the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// Draw, and go on.
    GoOn,
    /// Draw everything anew.
    Redraw,
    /// Look at the VM now.
    Look,
    /// Stop the process, as Ctrl-Z does.
    Suspend,
    /// End.
    Quit,
}

/// For the help page: keys, and what they do.
pub(super) const HELP: &[(&str, &str)] = &[
    ("q F10 Ctrl-C", "quit"),
    ("? h F1", "this help"),
    ("Tab", "move in the vCPUs, or in the exits"),
    ("Up Down k j", "choose a row; its histogram is shown"),
    ("PgUp PgDn Home End", "further"),
    ("o t", "figures of the interval, or in total"),
    ("c", "clear: total counts from now on"),
    ("> < F6", "sort by the next column, the one before"),
    ("N R T P M A", "by count, rate, time, p99, max, address"),
    ("I r", "the other way round"),
    ("f / F4", "only exits that contain a text"),
    ("s", "time between looks"),
    ("+ -", "longer, shorter"),
    ("Space Z", "freeze, go on"),
    ("Enter", "look now"),
    ("Ctrl-L", "draw anew"),
    ("Ctrl-Z", "suspend"),
];

/// How far a page goes.
const PAGE: isize = 10;

/// Does what a key asks for.
pub(super) fn press(state: &mut State, key: KeyEvent) -> Flow {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    if control {
        match key.code {
            KeyCode::Char('c') => return Flow::Quit,
            KeyCode::Char('l') => return Flow::Redraw,
            KeyCode::Char('z') => return Flow::Suspend,
            _ => return Flow::GoOn,
        }
    }
    if state.entry.is_some() {
        return type_in(state, key.code);
    }
    if state.help {
        state.help = false;
        return match key.code {
            KeyCode::Char('q') | KeyCode::F(10) => Flow::Quit,
            _ => Flow::GoOn,
        };
    }
    match key.code {
        KeyCode::Char('q') | KeyCode::F(10) => return Flow::Quit,
        KeyCode::Enter => return Flow::Look,
        KeyCode::Char('?' | 'h') | KeyCode::F(1) => state.help = true,
        KeyCode::Char(' ' | 'Z') => state.frozen ^= true,
        KeyCode::Char('f' | '/') | KeyCode::F(4) => {
            state.entry = Some((Entry::Filter, state.filter.clone()));
        }
        KeyCode::Char('s') => state.entry = Some((Entry::Delay, String::new())),
        KeyCode::Char('+') => change_delay(state, |delay| delay * 2),
        KeyCode::Char('-') => change_delay(state, |delay| delay / 2),
        KeyCode::Char('c') => state.clear(),
        KeyCode::Char('o' | 't') => {
            state.span = match state.span {
                Span::Interval => Span::Total,
                Span::Total => Span::Interval,
            }
        }
        // Leaves what one is in: the message first, then the filter.
        KeyCode::Esc => match state.trouble.take() {
            Some(_) => {}
            None => state.filter.clear(),
        },
        code if move_by(state, code) => {}
        code => sort_by(state, code),
    }
    Flow::GoOn
}

fn change_delay(state: &mut State, change: impl FnOnce(Duration) -> Duration) {
    let [least, most] = [Duration::from_millis(100), Duration::from_secs(60)];
    state.delay = change(state.delay).clamp(least, most);
}

/// Whether the key is one that moves.
fn move_by(state: &mut State, code: KeyCode) -> bool {
    let rows = match code {
        KeyCode::Up | KeyCode::Char('k') => -1,
        KeyCode::Down | KeyCode::Char('j') => 1,
        KeyCode::PageUp => -PAGE,
        KeyCode::PageDown => PAGE,
        KeyCode::Home | KeyCode::Char('g') => isize::MIN,
        KeyCode::End | KeyCode::Char('G') => isize::MAX,
        KeyCode::Tab | KeyCode::BackTab => {
            state.focus = match state.focus {
                Focus::Vcpus => Focus::Exits,
                Focus::Exits => Focus::Vcpus,
            };
            return true;
        }
        _ => return false,
    };
    state.step(rows);
    true
}

fn sort_by(state: &mut State, code: KeyCode) {
    let sort = match code {
        KeyCode::Char('>' | '.') | KeyCode::F(6) => state.sort.step(true),
        KeyCode::Char('<' | ',') => state.sort.step(false),
        KeyCode::Char('N') => Sort::Count,
        KeyCode::Char('R') => Sort::Rate,
        KeyCode::Char('T') => Sort::TimeShare,
        KeyCode::Char('P') => Sort::P99,
        KeyCode::Char('M') => Sort::Max,
        KeyCode::Char('A') => Sort::Address,
        KeyCode::Char('I' | 'r') => {
            state.reversed ^= true;
            return;
        }
        _ => return,
    };
    (state.sort, state.reversed) = (sort, false);
}

/// The most that can be typed.
const LONGEST: usize = 64;

fn type_in(state: &mut State, code: KeyCode) -> Flow {
    let Some((_, text)) = &mut state.entry else {
        return Flow::GoOn;
    };
    match code {
        KeyCode::Esc => state.entry = None,
        KeyCode::Enter => state.entered(),
        KeyCode::Backspace => drop(text.pop()),
        KeyCode::Char(c) if text.len() < LONGEST && !c.is_control() => text.push(c),
        _ => {}
    }
    Flow::GoOn
}
