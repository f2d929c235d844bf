//! The table of exits.

use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::Line;

use super::super::rows::{ExitRow, Sort, Span};
use super::super::state::{Focus, State};
use super::super::theme::Theme;
use super::super::units::{count, percent, time};
use super::columns::{Column, first, heads, row};

pub(super) fn lines(state: &State, theme: Theme, area: Rect) -> Vec<Line<'static>> {
    let width = usize::from(area.width);
    let key = (width / 5).clamp(16, 24);
    // Numbers, a mark of the order, and a column between each.
    let others = key + 6 + 6 + 6 + 6 + 7 + 7 + 7 + 8;
    let columns = [
        Column::text(
            match state.span {
                Span::Interval => "EXIT",
                Span::Total => "EXIT in total",
            },
            key,
        ),
        Column::text("BY", width.saturating_sub(others)),
        Column::number("COUNT", 6),
        Column::number("/s", 6),
        Column::number("COUNT%", 6),
        Column::number("TIME%", 6),
        Column::number("P50", 7),
        Column::number("P99", 7),
        Column::number("MAX", 7),
    ];
    let sorted = match state.sort {
        Sort::Address => 0,
        Sort::Device => 1,
        Sort::Count => 2,
        Sort::Rate => 3,
        Sort::TimeShare => 5,
        Sort::P50 => 6,
        Sort::P99 => 7,
        Sort::Max => 8,
    };
    let mut lines = vec![heads(
        &columns,
        theme.head(),
        Some((sorted, theme.sorted())),
    )];
    let rows = state.exits();
    let chosen = state.chosen_exit(&rows);
    let room = usize::from(area.height).saturating_sub(1);
    let from = first(chosen, rows.len(), room);
    for (at, exit) in rows.iter().enumerate().skip(from).take(room) {
        let style = match (at == chosen, state.focus) {
            (true, Focus::Exits) => theme.chosen(),
            (true, Focus::Vcpus) => theme.chosen_elsewhere(),
            (false, _) => style(exit, theme),
        };
        lines.push(row(&columns, &cells(exit, theme), style));
    }
    if rows.is_empty() {
        let none = match state.filter.is_empty() {
            true => "no exit yet",
            false => "no exit contains the filter (Esc takes it away)",
        };
        lines.push(Line::styled(none, theme.faint()));
    }
    lines
}

fn style(exit: &ExitRow, theme: Theme) -> Style {
    match exit.device.as_str() {
        device if device.ends_with("(failed)") => theme.bad(),
        _ if exit.figures.count == 0 => theme.faint(),
        _ => Style::new(),
    }
}

fn cells(exit: &ExitRow, theme: Theme) -> [String; 9] {
    let time = |ns| match exit.figures.count {
        0 => "-".to_owned(),
        _ => time(ns, theme.micro()),
    };
    [
        exit.key.clone(),
        exit.device.clone(),
        count(exit.figures.count as f64),
        exit.per_second.map_or("-".to_owned(), count),
        percent(exit.share),
        percent(exit.time_share),
        time(exit.figures.p50_ns),
        time(exit.figures.p99_ns),
        time(exit.figures.max_ns),
    ]
}
