//! The help page.

use ratatui::text::Line;

use super::super::keys::HELP;
use super::super::theme::Theme;

pub(super) fn lines(theme: Theme) -> Vec<Line<'static>> {
    let mut lines = vec![Line::styled("gracefault top", theme.title()), Line::raw("")];
    for (keys, does) in HELP {
        lines.push(Line::raw(format!("  {keys:22} {does}")));
    }
    lines.extend([
        Line::raw(""),
        Line::raw(
            "Times are from KVM_RUN returning to its next call. In the map, L is locked by a",
        ),
        Line::raw("writer, d a device; underlined is what has changed since the last look."),
        Line::styled("Any key goes back.", theme.faint()),
    ]);
    lines
}
