//! Free ranges, in the map as planned.
//!
//! Where a plan changes nothing, the [tree](super::gap_tree) has the answer. So the
//! window is cut into pieces: stretches up to the last VMA before the next thing
//! that goes or comes, which the tree is asked for, and what is free from there to
//! the next VMA as planned, which may be parts of the tree's gaps or several of
//! them joined.

use super::plan::Plan;
use super::{AddrRange, Payload, WriteSection, gap_tree, tree};

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
    pub(super) fn fit(&self, free: AddrRange) -> Option<AddrRange> {
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

/// A part of the window.
enum Piece {
    /// As in the tree; what is free at its end does not go on behind it.
    Tree(AddrRange),
    /// Free from end to end.
    Free(AddrRange),
}

impl<T: Payload> Plan<T> {
    fn find_gap(&self, gap: Gap, space: AddrRange) -> Option<AddrRange> {
        let pieces = self.pieces(gap.window.intersection(space));
        let find = |piece| match piece {
            Piece::Free(free) => gap.fit(free),
            // SAFETY: the section has the map lock, so the version stays in force.
            Piece::Tree(part) => unsafe { gap_tree::find(self.root, &gap, part) },
        };
        if gap.highest {
            let pieces: Vec<_> = pieces.collect();
            pieces.into_iter().rev().find_map(find)
        } else {
            let mut pieces = pieces;
            pieces.find_map(find)
        }
    }

    /// The pieces of a window, in order; VMAs of the plan may lie between them.
    fn pieces(&self, window: Option<AddrRange>) -> impl Iterator<Item = Piece> + '_ {
        let mut left = window;
        let next = move || {
            let now = left.take()?;
            let change = self.next_change(now.start());
            let Some(change) = change.filter(|change| change.overlaps(now)) else {
                return Some([Some(Piece::Tree(now)), None]);
            };
            let before = change.start().checked_sub(1);
            let as_is = before.and_then(|last| AddrRange::inclusive(now.start(), last));
            let kept = as_is.and_then(|as_is| {
                // SAFETY: as above.
                let slot = unsafe { tree::at_or_before(self.root, as_is.last()) };
                slot?.range().intersection(as_is)
            });
            // The change begins above what is kept, so nothing overflows.
            let from = kept.map_or(now.start(), |kept| kept.last() + 1);
            let part = kept.and_then(|kept| AddrRange::inclusive(now.start(), kept.last()));
            let next = self.at_or_after(from).map(|vma| vma.range());
            let last = next.map_or(Some(u64::MAX), |next| next.start().checked_sub(1));
            let free = last.and_then(|last| AddrRange::inclusive(from, last.min(now.last())));
            left = next
                .and_then(AddrRange::end)
                .and_then(|end| AddrRange::inclusive(end, now.last()));
            Some([part.map(Piece::Tree), free.map(Piece::Free)])
        };
        std::iter::from_fn(next).flatten().flatten()
    }

    /// The first range at or after `addr` where something goes or comes.
    fn next_change(&self, addr: u64) -> Option<AddrRange> {
        // SAFETY: in the tree in force, under the map lock.
        let gone = |slot: &*const _| unsafe { super::slot::Slot::range(&**slot) };
        let ends = |range: &AddrRange| range.last() >= addr;
        let goes = (self
            .goes
            .range(..=addr)
            .next_back()
            .map(|(_, slot)| gone(slot)))
        .filter(ends)
        .or_else(|| self.goes.range(addr..).next().map(|(_, slot)| gone(slot)));
        let comes = (self.comes.range(..=addr).next_back())
            .map(|(_, coming)| coming.vma.range())
            .filter(ends)
            .or_else(|| self.comes.range(addr..).next().map(|(_, c)| c.vma.range()));
        match (goes, comes) {
            (Some(goes), Some(comes)) => Some(goes.min(comes)),
            (goes, comes) => goes.or(comes),
        }
    }
}

impl<T: Payload> WriteSection<'_, T> {
    /// A range where nothing is mapped, in the map as planned so far: the lowest or
    /// the highest one of that length and alignment in the window.
    ///
    /// Takes a logarithmic time for each change that is planned in the window, and
    /// one more: the number of VMAs hardly matters, unless gaps abound in which
    /// only the alignment is not to be had.
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

#[cfg(all(test, not(any(loom, shuttle))))]
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
