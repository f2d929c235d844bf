//! Colours in the codes that every terminal with sixteen of them knows.
//!
//! The backend chooses each by its number among 256 (`38;5;6`), which a terminal that has
//! but sixteen may take for something else: 5 is blinking. Here it becomes `36`.

use std::io::{self, Write};

/// Keeps what is written until it is flushed, and writes it then, in those codes.
#[derive(Debug)]
pub(super) struct Sixteen<W> {
    out: W,
    kept: Vec<u8>,
}

impl<W> Sixteen<W> {
    pub(super) fn new(out: W) -> Self {
        let kept = Vec::new();
        Self { out, kept }
    }
}

impl<W: Write> Write for Sixteen<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.kept.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let kept = std::mem::take(&mut self.kept);
        self.out.write_all(&in_sixteen(&kept))?;
        self.out.flush()
    }
}

/// The same text, with no colour chosen by its number if it is one of the sixteen.
fn in_sixteen(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.windows(2).position(|pair| pair == b"\x1b[") {
        let (before, code) = rest.split_at(at + 2);
        out.extend_from_slice(before);
        let is_of_it = |byte: &u8| byte.is_ascii_digit() || *byte == b';';
        let len = code.iter().take_while(|byte| is_of_it(byte)).count();
        let (numbers, after) = code.split_at(len);
        match after.first() {
            Some(b'm') => out.extend(shorter(numbers)),
            _ => out.extend_from_slice(numbers),
        }
        rest = after;
    }
    out.extend_from_slice(rest);
    out
}

/// The numbers of an attribute's code.
fn shorter(numbers: &[u8]) -> Vec<u8> {
    let numbers: Vec<&[u8]> = numbers.split(|byte| *byte == b';').collect();
    let mut out: Vec<Vec<u8>> = Vec::new();
    let mut at = 0;
    while at < numbers.len() {
        let number = |at: usize| {
            std::str::from_utf8(numbers.get(at)?)
                .ok()?
                .parse::<u8>()
                .ok()
        };
        match (number(at), number(at + 1), number(at + 2)) {
            (Some(ground @ (38 | 48)), Some(5), Some(colour @ 0..16)) => {
                let dark = ground - 8 + colour % 8;
                let code = if colour < 8 { dark } else { dark + 60 };
                out.push(code.to_string().into_bytes());
                at += 3;
            }
            _ => {
                out.push(numbers[at].to_vec());
                at += 1;
            }
        }
    }
    out.join(&b';')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_sixteen_are_written_otherwise() {
        for (text, expected) in [
            ("\x1b[38;5;6mx\x1b[39m", "\x1b[36mx\x1b[39m"),
            ("\x1b[38;5;0;48;5;10m", "\x1b[30;102m"),
            ("\x1b[1m\x1b[38;5;8m·", "\x1b[1m\x1b[90m·"),
            (
                "\x1b[38;5;16m\x1b[38;2;1;2;3m",
                "\x1b[38;5;16m\x1b[38;2;1;2;3m",
            ),
            ("\x1b[38;5;6H\x1b[2J\x1b[", "\x1b[38;5;6H\x1b[2J\x1b["),
            ("\x1b[m plain \x1b", "\x1b[m plain \x1b"),
        ] {
            let mut written = Sixteen::new(Vec::new());
            // In whatever pieces it comes.
            for byte in text.as_bytes() {
                written.write_all(&[*byte]).unwrap();
            }
            assert!(written.out.is_empty());
            written.flush().unwrap();
            assert_eq!(String::from_utf8(written.out).unwrap(), expected);
        }
    }
}
