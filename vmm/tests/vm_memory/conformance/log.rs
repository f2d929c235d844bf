//! What the accesses came to, in order, and which methods that were.

use std::collections::BTreeSet;
use std::fmt::Debug;

/// One line for each call.
#[derive(Default)]
pub(crate) struct Log {
    lines: Vec<String>,
    methods: BTreeSet<&'static str>,
}

impl Log {
    /// Notes what a call came to. `method` is `Trait::method`.
    pub(crate) fn add(&mut self, method: &'static str, at: impl Debug, result: impl Debug) {
        self.methods.insert(method);
        self.lines.push(format!("{method} {at:x?}: {result:x?}"));
    }

    /// Notes something that is no call, as the memory afterwards.
    pub(crate) fn note(&mut self, what: &str, found: impl Debug) {
        self.lines.push(format!("{what}: {found:x?}"));
    }

    /// How many lines there are.
    pub(crate) fn len(&self) -> usize {
        self.lines.len()
    }

    /// Those of `all` that were not called.
    pub(crate) fn not_called(&self, all: &[&'static str]) -> Vec<&'static str> {
        let missing = all.iter().filter(|method| !self.methods.contains(*method));
        missing.copied().collect()
    }

    /// # Panics
    ///
    /// At the first line that is another there.
    pub(crate) fn assert_same(&self, theirs: &Self) {
        for (i, (ours, theirs)) in self.lines.iter().zip(&theirs.lines).enumerate() {
            assert_eq!(ours, theirs, "line {i}");
        }
        assert_eq!(self.lines.len(), theirs.lines.len());
    }
}

/// How many bytes, and which: short enough for a line.
pub(crate) fn digest(bytes: &[u8]) -> (usize, u64) {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for word in bytes.chunks(8) {
        let word = match word.try_into() {
            Ok(word) => u64::from_le_bytes(word),
            Err(_) => word
                .iter()
                .fold(1, |word, byte| word << 8 | u64::from(*byte)),
        };
        hash = (hash ^ word).wrapping_mul(0x100_0000_01b3).rotate_left(17);
    }
    (bytes.len(), hash)
}
