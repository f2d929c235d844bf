//! Where the regions of a storm without KVM are.
//!
//! Regions come in pairs. Even pairs stay mapped for good; odd ones come and go, and
//! may be at a second place. Regions touch each other; past them nothing ever is.

use crate::memory::PAGE;
use crate::mm::AddrRange;

const HOME: u64 = 1 << 32;
const AWAY: u64 = 1 << 40;
const NOWHERE: u64 = 1 << 44;

/// A number of regions and their size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) regions: u32,
    /// Pages in a region.
    pub(super) pages: u64,
}

impl Layout {
    pub(super) fn new(regions: u32) -> Self {
        let pages = if regions > 1 << 16 { 2 } else { 4 };
        Self { regions, pages }
    }

    /// Whether each region has memory of its own, which goes when it goes. The host
    /// has no room for more mappings (`vm.max_map_count`).
    pub(super) fn has_memory(&self) -> bool {
        self.regions <= 8192
    }

    /// Where one VMA stays for good, beside all regions.
    pub(super) fn aside() -> AddrRange {
        range(1 << 20, PAGE)
    }

    /// The addresses there are.
    pub(super) fn space() -> AddrRange {
        range(0, 1 << 46)
    }

    /// Bytes in a region.
    pub(super) fn len(&self) -> u64 {
        self.pages * PAGE
    }

    /// Whether a region stays mapped.
    pub(super) fn stays(&self, region: u32) -> bool {
        (region / 2).is_multiple_of(2)
    }

    pub(super) fn home(&self, region: u32) -> AddrRange {
        range(HOME + u64::from(region) * self.len(), self.len())
    }

    /// The other place of a region that comes and goes.
    pub(super) fn away(&self, region: u32) -> AddrRange {
        range(AWAY + u64::from(region) * self.len(), self.len())
    }

    /// An address where nothing ever is.
    pub(super) fn nowhere(&self, random: u64) -> u64 {
        NOWHERE + random % (1 << 30)
    }

    /// The other region of the pair, if there is one.
    pub(super) fn partner(&self, region: u32) -> Option<u32> {
        let partner = region ^ 1;
        (partner < self.regions).then_some(partner)
    }

    /// Both regions of the pair, at home.
    pub(super) fn pair(&self, region: u32) -> AddrRange {
        let first = region & !1;
        let count = if first + 1 < self.regions { 2 } else { 1 };
        range(self.home(first).start(), count * self.len())
    }

    /// How many cells a shadow has.
    pub(super) fn cells(&self) -> usize {
        (2 * u64::from(self.regions) * self.pages) as usize
    }

    /// The cell of the page at `addr`; `None` where nothing ever is.
    pub(super) fn cell(&self, addr: u64) -> Option<usize> {
        let bytes = u64::from(self.regions) * self.len();
        let (base, first) = match addr {
            AWAY.. => (AWAY, bytes / PAGE),
            _ => (HOME, 0),
        };
        let offset = addr.checked_sub(base).filter(|offset| *offset < bytes)?;
        Some((first + offset / PAGE) as usize)
    }

    /// The region whose place `addr` is in.
    pub(super) fn region(&self, addr: u64) -> Option<u32> {
        let cell = self.cell(addr)? as u64;
        Some(((cell / self.pages) % u64::from(self.regions)) as u32)
    }

    /// What the page at `addr` is called, wherever its region is.
    pub(super) fn page_name(&self, addr: u64) -> Option<u64> {
        let cell = self.cell(addr)? as u64;
        let name = cell % (u64::from(self.regions) * self.pages);
        Some((name + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
}

pub(super) fn range(start: u64, len: u64) -> AddrRange {
    AddrRange::new(start, len).expect("not empty, and far from 2^64")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_has_a_cell_and_a_name() {
        for regions in [1, 3, 8, 70_000] {
            let layout = Layout::new(regions);
            let mut seen = vec![false; layout.cells()];
            for region in 0..regions {
                for place in [layout.home(region), layout.away(region)] {
                    for page in 0..layout.pages {
                        let addr = place.start() + page * PAGE + 7;
                        let cell = layout.cell(addr).unwrap();
                        assert!(!std::mem::replace(&mut seen[cell], true));
                        assert_eq!(layout.region(addr), Some(region));
                    }
                }
                let (home, away) = (layout.home(region), layout.away(region));
                assert_eq!(
                    layout.page_name(home.start()),
                    layout.page_name(away.start())
                );
            }
            assert!(seen.into_iter().all(|seen| seen));
            let last = layout.home(regions - 1).last();
            assert_eq!(layout.cell(last + 1), None);
            assert_eq!(layout.cell(layout.nowhere(u64::MAX)), None);
            assert_eq!(layout.cell(0), None);
        }
    }
}
