//! How long the exits of the chosen row took.

use ratatui::layout::Rect;
use ratatui::text::Line;

use super::super::figures::Figures;
use super::super::state::{Choice, State};
use super::super::theme::Theme;
use super::super::units::{count, time};

pub(super) fn lines(state: &State, theme: Theme, area: Rect) -> Vec<Line<'static>> {
    let (name, figures) = match state.choice() {
        None => return vec![Line::styled("HISTOGRAM", theme.title())],
        Some(Choice::Vcpu(row)) => (format!("vCPU {}", row.index), row.figures),
        Some(Choice::Exit(row)) => {
            let name = format!("{} {}", row.key, row.device);
            (name.trim_end().to_owned(), row.figures)
        }
    };
    let micro = theme.micro();
    let [p50, p99, max] =
        [figures.p50_ns, figures.p99_ns, figures.max_ns].map(|ns| time(ns, micro));
    let exits = count(figures.count as f64);
    let title = format!("HISTOGRAM {name}: {exits}, p50 {p50}, p99 {p99}, max {max}");
    let mut lines = vec![Line::styled(title, theme.title())];
    let room = usize::from(area.height).saturating_sub(2);
    let bars = columns(&figures, area.width.into());
    if bars.is_empty() {
        lines.push(Line::styled("none", theme.faint()));
        return lines;
    }
    let text = chart(&bars, room, theme);
    lines.extend(
        text.into_iter()
            .map(|row| Line::styled(row, theme.memory())),
    );
    lines.push(Line::styled(
        axis(&figures, bars.len(), micro),
        theme.faint(),
    ));
    lines
}

/// The class of a time: four to a doubling, as the buckets are.
fn class(ns: u64) -> i64 {
    ((ns.max(1) as f64).log2() * 4.0).round() as i64
}

/// How many are in each column of the chart, from the shortest to the longest.
fn columns(figures: &Figures, width: usize) -> Vec<u64> {
    let ends = || figures.buckets.iter().map(|(end, _)| class(*end));
    // They are in order, if they are a VM's.
    let Some((first, last)) = ends().min().zip(ends().max()) else {
        return Vec::new();
    };
    let classes = (last - first + 1) as usize;
    // A class has several columns, or a column several classes.
    let (each, merged) = match width / classes {
        0 => (1, classes.div_ceil(width.max(1))),
        // Wider bars would say no more.
        each => (each.min(4), 1),
    };
    let mut counts = vec![0_u64; classes.div_ceil(merged)];
    for (end, count) in &figures.buckets {
        let sum = &mut counts[(class(*end) - first) as usize / merged];
        *sum = sum.saturating_add(*count);
    }
    counts
        .into_iter()
        .flat_map(|count| vec![count; each])
        .collect()
}

/// Rows of bars, the highest column full.
fn chart(columns: &[u64], rows: usize, theme: Theme) -> Vec<String> {
    let levels = theme.bars();
    let most = columns.iter().copied().max().unwrap_or(0).max(1);
    let height =
        |count: u64| (u128::from(count) * rows as u128 * 8).div_ceil(u128::from(most)) as usize;
    let row = |row: usize| {
        let below = (rows - 1 - row) * 8;
        let level = |count: &u64| levels[height(*count).saturating_sub(below).min(8)];
        columns.iter().map(level).collect()
    };
    (0..rows).map(row).collect()
}

/// The shortest and the longest time, under the ends of the bars.
fn axis(figures: &Figures, width: usize, micro: char) -> String {
    let ends = figures.buckets.first().zip(figures.buckets.last());
    let Some(((first, _), (last, _))) = ends else {
        return String::new();
    };
    let [first, last] = [*first, (*last).min(figures.max_ns)].map(|ns| time(ns, micro));
    let gap = width.saturating_sub(first.chars().count() + last.chars().count());
    match gap {
        0 => format!("{first} to {last}"),
        gap => format!("{first}{}{last}", " ".repeat(gap)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(buckets: &[(u64, u64)]) -> Figures {
        Figures {
            buckets: buckets.to_vec(),
            ..Figures::default()
        }
    }

    #[test]
    fn each_bucket_has_its_columns() {
        // Two doublings apart: eight classes between them.
        let figures = of(&[(256, 3), (1024, 1)]);
        assert_eq!(columns(&figures, 9), [3, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(columns(&figures, 20)[..4], [3, 3, 0, 0]);
        assert_eq!(columns(&figures, 3), [3, 0, 1]);
        assert!(columns(&of(&[]), 10).is_empty());
    }

    #[test]
    fn the_highest_is_full_and_no_other_vanishes() {
        let theme = Theme {
            colour: false,
            ascii: false,
        };
        assert_eq!(chart(&[1000, 1, 0, 500], 2, theme), ["█   ", "█▁ █"]);
    }
}
