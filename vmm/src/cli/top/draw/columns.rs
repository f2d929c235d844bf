//! Columns of text.

use ratatui::style::Style;
use ratatui::text::{Line, Span};

/// How a column is filled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub(super) head: &'static str,
    pub(super) width: usize,
    /// Numbers are at the right.
    pub(super) number: bool,
}

impl Column {
    pub(super) const fn text(head: &'static str, width: usize) -> Self {
        Self {
            head,
            width,
            number: false,
        }
    }

    pub(super) const fn number(head: &'static str, width: usize) -> Self {
        Self {
            head,
            width,
            number: true,
        }
    }

    /// Text of just this width.
    pub(super) fn fit(self, text: &str) -> String {
        let Self { width, number, .. } = self;
        let text: String = text.chars().take(width).collect();
        match number {
            true => format!("{text:>width$}"),
            false => format!("{text:width$}"),
        }
    }
}

/// A row of cells, one column apart, in one style.
pub(super) fn row(columns: &[Column], cells: &[String], style: Style) -> Line<'static> {
    let cells = columns
        .iter()
        .zip(cells)
        .map(|(column, cell)| column.fit(cell));
    Line::styled(cells.collect::<Vec<_>>().join(" "), style)
}

/// The heads of the columns, the one that is sorted by in a style of its own.
pub(super) fn heads(
    columns: &[Column],
    style: Style,
    sorted: Option<(usize, Style)>,
) -> Line<'static> {
    let mut spans = Vec::new();
    for (i, column) in columns.iter().enumerate() {
        if i > 0 {
            spans.push(Span::styled(" ", style));
        }
        let of_this = sorted.filter(|(at, _)| *at == i).map(|(_, style)| style);
        spans.push(Span::styled(
            column.fit(column.head),
            of_this.unwrap_or(style),
        ));
    }
    Line::from(spans)
}

/// The first of the rows to show, so that the chosen one is in sight.
pub(super) fn first(chosen: usize, rows: usize, room: usize) -> usize {
    match room {
        0 => 0,
        // As little before it as the end allows: what is at the top stays there.
        room => (chosen + 1)
            .saturating_sub(room)
            .min(rows.saturating_sub(room)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_have_the_width_of_their_column() {
        let (name, number) = (Column::text("NAME", 4), Column::number("N", 5));
        assert_eq!([name.fit("µsec."), name.fit("a")], ["µsec", "a   "]);
        assert_eq!(number.fit("12"), "   12");
    }

    #[test]
    fn the_chosen_row_is_in_sight() {
        let firsts = [0, 3, 4, 9].map(|chosen| first(chosen, 10, 4));
        assert_eq!(firsts, [0, 0, 1, 6]);
        assert_eq!((first(0, 0, 4), first(5, 10, 0)), (0, 0));
    }
}
