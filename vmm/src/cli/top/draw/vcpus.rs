//! The vCPUs.

use gracefault::api::model::Doing;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::super::rows::VcpuRow;
use super::super::state::{Focus, State};
use super::super::theme::Theme;
use super::super::units::{count, percent, time};
use super::columns::{Column, first, heads};

pub(super) fn lines(
    state: &State,
    rows: &[VcpuRow],
    theme: Theme,
    area: Rect,
) -> Vec<Line<'static>> {
    let width = usize::from(area.width);
    // vCPU, exits, guest, two times, and a column between each.
    let others = 4 + 7 + 6 + 7 + 7 + 6;
    let history = (width / 6).clamp(8, 40);
    let columns = [
        Column::number("vCPU", 4),
        Column::text("DOING", width.saturating_sub(others + history)),
        Column::number("EXITS/s", 7),
        Column::number("GUEST%", 6),
        Column::number("P50", 7),
        Column::number("P99", 7),
        Column::text("HISTORY", history),
    ];
    let mut lines = vec![heads(&columns, theme.head(), None)];
    let chosen = state.chosen_vcpu(rows);
    let room = usize::from(area.height).saturating_sub(1);
    let from = first(chosen, rows.len(), room);
    for (at, row) in rows.iter().enumerate().skip(from).take(room) {
        let style = match (at == chosen, state.focus) {
            (true, Focus::Vcpus) => theme.chosen(),
            (true, Focus::Exits) => theme.chosen_elsewhere(),
            (false, _) => Style::new(),
        };
        let number =
            |number: Option<f64>, show: fn(f64) -> String| number.map_or("-".to_owned(), show);
        let time = |ns| match row.figures.count {
            0 => "-".to_owned(),
            _ => time(ns, theme.micro()),
        };
        let cells = [
            row.index.to_string(),
            row.doing.clone(),
            number(row.exits_per_second, count),
            number(row.in_guest, percent),
            time(row.figures.p50_ns),
            time(row.figures.p99_ns),
            sparkline(state.history(row.index), history, theme),
        ];
        let spans = columns
            .iter()
            .zip(&cells)
            .enumerate()
            .map(|(i, (column, cell))| {
                let gap = if i == 0 { "" } else { " " };
                let style = match (i, row.kind) {
                    (1, Doing::Wait) if style == Style::new() => theme.bad(),
                    (1, Doing::Exit) if style == Style::new() => theme.busy(),
                    (1, Doing::Guest) if style == Style::new() => theme.good(),
                    _ => style,
                };
                Span::styled(format!("{gap}{}", column.fit(cell)), style)
            });
        lines.push(Line::from(spans.collect::<Vec<_>>()));
    }
    lines
}

/// The last of some numbers, as bars of one line, the highest of them full.
fn sparkline(numbers: impl Iterator<Item = u64>, width: usize, theme: Theme) -> String {
    let numbers: Vec<u64> = numbers.collect();
    let last = &numbers[numbers.len().saturating_sub(width)..];
    let most = last.iter().copied().max().unwrap_or(0).max(1);
    let levels = theme.bars();
    let bar = |n: &u64| levels[(u128::from(*n) * 8).div_ceil(u128::from(most)) as usize];
    last.iter().map(bar).collect()
}
