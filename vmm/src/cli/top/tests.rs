//! What is on the screen for two looks at a VM, which are files: `tests/data/top`, and
//! the screens beside them. `GRACEFAULT_BLESS=1` writes the screens anew.

use std::path::Path;
use std::time::Duration;

use gracefault::api::model::{Live, VmState};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::Color;

use super::draw;
use super::keys::{Flow, press};
use super::rows::{Sort, Span};
use super::state::{Focus, State, parse_delay};
use super::strip::{There, strip};
use super::theme::Theme;

const BEFORE: &str = include_str!("../../../../tests/data/top/before.json");
const NOW: &str = include_str!("../../../../tests/data/top/now.json");

const THEME: Theme = Theme {
    colour: true,
    ascii: false,
};

fn looks() -> [Live; 2] {
    [BEFORE, NOW].map(|text| serde_json::from_str(text).expect("it is a look"))
}

/// After two looks.
fn state() -> State {
    let mut state = State::new(Duration::from_secs(1));
    looks().into_iter().for_each(|live| state.take(live));
    state
}

fn keys(state: &mut State, keys: &str) {
    for key in keys.chars() {
        press(state, KeyEvent::new(KeyCode::Char(key), KeyModifiers::NONE));
    }
}

fn code(state: &mut State, code: KeyCode) -> Flow {
    press(state, KeyEvent::new(code, KeyModifiers::NONE))
}

fn screen(state: &State, theme: Theme, width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let drawn = terminal.draw(|frame| draw::draw(frame, state, theme));
    drawn.unwrap().buffer.clone()
}

fn text(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width);
    let rows = buffer.content.chunks(width).map(|row| {
        let row: String = row.iter().map(|cell| cell.symbol()).collect();
        row.trim_end().to_owned() + "\n"
    });
    rows.collect()
}

/// Asserts that the screen is as the file of this name says.
#[track_caller]
fn assert_screen(name: &str, shown: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/top");
    let path = root.join(name).with_extension("txt");
    if std::env::var_os("GRACEFAULT_BLESS").is_some() {
        std::fs::write(&path, shown).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        expected == shown,
        "{name} is not as it was; if that is right, GRACEFAULT_BLESS=1 writes it anew:\n{shown}"
    );
}

#[test]
fn the_usual_and_a_large_screen() {
    let state = state();
    assert_screen("screen-80x24", &text(&screen(&state, THEME, 80, 24)));
    assert_screen("screen-200x60", &text(&screen(&state, THEME, 200, 60)));
}

#[test]
fn the_help_page_fits_the_usual_screen() {
    let mut state = state();
    keys(&mut state, "?");
    assert_screen("help-80x24", &text(&screen(&state, THEME, 80, 24)));
    assert_eq!(code(&mut state, KeyCode::Esc), Flow::GoOn);
    assert!(!state.help);
}

#[test]
fn once_is_text() {
    assert_screen("once", &draw::plain(&state(), THEME, 100));
}

#[test]
fn a_terminal_without_colours_or_characters_shows_as_much() {
    let theme = Theme {
        colour: false,
        ascii: true,
    };
    let buffer = screen(&state(), theme, 80, 24);
    for cell in &buffer.content {
        assert_eq!((cell.fg, cell.bg), (Color::Reset, Color::Reset));
        assert!(cell.symbol().is_ascii(), "{}", cell.symbol());
    }
    let [plain, coloured] = [buffer, screen(&state(), THEME, 80, 24)];
    // The chosen row, and a column's head, can be seen without.
    assert!(plain.content.iter().any(|cell| !cell.modifier.is_empty()));
    for word in ["vCPU 1 waits", "RUNNING", "HISTOGRAM", "unmaps 0x"] {
        assert!(
            text(&plain).contains(word) && text(&coloured).contains(word),
            "{word}"
        );
    }
}

#[test]
fn no_size_and_no_data_is_too_much_for_it() {
    let mut states = [State::new(Duration::from_secs(1)), state()];
    let [mut empty, _] = looks();
    (empty.vcpus, empty.map) = (Vec::new(), Vec::new());
    (empty.exits.rows, empty.sections.last) = (Vec::new(), Vec::new());
    empty.info.memory = Default::default();
    let mut third = State::new(Duration::from_secs(1));
    third.take(empty);
    for state in states.iter_mut().chain([&mut third]) {
        for (width, height) in [
            (1, 1),
            (20, 5),
            (59, 20),
            (60, 20),
            (139, 21),
            (140, 20),
            (500, 200),
        ] {
            screen(state, THEME, width, height);
        }
        for key in "kjgGotcNRTPMAIr><f".chars() {
            keys(state, &key.to_string());
        }
        code(state, KeyCode::Enter);
        draw::plain(state, THEME, 80);
    }
}

#[test]
fn rates_and_shares_are_of_the_interval() {
    let mut state = state();
    let [before, now] = looks();
    let row = &state.vcpus()[0];
    let expected = now.vcpus[0].exits.count - before.vcpus[0].exits.count;
    assert_eq!(row.exits_per_second, Some(expected as f64));
    assert_eq!(row.figures.count, expected);
    assert_eq!(
        row.in_guest.map(|share| (share * 100.0).round()),
        Some(46.0)
    );
    let all = |state: &State| {
        state
            .exits()
            .iter()
            .map(|row| row.figures.count)
            .sum::<u64>()
    };
    assert_eq!(all(&state), now.exits.all.count - before.exits.all.count);
    keys(&mut state, "o");
    assert_eq!(state.span, Span::Total);
    assert_eq!(all(&state), now.exits.all.count);
    // Cleared, in total: nothing since.
    keys(&mut state, "c");
    assert_eq!(all(&state), 0);
}

#[test]
fn the_chosen_row_stays_chosen_and_keys_move_it() {
    let mut state = state();
    let chosen = |state: &State| {
        let rows = state.exits();
        rows[state.chosen_exit(&rows)].key.clone()
    };
    code(&mut state, KeyCode::Down);
    code(&mut state, KeyCode::Down);
    let third = chosen(&state);
    assert_eq!(third, state.exits()[2].key);
    for sort in Sort::ALL {
        keys(&mut state, ">");
        assert_eq!(chosen(&state), third, "{sort:?}");
    }
    code(&mut state, KeyCode::End);
    assert_eq!(chosen(&state), state.exits().last().unwrap().key);
    code(&mut state, KeyCode::Home);
    assert_eq!(chosen(&state), state.exits()[0].key);
    code(&mut state, KeyCode::Tab);
    assert_eq!(state.focus, Focus::Vcpus);
    code(&mut state, KeyCode::PageDown);
    assert_eq!(state.chosen_vcpu(&state.vcpus()), 3);
}

#[test]
fn each_column_sorts_and_the_other_way_round() {
    let mut state = state();
    let keys_of = |state: &State| {
        state
            .exits()
            .into_iter()
            .map(|row| row.key)
            .collect::<Vec<_>>()
    };
    keys(&mut state, "A");
    assert_eq!(keys_of(&state)[..2], ["INTR", "0x3f8:POUT"]);
    keys(&mut state, "I");
    assert_eq!(keys_of(&state)[0], "0x102200000:R");
    for (key, value) in [
        (
            'N',
            (|row| row.figures.count) as fn(&super::rows::ExitRow) -> u64,
        ),
        ('P', |row| row.figures.p99_ns),
        ('M', |row| row.figures.max_ns),
        ('T', |row| (row.time_share * 1e9) as u64),
        ('R', |row| row.per_second.unwrap() as u64),
    ] {
        keys(&mut state, &key.to_string());
        let values: Vec<_> = state.exits().iter().map(value).collect();
        assert!(values.is_sorted_by(|a, b| a >= b), "{key}: {values:?}");
    }
}

#[test]
fn what_is_typed_filters_or_sets_the_time() {
    let mut state = state();
    keys(&mut state, "fHotplugx");
    code(&mut state, KeyCode::Backspace);
    // While typing, no key does anything else.
    assert!(!state.frozen && state.sort == Sort::default());
    code(&mut state, KeyCode::Enter);
    assert_eq!(state.exits().len(), 4);
    code(&mut state, KeyCode::Esc);
    assert!(state.exits().len() > 4);
    keys(&mut state, "s250ms");
    code(&mut state, KeyCode::Enter);
    assert_eq!(state.delay, Duration::from_millis(250));
    keys(&mut state, "snever");
    code(&mut state, KeyCode::Enter);
    assert!(state.trouble.is_some() && state.delay == Duration::from_millis(250));
    let shown = text(&screen(&state, THEME, 80, 24));
    assert!(shown.contains("'never': "), "{shown}");
    keys(&mut state, "+");
    assert_eq!(state.delay, Duration::from_millis(500));
    for (text, delay) in [
        ("2", Some(2000)),
        ("0.1", Some(100)),
        ("1m", Some(60_000)),
        ("0", None),
        ("-1", None),
        ("NaN", None),
        ("1d", None),
    ] {
        let parsed = parse_delay(text).ok().map(|delay| delay.as_millis());
        assert_eq!(parsed, delay, "{text}");
    }
}

#[test]
fn frozen_nothing_moves_and_another_vm_begins_anew() {
    let mut state = state();
    let [before, _] = looks();
    keys(&mut state, " ");
    state.take(before.clone());
    assert_eq!(state.live().unwrap().now_ns, looks()[1].now_ns);
    keys(&mut state, " ");
    // A clock that went back, or another process.
    state.take(before);
    assert_eq!(state.vcpus()[0].exits_per_second, None);
    assert_eq!(state.history(0).count(), 0);
    assert_eq!(
        state.vcpus()[0].figures.count,
        looks()[0].vcpus[0].exits.count
    );
    let mut ended = looks()[1].clone();
    ended.info.state = VmState::Ended;
    state.take(ended);
    assert!(text(&screen(&state, THEME, 80, 24)).contains("ENDED"));
}

#[test]
fn keys_that_end() {
    let mut state = state();
    for (code, modifiers, flow) in [
        (KeyCode::Char('q'), KeyModifiers::NONE, Flow::Quit),
        (KeyCode::F(10), KeyModifiers::NONE, Flow::Quit),
        (KeyCode::Char('c'), KeyModifiers::CONTROL, Flow::Quit),
        (KeyCode::Char('z'), KeyModifiers::CONTROL, Flow::Suspend),
        (KeyCode::Char('l'), KeyModifiers::CONTROL, Flow::Redraw),
        (KeyCode::Enter, KeyModifiers::NONE, Flow::Look),
        (KeyCode::Char('x'), KeyModifiers::NONE, Flow::GoOn),
    ] {
        assert_eq!(
            press(&mut state, KeyEvent::new(code, modifiers)),
            flow,
            "{code:?}"
        );
    }
    // Also while something is typed.
    keys(&mut state, "f");
    let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(press(&mut state, control_c), Flow::Quit);
}

#[test]
fn the_strip_shows_what_is_there_and_what_has_changed() {
    let [before, now] = looks();
    let parts = strip(&now, Some(&before), 100);
    let names: Vec<_> = parts.iter().map(|part| part.name.as_str()).collect();
    assert_eq!(names, ["anon", "devices", "blocks"]);
    let blocks = &parts[2].cells;
    // A cell a block.
    assert_eq!(blocks.len(), 64);
    let there = |at: usize| blocks[at].there;
    assert_eq!(
        [there(0), there(2), there(3)],
        [There::All, There::Nothing, There::All]
    );
    // The open section's.
    let locked: Vec<_> = (0..64).filter(|at| blocks[*at].locked).collect();
    assert_eq!(locked, [3]);
    assert!(blocks.iter().any(|cell| cell.changed) && blocks.iter().any(|cell| !cell.changed));
    assert!(
        strip(&now, None, 100)[2]
            .cells
            .iter()
            .all(|cell| !cell.changed)
    );
    // Several blocks a cell: some of them there.
    let narrow = strip(&now, None, 50);
    assert!(narrow[2].cells.iter().any(|cell| cell.there == There::Some));
    // Without blocks all is to scale.
    let mut storm = now;
    storm.info.memory = Default::default();
    let parts = strip(&storm, None, 40);
    assert_eq!((parts.len(), parts[0].cells.len()), (1, 40));
}

/// Whatever says that it is a VM: its numbers are shown, and nothing goes wrong.
#[test]
fn numbers_that_cannot_be_are_shown_all_the_same() {
    let [before, mut now] = looks();
    let huge = vec![(u64::MAX, u64::MAX), (7, u64::MAX), (u64::MAX, 1)];
    let all = &mut now.exits.all;
    (all.count, all.total_ns, all.buckets) = (u64::MAX, u64::MAX, huge.clone());
    for row in &mut now.exits.rows {
        row.times.buckets = huge.clone();
    }
    for vcpu in &mut now.vcpus {
        (vcpu.guest_ns, vcpu.exits.buckets) = (u64::MAX, huge.clone());
    }
    // Beyond the end, one in the other, the last first, and none at all.
    for (n, vma) in (0..).zip(&mut now.map) {
        (vma.start, vma.size) = [(u64::MAX, u64::MAX), (0, u64::MAX), (1, 0), (9, 4096)][n % 4];
    }
    now.now_ns = 0;
    for (start, total, block_size) in [
        (u64::MAX, u64::MAX, 1),
        (0, u64::MAX, 4096),
        (1 << 32, 1, u64::MAX),
        (0, 0, 0),
        (u64::MAX, 1, 4096),
    ] {
        let memory = &mut now.info.memory;
        (memory.start, memory.total, memory.block_size) = (start, total, block_size);
        (memory.plugged, memory.requested) = (u64::MAX, u64::MAX);
        for (first, second) in [(&before, &now), (&now, &before), (&now, &now)] {
            let mut state = State::new(Duration::from_secs(1));
            state.take(first.clone());
            state.take(second.clone());
            for (width, height) in [(60, 20), (80, 24), (200, 60)] {
                for key in [KeyCode::Tab, KeyCode::Down, KeyCode::Char('o')] {
                    code(&mut state, key);
                    screen(&state, THEME, width, height);
                }
            }
            draw::plain(&state, THEME, 100);
            for width in [0, 1, 64] {
                strip(second, Some(first), width);
            }
        }
    }
}
