//! A sweep over some pages that goes on where it stopped. What one round wrote,
//! the next one verifies, and the sweep that follows verifies it once more before
//! it writes anew: so a pattern lives across whatever happens to memslots
//! meanwhile, for a round and for a whole sweep, however many pages there are.

use core::ops::Range;

use crate::page;

/// A sweep does this many pages at a time; the clock is looked at in between.
const CHUNK: u32 = 4;
/// The tag of pages that were never written. No pattern has it.
const NONE: u16 = 0xffff;

/// The pages `first`, `first + stride`, ... (`count` of them), counted from the
/// page at `base`.
#[derive(Clone, Copy)]
pub struct Pages {
    pub base: u64,
    pub first: u64,
    pub stride: u64,
    pub count: u32,
}

impl Pages {
    fn gpa(&self, index: u32) -> u64 {
        self.base + (self.first + u64::from(index) * self.stride) * page::SIZE
    }
}

/// How far a sweep has got: the pages before `next` hold the pattern of
/// `current`, the others that of `previous`.
#[derive(Clone, Copy)]
pub struct Sweep {
    next: u32,
    /// The pages before this one have been verified since this sweep wrote them.
    checked: u32,
    /// The pages before this one were written before this round.
    older: u32,
    /// The round of the last step.
    round: u16,
    current: u16,
    previous: u16,
}

impl Sweep {
    /// Over pages that hold no pattern yet.
    pub const fn new() -> Self {
        Self {
            next: 0,
            checked: 0,
            older: 0,
            round: NONE,
            current: NONE,
            previous: NONE,
        }
    }

    /// Verifies or writes the next few pages. `false` when there is nothing left
    /// to do in this round.
    ///
    /// # Safety
    ///
    /// The pages must be this vCPU's to write ([`page::fill`]) and the same in
    /// every call.
    pub unsafe fn step(&mut self, pages: &Pages, round: u64) -> bool {
        let tag = tag(round);
        if self.round != tag {
            self.round = tag;
            self.older = self.next;
        }
        if self.current == NONE || self.checked == pages.count {
            (self.previous, self.current) = (self.current, tag);
            (self.next, self.checked, self.older) = (0, 0, 0);
        }
        if self.checked < self.older {
            for index in chunk(&mut self.checked, self.older) {
                // SAFETY: the caller vouches for the pages.
                unsafe { page::verify(pages.gpa(index), self.current.into(), round) };
            }
            return true;
        }
        if self.next == pages.count {
            return false;
        }
        for index in chunk(&mut self.next, pages.count) {
            let gpa = pages.gpa(index);
            if self.previous != NONE {
                // SAFETY: the caller vouches for the pages.
                unsafe { page::verify(gpa, self.previous.into(), round) };
            }
            // SAFETY: the caller vouches for the pages.
            unsafe { page::fill(gpa, self.current.into()) };
        }
        true
    }
}

/// A walk over pages that are only read: through all of them at most once a round.
#[derive(Clone, Copy)]
pub struct Walk {
    next: u32,
    /// The round in which it last started over.
    round: u16,
}

impl Walk {
    pub const fn new() -> Self {
        Self {
            next: 0,
            round: NONE,
        }
    }

    /// The next few of `count` pages, or none if there is nothing left to do in
    /// this round.
    pub fn step(&mut self, count: u32, round: u64) -> Range<u32> {
        if self.next == count && self.round != tag(round) {
            self.next = 0;
        }
        if self.next == 0 {
            self.round = tag(round);
        }
        chunk(&mut self.next, count)
    }
}

/// The round as patterns name it.
fn tag(round: u64) -> u16 {
    (round % u64::from(NONE)) as u16
}

/// Moves `next` up to [`CHUNK`] further, to `end` at most. Returns what it passed.
fn chunk(next: &mut u32, end: u32) -> Range<u32> {
    let start = *next;
    *next = end.min(start + CHUNK);
    start..*next
}
