//! What a handle sees: all memory, whatever may be done with it.

use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};

use crate::memory::Backing;
use crate::mm::{AddrRange, PinSet, Vma};

/// The memory of a guest, region by region, as it is whenever it is looked at.
///
/// What [`find_region`](GuestMemoryBackend::find_region), `iter`, `get_slice` or an
/// access comes by is pinned until the view is dropped, and nothing else is. It takes
/// ROM for memory like any other: that is where loaders write it. A device's view is
/// [`DmaView`](super::DmaView).
///
/// A clone pins all that this one has pinned, and goes its own way from there.
#[derive(Clone, Debug)]
pub struct RamView {
    pins: PinSet<Backing>,
}

impl RamView {
    #[inline]
    pub(super) fn new(pins: PinSet<Backing>) -> Self {
        Self { pins }
    }

    /// The regions that are pinned, and so cannot be removed: how many there are.
    pub fn pinned(&self) -> usize {
        self.pins.len()
    }

    /// Calls `each` for the addresses of each region, and pins none of them.
    fn look_over(&self, mut each: impl FnMut(AddrRange)) {
        let look = |vma: &Vma<Backing>| {
            if is_memory(vma) {
                each(vma.range());
            }
            false
        };
        // The one error is as below: there is nothing more for this thread.
        let _ = self.pins.lock_next_vma_if(0, look);
    }

    #[inline(always)]
    pub(super) fn find(&self, addr: u64) -> Option<&Vma<Backing>> {
        // The one error is that this very thread is changing the region: it is not
        // there for it.
        self.pins.lock_vma_if(addr, is_memory).ok().flatten()
    }
}

#[inline(always)]
fn is_memory(vma: &Vma<Backing>) -> bool {
    // Who maps by hand may have memory up to 2^64. `vm-memory` would go on at 0 there.
    vma.payload().memory().is_some() && vma.range().end().is_some()
}

impl GuestMemoryBackend for RamView {
    type R = Vma<Backing>;

    // Apart, and with a result that fits a register: so the iterator over slices, which
    // is `vm-memory`'s, remains small enough to be inlined where it is used.
    #[inline(never)]
    fn find_region(&self, addr: GuestAddress) -> Option<&Self::R> {
        self.find(addr.0)
    }

    #[inline(always)]
    fn to_region_addr(&self, addr: GuestAddress) -> Option<(&Self::R, MemoryRegionAddress)> {
        let region = self.find_region(addr)?;
        Some((region, MemoryRegionAddress(addr.0 - region.start_addr().0)))
    }

    /// Pins nothing.
    fn num_regions(&self) -> usize {
        let mut count = 0;
        self.look_over(|_| count += 1);
        count
    }

    /// Pins nothing.
    fn last_addr(&self) -> GuestAddress {
        let mut last = 0;
        self.look_over(|range| last = range.last());
        GuestAddress(last)
    }

    /// Each in the map that is in force when it is its turn.
    fn iter(&self) -> impl Iterator<Item = &Self::R> {
        let mut from = Some(0);
        std::iter::from_fn(move || {
            let vma = self.pins.lock_next_vma_if(from?, is_memory).ok()??;
            from = vma.range().end();
            Some(vma)
        })
    }
}
