//! Text that may be anybody's, for a terminal.

use std::borrow::Cow;
use std::fmt::Write;

/// The same with control characters spelled out, but for the ends of lines: text that came
/// over a socket or out of a file does not clear the screen, set its title, or overwrite
/// what was said before. In JSON they mean what they did.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    let is_bad = |c: char| c.is_control() && c != '\n';
    if !text.contains(is_bad) {
        return text.into();
    }
    let mut spelled = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match is_bad(c) {
            // Writing to a string does not fail.
            true => drop(write!(spelled, "\\u{:04x}", u32::from(c))),
            false => spelled.push(c),
        }
    }
    spelled.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_are_spelled_and_nothing_else() {
        for fine in ["", "a line\nand another\n", "µs │ ▂▅█ é 漢 \u{a0}\\n"] {
            assert_eq!(printable(fine), fine);
        }
        for (bad, spelled) in [
            ("\x1b[2Jx\n", "\\u001b[2Jx\n"),
            ("a\r\tb\0\x08\x7f", "a\\u000d\\u0009b\\u0000\\u0008\\u007f"),
            // One character that is as good as ESC and [.
            ("\u{9b}31m", "\\u009b31m"),
        ] {
            assert_eq!(printable(bad), spelled);
        }
    }

    #[test]
    fn json_stays_what_it_was() {
        let all: String = (0..0xa0).filter_map(char::from_u32).collect();
        let json = serde_json::to_string_pretty(&[&all]).unwrap();
        let shown = printable(&json);
        assert!(!shown.chars().any(|c| c.is_control() && c != '\n'));
        assert_eq!(serde_json::from_str::<[String; 1]>(&shown).unwrap(), [all]);
    }
}
