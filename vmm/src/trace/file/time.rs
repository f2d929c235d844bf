//! A file's ticks, in nanoseconds.

use crate::clock::{Anchor, Rate};

/// What the ticks of a file are: by its first anchor and its last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeline {
    first: Anchor,
    rate: Rate,
}

impl Timeline {
    pub(super) fn new(first: Anchor, last: Anchor) -> Self {
        let rate = Rate::between(first, last);
        Self { first, rate }
    }

    /// A span of ticks, in nanoseconds.
    pub fn ns(&self, ticks: u64) -> u64 {
        self.rate.ns(ticks)
    }

    /// When that was, in nanoseconds of `CLOCK_BOOTTIME`. A later tick is not before.
    pub fn boot_ns(&self, at: u64) -> u64 {
        let first = self.first;
        match at.checked_sub(first.ticks) {
            Some(after) => first.boot_ns.saturating_add(self.ns(after)),
            None => first.boot_ns.saturating_sub(self.ns(first.ticks - at)),
        }
    }

    /// When that was, in nanoseconds since the recording began; 0 if it was before.
    pub fn since_start(&self, at: u64) -> u64 {
        self.ns(at.saturating_sub(self.first.ticks))
    }

    /// The inverse of [`since_start`](Self::since_start), but for rounding.
    pub fn at(&self, ns: u64) -> u64 {
        self.first.ticks.saturating_add(self.rate.ticks(ns))
    }

    /// When the recording began, in nanoseconds of `CLOCK_BOOTTIME`.
    pub fn start_boot_ns(&self) -> u64 {
        self.first.boot_ns
    }
}
