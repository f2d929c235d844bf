//! A range of addresses that is valid by construction.

use std::fmt;

/// A non-empty range of addresses, `[start, last]`. The end is kept inclusive,
/// so that a range may reach 2^64 and no arithmetic wraps.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AddrRange {
    start: u64,
    last: u64,
}

impl AddrRange {
    /// The `len` addresses from `start` on. `None` if `len` is 0 or the range
    /// would go past 2^64.
    pub const fn new(start: u64, len: u64) -> Option<Self> {
        if len == 0 {
            return None;
        }
        match start.checked_add(len - 1) {
            Some(last) => Some(Self { start, last }),
            None => None,
        }
    }

    /// All addresses from `start` to `last`, both included. `None` if `last` is
    /// below `start`.
    pub const fn inclusive(start: u64, last: u64) -> Option<Self> {
        if start <= last {
            Some(Self { start, last })
        } else {
            None
        }
    }

    /// The first address.
    pub const fn start(self) -> u64 {
        self.start
    }

    /// The last address.
    pub const fn last(self) -> u64 {
        self.last
    }

    /// The address after the last; `None` if that is 2^64.
    pub const fn end(self) -> Option<u64> {
        self.last.checked_add(1)
    }

    /// How many addresses, `None` for all 2^64 of them.
    pub const fn len(self) -> Option<u64> {
        (self.last - self.start).checked_add(1)
    }

    /// Never: a range holds at least one address.
    pub const fn is_empty(self) -> bool {
        false
    }

    /// Whether `addr` lies in the range.
    pub const fn contains(self, addr: u64) -> bool {
        self.start <= addr && addr <= self.last
    }

    /// Whether all of `other` lies in the range.
    pub const fn covers(self, other: Self) -> bool {
        self.start <= other.start && other.last <= self.last
    }

    /// Whether the two have an address in common.
    pub const fn overlaps(self, other: Self) -> bool {
        self.start <= other.last && other.start <= self.last
    }

    /// What the two have in common.
    pub const fn intersection(self, other: Self) -> Option<Self> {
        let start = if self.start > other.start {
            self.start
        } else {
            other.start
        };
        let last = if self.last < other.last {
            self.last
        } else {
            other.last
        };
        Self::inclusive(start, last)
    }
}

impl fmt::Display for AddrRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}-{:#x}", self.start, self.last)
    }
}

impl fmt::Debug for AddrRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_never_empty_and_never_wraps() {
        assert_eq!(AddrRange::new(5, 0), None);
        assert_eq!(AddrRange::new(u64::MAX, 2), None);
        assert_eq!(AddrRange::inclusive(2, 1), None);
        let top = AddrRange::new(u64::MAX, 1).unwrap();
        assert_eq!(
            (top.start(), top.last(), top.end()),
            (u64::MAX, u64::MAX, None)
        );
        let all = AddrRange::inclusive(0, u64::MAX).unwrap();
        assert_eq!((all.len(), all.end()), (None, None));
        assert!(all.covers(top) && all.overlaps(top) && !top.covers(all));
    }

    #[test]
    fn neighbours_do_not_overlap() {
        let a = AddrRange::new(0x1000, 0x1000).unwrap();
        let b = AddrRange::new(0x2000, 0x1000).unwrap();
        assert!(!a.overlaps(b) && a.intersection(b).is_none());
        assert!(a.contains(0x1fff) && !a.contains(0x2000));
        let seam = AddrRange::new(0x1fff, 2).unwrap();
        assert_eq!(a.intersection(seam), AddrRange::new(0x1fff, 1));
        assert_eq!(b.intersection(seam), AddrRange::new(0x2000, 1));
    }
}
