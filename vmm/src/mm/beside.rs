//! Which entry of a record the next pin goes to.

use std::cell::Cell;
use std::ptr;

use super::entry::Entry;
use super::record::Spill;

/// Where its owner looked last for an entry for a pin. Pins leave the first entry
/// alone, which lookups begin with; and as there may be thousands of them, the search
/// goes on where the last one ended instead of beginning again.
#[derive(Debug)]
pub(super) struct Beside {
    /// What was given out last; null at first.
    pub(super) last: Cell<*const Entry>,
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
            piece: Cell::new(ptr::null()),
            index: Cell::new(0),
        }
    }
}
