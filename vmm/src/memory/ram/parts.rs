//! Which parts of a file are mapped: each at most once; and which should be holes.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The parts of one file that are mapped now. A second mapping of a part would let one
/// owner make a hole, or write, under the other.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// First byte and the one after the last. No two overlap. Held for a look-up.
    taken: Mutex<BTreeMap<u64, u64>>,
    /// The first byte of each part in which a hole could not be made: what should be
    /// gone is there. Held for a look-up.
    stale: Mutex<BTreeSet<u64>>,
}

/// A part that nobody else maps, until this is dropped.
#[derive(Debug)]
pub(in crate::memory) struct Claim {
    parts: Arc<Parts>,
    start: u64,
}

impl Parts {
    fn taken(&self) -> MutexGuard<'_, BTreeMap<u64, u64>> {
        // Nothing that runs under the lock can panic half-way.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes `len` bytes from `start` on. Fails with `ResourceBusy` if one of them is
    /// taken.
    pub(super) fn claim(self: &Arc<Self>, start: u64, len: u64) -> io::Result<Claim> {
        let end = start.saturating_add(len);
        let mut taken = self.taken();
        let before = taken.range(..end).next_back();
        if before.is_some_and(|(_, &last_end)| last_end > start) {
            return Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                "this part of the file behind guest RAM is still mapped: whoever had it \
                 before has kept a reference to it, and must drop it first",
            ));
        }
        taken.insert(start, end);
        drop(taken);
        let parts = self.clone();
        Ok(Claim { parts, start })
    }
}

impl Claim {
    fn stale(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        let stale = self.parts.stale.lock();
        stale.unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what should be gone is in the part.
    pub(super) fn is_stale(&self) -> bool {
        self.stale().contains(&self.start)
    }

    /// Notes whether it is.
    pub(super) fn set_stale(&self, is_stale: bool) {
        let mut stale = self.stale();
        match is_stale {
            true => stale.insert(self.start),
            false => stale.remove(&self.start),
        };
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.parts.taken().remove(&self.start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_taken_once_until_it_is_dropped() {
        let parts = Arc::new(Parts::default());
        let taken = [(0, 10), (20, 10)].map(|(start, len)| parts.claim(start, len).unwrap());
        for (start, len) in [(0, 10), (9, 1), (9, 2), (5, 30), (15, 6), (29, 9), (21, 2)] {
            let error = parts.claim(start, len).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ResourceBusy, "{start} {len}");
        }
        let between = parts.claim(10, 10).unwrap();
        between.set_stale(true);
        drop(between);
        assert!(!taken[1].is_stale());
        let again = parts.claim(10, 10).unwrap();
        assert!(again.is_stale());
        again.set_stale(false);
        drop(again);
        assert!(!parts.claim(10, 10).unwrap().is_stale());
        drop(taken);
        parts.claim(0, u64::MAX).unwrap();
    }
}
