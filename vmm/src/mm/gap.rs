//! Free ranges.

use super::plan::Plan;
use super::{AddrRange, Payload, WriteSection};

/// What free range is wanted; see [`WriteSection::find_gap`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// How many addresses. 0 is found nowhere.
    pub len: u64,
    /// What the first address is a multiple of; 0 and 1 are no demand.
    pub align: u64,
    /// Where to look.
    pub window: AddrRange,
    /// Whether the highest one is wanted, rather than the lowest.
    pub highest: bool,
}

impl Gap {
    /// Where it fits best in `free`.
    fn fit(&self, free: AddrRange) -> Option<AddrRange> {
        let align = self.align.max(1);
        let start = if self.highest {
            let top = free.last().checked_sub(self.len.checked_sub(1)?)?;
            top - top % align
        } else {
            free.start().checked_next_multiple_of(align)?
        };
        AddrRange::new(start, self.len).filter(|range| free.covers(*range))
    }
}

impl<T: Payload> Plan<T> {
    fn find_gap(&self, gap: Gap, space: AddrRange) -> Option<AddrRange> {
        let mut left = gap.window.intersection(space);
        let mut best = None;
        while let Some(now) = left {
            let next = self.at_or_after(now.start()).map(|vma| vma.range());
            let next = next.filter(|next| next.overlaps(now));
            let free = match next {
                Some(next) => next
                    .start()
                    .checked_sub(1)
                    .and_then(|last| AddrRange::inclusive(now.start(), last)),
                None => Some(now),
            };
            if let Some(found) = free.and_then(|free| gap.fit(free)) {
                best = Some(found);
                if !gap.highest {
                    break;
                }
            }
            left = next
                .and_then(AddrRange::end)
                .and_then(|end| AddrRange::inclusive(end, now.last()));
        }
        best
    }
}

impl<T: Payload> WriteSection<'_, T> {
    /// A range where nothing is mapped, in the map as planned so far: the lowest or
    /// the highest one of that length and alignment in the window. Looks at every
    /// VMA in the window, up to the one found if the lowest is wanted.
    ///
    /// ```
    /// # use gracefault::mm::{AddrRange, AddressSpace, Gap, Payload, VmFlags};
    /// # #[derive(Clone)]
    /// # struct Ram;
    /// # impl Payload for Ram {}
    /// let mm = AddressSpace::new("guest", AddrRange::new(0, 1 << 20).unwrap());
    /// let mut section = mm.mmap_write_lock()?;
    /// let window = mm.range();
    /// let (len, align) = (0x3000, 0x4000);
    /// let gap = Gap { len, align, window, highest: true };
    /// let range = section.find_gap(gap).expect("all is free");
    /// assert_eq!(range, AddrRange::new(0xfc000, 0x3000).unwrap());
    /// section.map(range, VmFlags::READ, 0, Ram)?;
    /// section.lock()?.publish();
    /// # Ok::<(), gracefault::mm::WriteError>(())
    /// ```
    pub fn find_gap(&self, gap: Gap) -> Option<AddrRange> {
        self.plan.find_gap(gap, self.open.core.range)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::{AddressSpace, VmFlags};
    use super::*;

    #[derive(Clone)]
    struct Nothing;
    impl Payload for Nothing {}

    #[test]
    fn the_lowest_and_the_highest() {
        let range = |start, len| AddrRange::new(start, len).unwrap();
        let mm = AddressSpace::new("gaps", AddrRange::inclusive(0, u64::MAX).unwrap());
        let mut section = mm.mmap_write_lock().unwrap();
        for start in [0x10, 0x20, 0x48] {
            section
                .map(range(start, 0x8), VmFlags::NONE, 0, Nothing)
                .unwrap();
        }
        let find = |len, align, window, highest| {
            section.find_gap(Gap {
                len,
                align,
                window,
                highest,
            })
        };
        let low = range(0, 0x50);
        assert_eq!(find(0x8, 1, low, false), Some(range(0, 0x8)));
        assert_eq!(find(0x11, 1, low, false), Some(range(0x28, 0x11)));
        assert_eq!(find(0x8, 0x10, low, true), Some(range(0x40, 0x8)));
        assert_eq!(
            find(0x8, 1, range(0x12, 0x10), false),
            Some(range(0x18, 0x8))
        );
        assert_eq!(find(0x21, 1, low, false), None);
        assert_eq!(find(0, 1, low, false), None);
        let all = mm.range();
        let top = AddrRange::inclusive(u64::MAX - 0xf, u64::MAX).unwrap();
        assert_eq!(find(0x10, 0x10, all, true), Some(top));
        assert_eq!(find(0x11, 0x1000, all, false), Some(range(0x1000, 0x11)));
        assert_eq!(find(u64::MAX, 1, all, true), None);
    }
}
