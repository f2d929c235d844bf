//! Which entry of a record the next pin goes to.

use std::cell::Cell;
use std::ptr;

use super::entry::Entry;
use super::record::Spill;
use super::sync::MODEL;

/// How many of those given out lately are known.
const BEFORE: usize = if MODEL { 1 } else { 4 };

/// Where its owner looked last for an entry for a pin. Pins leave the first entry
/// alone, which lookups begin with; and as there may be thousands of them, the search
/// goes on where the last one ended instead of beginning again.
#[derive(Debug)]
pub(super) struct Beside {
    /// What was given out last; null at first.
    pub(super) last: Cell<*const Entry>,
    /// What was given out before that, which is looked at first: an operation that
    /// pins a few, and is followed by others like it, finds the same ones again,
    /// however many are parked around them.
    before: [Cell<*const Entry>; BEFORE],
    /// How many entries were looked at in search of one.
    #[cfg(test)]
    pub(super) looked: Cell<usize>,
    /// The piece of the spill list it is in; null: it is in the record itself.
    pub(super) piece: Cell<*const Spill>,
    /// Its place there.
    pub(super) index: Cell<usize>,
}

// SAFETY: only the thread that has claimed the record uses it, and a claim acquires
// what the claim before it has released.
unsafe impl Sync for Beside {}
// SAFETY: as above; what it points to lives as long as the record.
unsafe impl Send for Beside {}

impl Beside {
    pub(super) fn new() -> Self {
        Self {
            last: Cell::new(ptr::null()),
            before: [const { Cell::new(ptr::null()) }; BEFORE],
            #[cfg(test)]
            looked: Cell::new(0),
            piece: Cell::new(ptr::null()),
            index: Cell::new(0),
        }
    }

    /// One of those given out lately that is empty again; the last one.
    pub(super) fn again(&self) -> Option<&Entry> {
        let found = self.before.iter().position(|before| {
            self.count_look();
            // SAFETY: null or an entry of the record, which has this.
            unsafe { before.get().as_ref() }.is_some_and(Entry::is_empty)
        })?;
        // SAFETY: as above.
        let entry = unsafe { self.before[found].get().as_ref() }?;
        let mut given = self.last.replace(entry);
        for before in &self.before[..=found] {
            given = before.replace(given);
        }
        Some(entry)
    }

    /// `entry` is given out, as the last one.
    pub(super) fn give_out(&self, entry: &Entry) {
        let mut given = self.last.replace(entry);
        for before in &self.before {
            given = before.replace(given);
        }
    }

    /// For the tests.
    #[inline(always)]
    pub(super) fn count_look(&self) {
        #[cfg(test)]
        self.looked.set(self.looked.get() + 1);
    }
}
