//! A state on a screen. Draws into whatever backend there is.

mod areas;
mod columns;
mod exits;
mod header;
mod help;
mod histogram;
mod map;
mod vcpus;
mod waits;

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::Line;
use ratatui::widgets::Paragraph;

use super::state::State;
use super::theme::Theme;
use areas::Areas;

/// Draws all of it.
pub(super) fn draw(frame: &mut Frame<'_>, state: &State, theme: Theme) {
    let area = frame.area();
    if state.help {
        return put(frame, area, help::lines(theme));
    }
    let vcpus = state.vcpus();
    let Some(areas) = Areas::new(area, vcpus.len()) else {
        return put(
            frame,
            area,
            vec![Line::raw("This terminal is too small: q ends")],
        );
    };
    put(
        frame,
        areas.header,
        header::lines(state, theme, areas.header.width),
    );
    put(
        frame,
        areas.vcpus,
        vcpus::lines(state, &vcpus, theme, areas.vcpus),
    );
    put(frame, areas.exits, exits::lines(state, theme, areas.exits));
    put(frame, areas.waits, waits::lines(state, theme));
    put(frame, areas.map, map::lines(state, theme, areas.map));
    put(
        frame,
        areas.histogram,
        histogram::lines(state, theme, areas.histogram),
    );
    put(frame, areas.footer, vec![header::footer(state, theme)]);
}

fn put(frame: &mut Frame<'_>, area: Rect, lines: Vec<Line<'_>>) {
    frame.render_widget(Paragraph::new(lines), area);
}

/// Exits that are shown as text.
const ROWS: u16 = 20;
/// Changes of the map that are.
const CHANGES: u16 = 8;

/// All of it but the histogram as text, a line each, for whatever reads it.
pub(super) fn plain(state: &State, theme: Theme, width: u16) -> String {
    let vcpus = state.vcpus();
    let area = |height: usize| Rect::new(0, 0, width, u16::try_from(height).unwrap_or(u16::MAX));
    let parts = [
        header::lines(state, theme, width),
        vcpus::lines(state, &vcpus, theme, area(vcpus.len() + 1)),
        exits::lines(state, theme, area(usize::from(ROWS) + 1)),
        waits::lines(state, theme),
        map::lines(state, theme, area(usize::from(CHANGES) + 2)),
    ];
    let text = |lines: &Vec<Line<'_>>| {
        let lines = lines
            .iter()
            .map(|line| line.to_string().trim_end().to_owned() + "\n");
        lines.collect::<String>()
    };
    parts.each_ref().map(text).join("\n")
}
