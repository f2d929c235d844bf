//! The map as a strip, and its last changes.

use gracefault::api::model::{Change, Did};
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

use super::super::state::State;
use super::super::strip::{Cell, There, strip};
use super::super::theme::Theme;
use super::super::units::{bytes, count, time};

pub(super) fn lines(state: &State, theme: Theme, area: Rect) -> Vec<Line<'static>> {
    let Some(looks) = state.looks() else {
        return Vec::new();
    };
    let (live, sections) = (looks.now, &looks.now.sections);
    let [published, given_up] = [sections.published, sections.given_up].map(|n| count(n as f64));
    let title = format!(
        "MAP: {} VMAs; {published} sections, {given_up} given up, {} readers drained",
        live.map.len(),
        count(sections.drained_readers as f64)
    );
    let mut spans = Vec::new();
    for part in strip(live, looks.before, area.width.into()) {
        spans.push(Span::styled(part.name + " ", theme.faint()));
        spans.extend(part.cells.iter().map(|cell| shown(*cell, theme)));
        spans.push(Span::raw(" "));
    }
    let mut lines = vec![Line::styled(title, theme.title()), Line::from(spans)];
    let room = usize::from(area.height).saturating_sub(lines.len());
    lines.extend(
        sections
            .last
            .iter()
            .take(room)
            .map(|last| Line::raw(change(last, theme))),
    );
    lines
}

fn shown(cell: Cell, theme: Theme) -> Span<'static> {
    let (text, ascii, style) = match cell.there {
        There::Nothing => ("·", ".", theme.faint()),
        There::Some => ("▒", "+", theme.memory()),
        There::All => ("█", "#", theme.memory()),
        There::Device => ("d", "d", theme.device()),
        There::Rom => ("r", "r", Style::new()),
    };
    let text = if theme.ascii { ascii } else { text };
    match cell {
        Cell { locked: true, .. } => Span::styled("L", theme.bad()),
        Cell { changed: true, .. } => {
            Span::styled(text, theme.busy().add_modifier(Modifier::UNDERLINED))
        }
        _ => Span::styled(text, style),
    }
}

fn change(change: &Change, theme: Theme) -> String {
    let did = match change.did {
        Did::Map => "maps",
        Did::Unmap => "unmaps",
        Did::Change => "changes",
        Did::GivenUp => "gives up",
    };
    let at = change.range.map_or(String::new(), |range| {
        format!(" {:#x}+{}", range.start, bytes(range.size))
    });
    let [ago, took, drain] =
        [change.ago_ns, change.took_ns, change.drain_ns].map(|ns| time(ns, theme.micro()));
    let drained = match change.holders {
        0 => String::new(),
        1 => format!(", drained 1 reader in {drain}"),
        n => format!(", drained {n} readers in {drain}"),
    };
    let (number, writer) = (change.section, &change.writer.name);
    format!("#{number} {writer} {did}{at} {ago} ago, in {took}{drained}")
}
