//! The first lines, and the last.

use gracefault::api::model::{Kind, Live, VmState};
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::super::rows::Span as Time;
use super::super::state::{Entry, State};
use super::super::theme::Theme;
use super::super::units::{bytes, clock, count};

pub(super) fn lines(state: &State, theme: Theme, width: u16) -> Vec<Line<'static>> {
    let Some(live) = state.live() else {
        return vec![Line::raw("Looking for the VM ...")];
    };
    let info = &live.info;
    let what = match info.kind {
        Kind::Run => "run",
        Kind::Stress => "stress",
    };
    let (name, style) = state_name(info.state, theme);
    let mut first = vec![
        Span::styled(
            format!("gracefault {what} {}", info.workload),
            theme.title(),
        ),
        Span::raw("  "),
        Span::styled(name, style),
        Span::raw(format!("  up {}  pid {}", clock(info.uptime_ns), info.pid)),
    ];
    for (is_so, says) in [(info.churn, "  churn"), (info.tracing, "  tracing")] {
        if is_so {
            first.push(Span::raw(says));
        }
    }
    if state.frozen {
        first.push(Span::styled("  FROZEN", theme.busy()));
    }
    let [first, second] = [
        (first, filter(state)),
        (figures(state, live, theme), right(state)),
    ]
    .map(|(left, right)| apart(left, right, width));
    vec![first, second]
}

/// Text at the left, and at the right if there is room for it.
fn apart(mut left: Vec<Span<'static>>, right: String, width: u16) -> Line<'static> {
    let used: usize = left.iter().map(Span::width).sum();
    // A space between them, and what fits.
    let room = usize::from(width).saturating_sub(used + 1);
    let right: String = right.chars().take(room).collect();
    left.push(Span::raw(format!(" {right:>room$}")));
    Line::from(left)
}

fn right(state: &State) -> String {
    let delay = humantime::format_duration(state.delay);
    match state.span {
        Time::Interval => format!("every {delay}"),
        Time::Total => format!("total, every {delay}"),
    }
}

fn filter(state: &State) -> String {
    match state.filter.as_str() {
        "" => String::new(),
        filter => format!("filter: {filter}"),
    }
}

fn state_name(state: VmState, theme: Theme) -> (&'static str, Style) {
    match state {
        VmState::Created => ("CREATED", theme.busy()),
        VmState::Running => ("RUNNING", theme.good()),
        VmState::Pausing => ("PAUSING", theme.busy()),
        VmState::Paused => ("PAUSED", theme.busy()),
        VmState::Ending => ("ENDING", theme.busy()),
        VmState::Ended => ("ENDED", theme.bad()),
    }
}

fn figures(state: &State, live: &Live, theme: Theme) -> Vec<Span<'static>> {
    let memory = &live.info.memory;
    let mut spans = vec![Span::raw(format!("{} vCPUs  ", live.info.vcpus))];
    if memory.boot > 0 {
        let requested = match memory.requested {
            0 => String::new(),
            requested => format!(" ({} requested)", bytes(requested)),
        };
        let (boot, plugged) = (bytes(memory.boot), bytes(memory.plugged));
        let total = bytes(memory.total);
        spans.push(Span::raw(format!(
            "RAM {boot} + {plugged}{requested} of {total}  "
        )));
    }
    let rate = state.looks().and_then(|looks| looks.exits_per_second());
    let rate = rate.map_or("-".to_owned(), count);
    spans.push(Span::raw(format!("exits {rate}/s  ")));
    let lost = live.info.events_lost;
    let style = if lost > 0 { theme.bad() } else { Style::new() };
    spans.push(Span::styled(
        format!("events lost {}", count(lost as f64)),
        style,
    ));
    spans
}

/// The last line: what is typed, what is wrong, or the keys.
pub(super) fn footer(state: &State, theme: Theme) -> Line<'static> {
    if let Some((entry, text)) = &state.entry {
        let what = match entry {
            Entry::Filter => "only exits that contain",
            Entry::Delay => "time between looks (2, 500ms)",
        };
        return Line::styled(format!("{what}: {text}_"), theme.title());
    }
    if let Some(trouble) = &state.trouble {
        return Line::styled(trouble.clone(), theme.bad());
    }
    let mut spans = Vec::new();
    for (key, does) in [
        ("q", "quit"),
        ("?", "help"),
        ("Tab", "table"),
        ("> <", "sort"),
        ("o", "total"),
        ("f", "filter"),
        ("c", "clear"),
        ("s", "time"),
        ("Space", "freeze"),
    ] {
        spans.push(Span::styled(key, theme.title()));
        spans.push(Span::raw(format!(" {does} ")));
    }
    Line::from(spans)
}
