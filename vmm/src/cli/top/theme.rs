//! Colours and characters, by what the terminal has.

use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::{self, bar};

/// How things look: sixteen colours or none, any characters or ASCII.
#[derive(Clone, Copy, Debug)]
pub(super) struct Theme {
    pub(super) colour: bool,
    pub(super) ascii: bool,
}

impl Theme {
    /// As the environment has it: none of the colours with `NO_COLOR` or a terminal that
    /// has none, ASCII where the locale is not UTF-8.
    pub(super) fn of_environment() -> Self {
        Self::of(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn of(get: impl Fn(&str) -> Option<String>) -> Self {
        let is_dull = |term: String| term == "dumb" || term.ends_with("-m") || term == "vt100";
        let dull = get("TERM").is_none_or(is_dull);
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(&get);
        let utf8 = locale.is_some_and(|name| {
            let name = name.to_ascii_lowercase();
            name.contains("utf-8") || name.contains("utf8")
        });
        Self {
            colour: get("NO_COLOR").is_none() && !dull,
            ascii: !utf8,
        }
    }

    fn coloured(self, colour: Color) -> Style {
        match self.colour {
            true => Style::new().fg(colour),
            false => Style::new(),
        }
    }

    /// Titles of tables.
    pub(super) fn title(self) -> Style {
        self.coloured(Color::Cyan).add_modifier(Modifier::BOLD)
    }

    /// Heads of columns.
    pub(super) fn head(self) -> Style {
        match self.colour {
            true => Style::new().fg(Color::Black).bg(Color::Green),
            false => Style::new().add_modifier(Modifier::REVERSED),
        }
    }

    /// The head of the column that is sorted by.
    pub(super) fn sorted(self) -> Style {
        match self.colour {
            true => Style::new().fg(Color::Black).bg(Color::Cyan),
            false => self.head().add_modifier(Modifier::BOLD),
        }
    }

    /// The row that is chosen, in the table with the focus.
    pub(super) fn chosen(self) -> Style {
        match self.colour {
            true => Style::new().fg(Color::Black).bg(Color::Cyan),
            false => Style::new().add_modifier(Modifier::REVERSED),
        }
    }

    /// The row that is chosen in the other table.
    pub(super) fn chosen_elsewhere(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// All is well.
    pub(super) fn good(self) -> Style {
        self.coloured(Color::Green)
    }

    /// Worth a look.
    pub(super) fn busy(self) -> Style {
        self.coloured(Color::Yellow)
    }

    /// Not as it should be.
    pub(super) fn bad(self) -> Style {
        self.coloured(Color::Red).add_modifier(Modifier::BOLD)
    }

    /// What is there.
    pub(super) fn memory(self) -> Style {
        self.coloured(Color::Blue)
    }

    /// Of a device.
    pub(super) fn device(self) -> Style {
        self.coloured(Color::Magenta)
    }

    /// What is said in passing.
    pub(super) fn faint(self) -> Style {
        match self.colour {
            true => Style::new().fg(Color::DarkGray),
            false => Style::new().add_modifier(Modifier::DIM),
        }
    }

    /// Bars of a chart, from none to full, by eighths.
    pub(super) fn bars(self) -> [&'static str; 9] {
        let set = self.bar_set();
        [
            set.empty,
            set.one_eighth,
            set.one_quarter,
            set.three_eighths,
            set.half,
            set.five_eighths,
            set.three_quarters,
            set.seven_eighths,
            set.full,
        ]
    }

    fn bar_set(self) -> bar::Set<'static> {
        match self.ascii {
            false => symbols::bar::NINE_LEVELS,
            true => bar::Set {
                empty: " ",
                one_eighth: "_",
                one_quarter: "_",
                three_eighths: ".",
                half: ".",
                five_eighths: ":",
                three_quarters: ":",
                seven_eighths: "|",
                full: "|",
            },
        }
    }

    /// What a thousandth of a thousandth of a second begins with.
    pub(super) fn micro(self) -> char {
        if self.ascii { 'u' } else { 'µ' }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> (bool, bool) {
        let get = |name: &str| {
            let found = variables.iter().find(|(of, _)| *of == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let theme = Theme::of(get);
        (theme.colour, theme.ascii)
    }

    #[test]
    fn the_environment_decides() {
        let xterm = ("TERM", "xterm");
        assert_eq!(of(&[xterm, ("LANG", "C.UTF-8")]), (true, false));
        assert_eq!(
            of(&[xterm, ("LANG", "en_US.utf8"), ("LC_ALL", "C")]),
            (true, true)
        );
        assert_eq!(of(&[xterm, ("NO_COLOR", "1")]), (false, true));
        assert_eq!(of(&[("TERM", "vt100")]), (false, true));
        assert_eq!(of(&[]), (false, true));
    }

    /// A terminal with sixteen colours has each of them.
    #[test]
    fn no_style_needs_more_than_sixteen_colours() {
        let styles = |colour| {
            let theme = Theme {
                colour,
                ascii: false,
            };
            [
                theme.title(),
                theme.head(),
                theme.sorted(),
                theme.chosen(),
                theme.chosen_elsewhere(),
                theme.good(),
                theme.busy(),
                theme.bad(),
                theme.memory(),
                theme.device(),
                theme.faint(),
            ]
        };
        for style in styles(true) {
            for colour in [style.fg, style.bg].into_iter().flatten() {
                let many = matches!(colour, Color::Rgb(..) | Color::Indexed(_));
                assert!(!many, "{colour:?}");
            }
        }
        for style in styles(false) {
            assert_eq!((style.fg, style.bg), (None, None));
        }
    }
}
