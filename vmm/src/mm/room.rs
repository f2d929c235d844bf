//! How much room there is in a free range, and at most in any of several.

use super::AddrRange;

/// What is free, summed up in numbers of which each is the largest that any of
/// the free ranges has. So a range that is wanted may be there only if the sum
/// [holds](Self::holds) what it needs; whether it is there, the ranges say.
///
/// Three numbers, since the length alone says little when an alignment is asked
/// for: among a million free ranges that are long enough, not one may be in the
/// right place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// How many addresses.
    pub(super) len: u64,
    /// The binary logarithm of the largest block that is aligned to its own size.
    pub(super) order: u8,
    /// How many zeros its most aligned address ends in.
    pub(super) zeros: u8,
}

impl Room {
    /// No free range.
    pub(super) const NONE: Self = Self {
        len: 0,
        order: 0,
        zeros: 0,
    };

    /// That in one free range.
    pub(super) fn of(free: AddrRange) -> Self {
        let Some(len) = free.len() else {
            return Self {
                len: u64::MAX,
                order: 64,
                zeros: 64,
            };
        };
        // Half a range's length fits wherever the range begins.
        let most = len.ilog2();
        let start = free.start().checked_next_multiple_of(1 << most);
        let fits = start.and_then(|start| AddrRange::new(start, 1 << most));
        let fits = fits.is_some_and(|block| free.covers(block));
        // The most aligned address is the one where the highest bit changes.
        let zeros = match free.start().checked_sub(1) {
            Some(before) => (before ^ free.last()).ilog2(),
            None => 64,
        };
        Self {
            len,
            order: (if fits { most } else { most - 1 }) as u8,
            zeros: zeros as u8,
        }
    }

    /// What a range of `len` addresses, at a multiple of `align`, needs at least.
    /// If `len` is not 0.
    pub(super) fn needed(len: u64, align: u64) -> Self {
        let zeros = align.max(1).trailing_zeros();
        Self {
            len,
            order: zeros.min(len.ilog2()) as u8,
            zeros: zeros as u8,
        }
    }

    /// That in the free ranges of both.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            len: self.len.max(other.len),
            order: self.order.max(other.order),
            zeros: self.zeros.max(other.zeros),
        }
    }

    /// Whether there may be a free range for what needs that much.
    pub(super) fn holds(self, need: Self) -> bool {
        self.len >= need.len && self.order >= need.order && self.zeros >= need.zeros
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Among few addresses everything can be counted.
    #[test]
    fn says_what_counting_says() {
        for start in 0..70 {
            for last in start..70 {
                let free = AddrRange::inclusive(start, last).unwrap();
                let room = Room::of(free);
                let fits = |len: u64, align: u64| {
                    (start..=last).any(|at| at % align == 0 && at + len - 1 <= last)
                };
                assert_eq!(room.len, last - start + 1);
                let orders = (0..=6).filter(|order| fits(1 << order, 1 << order));
                assert_eq!(Some(room.order), orders.max(), "{free}");
                if start > 0 {
                    let zeros = (start..=last).map(|at| at.trailing_zeros() as u8);
                    assert_eq!(Some(room.zeros), zeros.max(), "{free}");
                }
                for align in 1..20 {
                    for len in (1..20).filter(|len| fits(*len, align)) {
                        assert!(room.holds(Room::needed(len, align)));
                    }
                }
                // What is aligned to its own size is decided by the sum alone.
                for order in 0..7 {
                    let size = 1 << order;
                    let held = room.holds(Room::needed(size, size));
                    assert_eq!(held, fits(size, size), "{size} in {free}");
                }
            }
        }
    }

    #[test]
    fn reaches_to_the_end() {
        let all = AddrRange::inclusive(0, u64::MAX).unwrap();
        assert!(Room::of(all).holds(Room::needed(u64::MAX, 1 << 63)));
        let top = AddrRange::inclusive(1, u64::MAX).unwrap();
        let (len, order, zeros) = (u64::MAX, 63, 63);
        assert_eq!(Room::of(top), Room { len, order, zeros });
        assert!(!Room::NONE.holds(Room::needed(1, 0)));
    }
}
