//! What the map has to say about each page, kept by the writers beside it.
//!
//! Before a section publishes, with its write set drained, the pages that it changes
//! get its number as *begun*; after it has published, as *done*. So whoever holds a
//! VMA finds its number as begun for as long as it holds, since no other section gets
//! past its drain; and a lookup that holds nothing finds what is between what was done
//! before it and what is begun after it.

use std::sync::atomic::{AtomicU64, Ordering};

/// A section's number and whether the page is mapped after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark(u64);

impl Mark {
    pub(super) fn new(number: u64, mapped: bool) -> Self {
        Self(number << 1 | u64::from(mapped))
    }

    pub(super) fn number(self) -> u64 {
        self.0 >> 1
    }

    pub(super) fn is_mapped(self) -> bool {
        self.0 & 1 == 1
    }
}

#[derive(Debug, Default)]
struct Cell {
    begun: AtomicU64,
    done: AtomicU64,
}

/// A cell for each page.
#[derive(Debug)]
pub(super) struct Shadow(Box<[Cell]>);

impl Shadow {
    /// Nothing is mapped.
    pub(super) fn new(cells: usize) -> Self {
        Self((0..cells).map(|_| Cell::default()).collect())
    }

    pub(super) fn begun(&self, cell: usize) -> Mark {
        Mark(self.0[cell].begun.load(Ordering::Acquire))
    }

    pub(super) fn done(&self, cell: usize) -> Mark {
        Mark(self.0[cell].done.load(Ordering::Acquire))
    }

    /// By the writer, drained and not published.
    pub(super) fn begin(&self, cell: usize, mark: Mark) {
        self.0[cell].begun.store(mark.0, Ordering::Release);
    }

    /// By the writer, who has published.
    pub(super) fn finish(&self, cell: usize) {
        let begun = self.0[cell].begun.load(Ordering::Relaxed);
        self.0[cell].done.store(begun, Ordering::Release);
    }
}
