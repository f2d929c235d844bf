//! What writers did last, for whoever has to explain a violation, and for readers who
//! ask what the section that they slept for was about. With KVM, where an operation may
//! take several sections, operations are counted in place of sections.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::mix::Op;
use crate::mm::AddrRange;

/// Sections that are remembered.
const DEPTH: usize = 8192;
/// Operations that a violation shows.
const SHOWN: usize = 24;

/// One section, or operation.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Its first number; that of the operation with KVM.
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
        write!(f, "{} by writer {}: {}", self.number, self.writer, self.op)?;
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

/// The last of them, in order.
#[derive(Debug)]
pub(super) struct History {
    /// What they are.
    unit: &'static str,
    entries: Mutex<VecDeque<Entry>>,
    /// Operations so far.
    count: AtomicU64,
}

impl History {
    /// Of sections, which have numbers.
    pub(super) fn of_sections() -> Self {
        Self::new("section")
    }

    /// Of operations, which are counted here.
    pub(super) fn of_operations() -> Self {
        Self::new("operation")
    }

    fn new(unit: &'static str) -> Self {
        Self {
            unit,
            entries: Mutex::default(),
            count: AtomicU64::new(0),
        }
    }

    /// An operation of `writer` begins. Returns its number.
    pub(super) fn begin(&self, writer: u32, op: Op, concerned: &[AddrRange]) -> u64 {
        let number = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        self.open(Entry {
            number,
            writer,
            op,
            changes: Vec::new(),
            concerned: concerned.to_vec(),
            outcome: Outcome::Open,
        });
        number
    }

    fn entries(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A section has been opened and planned.
    pub(super) fn open(&self, entry: Entry) {
        let mut entries = self.entries();
        if entries.len() == DEPTH {
            entries.pop_front();
        }
        entries.push_back(entry);
    }

    /// The one with that number is over.
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

    /// The last that concern any of `ranges`, the oldest first; or else the last of all.
    pub(super) fn of(&self, ranges: &[AddrRange]) -> Vec<String> {
        let touches = |a: &AddrRange, b: &AddrRange| a.start() <= b.last() && b.start() <= a.last();
        let entries = self.entries();
        let concerned = entries.iter().rev().filter(|entry| {
            let mut changes = entry.concerned.iter();
            changes.any(|change| ranges.iter().any(|range| touches(change, range)))
        });
        let tell = |entry: &Entry| format!("{} {entry}", self.unit);
        let mut last: Vec<_> = concerned.take(SHOWN).map(tell).collect();
        if last.is_empty() && !entries.is_empty() {
            last.extend(entries.iter().rev().take(SHOWN).map(tell));
            last.push(match ranges {
                [] => "the last ones, whatever they are about:".to_owned(),
                _ => "none of the last ones is about what is concerned; they are:".to_owned(),
            });
        }
        last.reverse();
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64) -> AddrRange {
        AddrRange::new(start, 0x1000).unwrap()
    }

    #[test]
    fn what_is_concerned_comes_first_and_the_oldest_before() {
        let history = History::of_operations();
        assert!(history.of(&[range(0)]).is_empty());
        for i in 0..2 * SHOWN as u64 {
            let writer = (i % 2) as u32;
            let number = history.begin(writer, Op::Plug, &[range(i % 2 * 0x1000)]);
            history.close(number, Outcome::Published);
        }
        history.begin(1, Op::Unplug, &[range(0x1000)]);
        let told = history.of(&[range(0x1000)]);
        assert_eq!(told.len(), SHOWN);
        assert!(told.iter().all(|line| line.contains("by writer 1")));
        assert!(told[0].starts_with("operation 4 by"), "{told:?}");
        assert!(told[SHOWN - 1].ends_with("still open"), "{told:?}");
    }

    #[test]
    fn where_none_is_concerned_the_last_ones_are_told() {
        let history = History::of_sections();
        for number in [1, 3] {
            history.open(Entry {
                number,
                writer: 0,
                op: Op::Split,
                changes: vec![range(0)],
                concerned: vec![range(0)],
                outcome: Outcome::Undone,
            });
        }
        let told = history.of(&[range(0x9000)]);
        assert!(told[0].starts_with("none of the last ones"), "{told:?}");
        assert!(told[2].starts_with("section 3 by writer 0: split"));
        assert_eq!(history.of(&[]).len(), 3);
    }
}
