//! The ids of memslots: the lowest free one each time, so that they stay small
//! (KVM's cost of a change does not depend on them, but its limit does).
//!
//! The lock is held for the id alone, never across an ioctl. That is enough: an
//! id is taken before KVM hears of it and given back after KVM has forgotten it.
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// All ids are taken; there are this many.
#[derive(Debug)]
pub(super) struct NoneLeft(pub(super) u32);

/// Hands out ids below a limit.
#[derive(Debug)]
pub(super) struct SlotIds {
    limit: u32,
    state: Mutex<Free>,
}

#[derive(Debug, Default)]
struct Free {
    /// Every id from here on is free.
    above: u32,
    /// Free ids below that.
    below: BTreeSet<u32>,
}

impl SlotIds {
    pub(super) fn new(limit: u32) -> Self {
        Self {
            limit,
            state: Mutex::default(),
        }
    }

    pub(super) fn limit(&self) -> u32 {
        self.limit
    }

    pub(super) fn taken(&self) -> u32 {
        let free = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        free.above - free.below.len() as u32
    }

    pub(super) fn take(&self) -> Result<u32, NoneLeft> {
        let mut free = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = free.below.pop_first() {
            return Ok(id);
        }
        if free.above == self.limit {
            return Err(NoneLeft(self.limit));
        }
        free.above += 1;
        Ok(free.above - 1)
    }

    pub(super) fn give(&self, id: u32) {
        let mut free = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let new = free.below.insert(id);
        debug_assert!(new && id < free.above, "slot id {id} was given back twice");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_the_lowest_free_and_end() {
        let ids = SlotIds::new(3);
        assert_eq!([0; 3].map(|_: u32| ids.take().unwrap()), [0, 1, 2]);
        assert!(matches!(ids.take(), Err(NoneLeft(3))));
        ids.give(1);
        ids.give(0);
        assert_eq!(ids.taken(), 1);
        assert_eq!(ids.take().unwrap(), 0);
        assert_eq!(ids.take().unwrap(), 1);
        assert!(ids.take().is_err());
    }
}
