//! What writers did last, for whoever has to explain a violation, and for readers who
//! ask what the section that they slept for was about.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::mix::Op;
use crate::mm::AddrRange;

/// Sections that are remembered.
const DEPTH: usize = 8192;
/// Operations that a violation shows.
const SHOWN: usize = 24;

/// One section.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Its first number.
    pub(super) number: u64,
    pub(super) writer: u32,
    pub(super) op: Op,
    /// What is mapped and it changes: nothing else, but perhaps not all of it.
    pub(super) changes: Vec<AddrRange>,
    /// What it is about.
    pub(super) concerned: Vec<AddrRange>,
    pub(super) outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Open,
    Published,
    /// Given up after it was drained, or because it was not in time.
    Undone,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "section {} by writer {}: {}",
            self.number, self.writer, self.op
        )?;
        for range in &self.concerned {
            write!(f, " {range}")?;
        }
        f.write_str(match self.outcome {
            Outcome::Open => ", still open",
            Outcome::Published => "",
            Outcome::Undone => ", given up",
        })
    }
}

/// The last sections, in order.
#[derive(Debug, Default)]
pub(super) struct History(Mutex<VecDeque<Entry>>);

impl History {
    fn entries(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A section has been opened and planned.
    pub(super) fn open(&self, entry: Entry) {
        let mut entries = self.entries();
        if entries.len() == DEPTH {
            entries.pop_front();
        }
        entries.push_back(entry);
    }

    /// The section that was opened last is over.
    pub(super) fn close(&self, number: u64, outcome: Outcome) {
        let mut entries = self.entries();
        let open = entries.iter_mut().rev().find(|e| e.number == number);
        if let Some(entry) = open {
            entry.outcome = outcome;
        }
    }

    /// Whether section `number`, by whichever of its numbers, changes what is at `addr`.
    pub(super) fn changes(&self, number: u64, addr: u64) -> bool {
        let entries = self.entries();
        let section = entries.iter().rev().find(|entry| entry.number <= number);
        section.is_some_and(|section| section.changes.iter().any(|range| range.contains(addr)))
    }

    /// Whether section `number` changed what was mapped at `addr`, rather than mapping
    /// something where nothing was.
    pub(super) fn replaced(&self, number: u64, addr: u64) -> bool {
        let entries = self.entries();
        let section = entries.iter().rev().find(|entry| entry.number == number);
        section.is_some_and(|section| section.changes.iter().any(|range| range.contains(addr)))
    }

    /// The last operations that concern any of `ranges`, the oldest first.
    pub(super) fn of(&self, ranges: &[AddrRange]) -> Vec<String> {
        let touches = |a: &AddrRange, b: &AddrRange| a.start() <= b.last() && b.start() <= a.last();
        let entries = self.entries();
        let concerned = entries.iter().rev().filter(|entry| {
            let mut changes = entry.concerned.iter();
            changes.any(|change| ranges.iter().any(|range| touches(change, range)))
        });
        let mut last: Vec<_> = concerned.take(SHOWN).map(Entry::to_string).collect();
        last.reverse();
        last
    }
}
