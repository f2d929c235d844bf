//! What to record, and what to do when there is no room.

use serde::{Deserialize, Serialize};
use wildmatch::WildMatch;

use super::super::ExitKind;

/// What is lost when a ring, or the file, is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFull {
    /// The new: the file has the beginning.
    #[default]
    Drop,
    /// The old: the file has the end, as a flight recorder has.
    Overwrite,
}

/// How to record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordOptions {
    /// Which events.
    pub events: EventSet,
    /// The most bytes of the file, but for a few kilobytes at its end.
    pub size: u64,
    /// What to lose when there are more.
    pub on_full: OnFull,
    /// Records in each thread's ring: a power of two. `None` for what suits the number
    /// of vCPUs.
    pub ring: Option<usize>,
}

impl RecordOptions {
    /// The smallest file that anything useful fits into.
    pub const MIN_SIZE: u64 = 256 << 10;
}

impl Default for RecordOptions {
    /// Everything, to 256 MiB.
    fn default() -> Self {
        Self {
            events: EventSet::ALL,
            size: 256 << 20,
            on_full: OnFull::Drop,
            ring: None,
        }
    }
}

/// Which events are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventSet(u32);

/// All events, by name; the exits first, in the order of [`ExitKind`].
const NAMES: [&str; 7] = [
    "mmio_read",
    "mmio_write",
    "pio_in",
    "pio_out",
    "halt",
    "interrupted",
    "section",
];

/// No event has such a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no event is called '{glob}': choose from {}, with * and ? as in a shell", NAMES.join(", "))]
pub struct BadEvents {
    /// What was asked for.
    pub glob: String,
}

impl EventSet {
    /// Every event.
    pub const ALL: Self = Self((1 << NAMES.len()) - 1);
    /// No event.
    pub const NONE: Self = Self(0);
    /// The write sections, with their changes and rounds.
    pub const SECTIONS: Self = Self(1 << 6);

    /// Those that match one of `globs`, which are separated by commas.
    ///
    /// # Errors
    /// A glob that no event matches.
    pub fn matching(globs: &str) -> Result<Self, BadEvents> {
        let mut set = 0;
        for glob in globs.split(',') {
            let pattern = WildMatch::new(glob.trim());
            let matching = NAMES.iter().enumerate();
            let matching = matching.filter(|(_, name)| pattern.matches(name));
            let bits = matching.fold(0, |bits, (n, _)| bits | 1 << n);
            if bits == 0 {
                let glob = glob.to_owned();
                return Err(BadEvents { glob });
            }
            set |= bits;
        }
        Ok(Self(set))
    }

    /// The names of the events.
    pub fn names(self) -> Vec<&'static str> {
        let names = NAMES.iter().enumerate();
        names
            .filter(|(n, _)| self.0 & 1 << n != 0)
            .map(|(_, name)| *name)
            .collect()
    }

    pub(super) fn bits(self) -> u32 {
        self.0
    }

    /// The bit of a kind of exit.
    #[inline(always)]
    pub(super) fn bit(kind: ExitKind) -> u32 {
        1 << kind as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        let names = |globs| EventSet::matching(globs).map(EventSet::names);
        assert_eq!(names("*"), Ok(NAMES.to_vec()));
        assert_eq!(names("mmio_*"), Ok(vec!["mmio_read", "mmio_write"]));
        assert_eq!(names("pio_?n, section"), Ok(vec!["pio_in", "section"]));
        for bad in ["", "mmio", "mmio_*,x*", "*,"] {
            let error = names(bad).unwrap_err().to_string();
            assert!(error.contains("mmio_read"), "{error}");
        }
        assert_eq!(EventSet::SECTIONS.names(), ["section"]);
        assert_eq!(EventSet::NONE.names().len(), 0);
        for (n, kind) in [
            ExitKind::MmioRead,
            ExitKind::MmioWrite,
            ExitKind::PioIn,
            ExitKind::PioOut,
            ExitKind::Halt,
            ExitKind::Interrupted,
        ]
        .into_iter()
        .enumerate()
        {
            let name = serde_json::to_value(kind).unwrap();
            assert_eq!(name, NAMES[n]);
            assert_eq!(EventSet::bit(kind), 1 << n);
        }
    }
}
