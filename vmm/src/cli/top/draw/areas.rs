//! Where on the screen what is.

use ratatui::layout::{Constraint, Layout, Rect};

/// The parts of the screen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Areas {
    pub(super) header: Rect,
    pub(super) vcpus: Rect,
    pub(super) exits: Rect,
    pub(super) waits: Rect,
    pub(super) map: Rect,
    pub(super) histogram: Rect,
    pub(super) footer: Rect,
}

/// From so many columns on there are two columns of tables.
const WIDE: u16 = 140;

impl Areas {
    /// For a screen of this size and so many vCPUs; none if it is too small.
    pub(super) fn new(area: Rect, vcpus: usize) -> Option<Self> {
        if area.width < 60 || area.height < 20 {
            return None;
        }
        let (line, head) = (Constraint::Length(1), Constraint::Length(2));
        let [header, body, footer] = Layout::vertical([head, Constraint::Min(0), line]).areas(area);
        // The heading, the vCPUs, and some that are scrolled to.
        let most = body.height / 4;
        let vcpus = Constraint::Length((vcpus as u16).saturating_add(1).clamp(2, most));
        let share =
            |part: u16, least, most| Constraint::Length((body.height / part).clamp(least, most));
        let exits = Constraint::Min(4);
        if area.width < WIDE {
            let parts = [
                vcpus,
                exits,
                share(7, 3, 8),
                share(7, 3, 8),
                share(5, 4, 10),
            ];
            let [vcpus, exits, waits, map, histogram] = Layout::vertical(parts).areas(body);
            return Some(Self {
                header,
                vcpus,
                exits,
                waits,
                map,
                histogram,
                footer,
            });
        }
        // The tables at the left need as much as they have on the usual screen.
        let halves = [
            Constraint::Length((body.width / 2).max(80)),
            Constraint::Min(0),
        ];
        let [left, right] = Layout::horizontal(halves).spacing(2).areas(body);
        let [vcpus, exits] = Layout::vertical([vcpus, exits]).areas(left);
        let parts = [share(3, 4, 16), Constraint::Min(6), share(3, 6, 16)];
        let [waits, map, histogram] = Layout::vertical(parts).areas(right);
        Some(Self {
            header,
            vcpus,
            exits,
            waits,
            map,
            histogram,
            footer,
        })
    }
}
