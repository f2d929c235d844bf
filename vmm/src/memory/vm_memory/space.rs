//! The address spaces that devices and loaders are given.

use std::ops::Deref;
use std::sync::Arc;

use vm_memory::GuestAddressSpace;

use super::{DmaView, RamView};
use crate::memory::GuestSpace;

/// A guest's memory for loaders, and whoever else sees all of it: in place of
/// `GuestMemoryAtomic<GuestMemoryMmap>`. Clones are the same memory.
#[derive(Clone, Debug)]
pub struct GuestRam {
    space: Arc<GuestSpace>,
}

/// The same for devices: what it gives checks what may be written.
#[derive(Clone, Debug)]
pub struct GuestDma(GuestRam);

/// What [`memory`](GuestAddressSpace::memory) gives: a view of the memory, which pins
/// what is touched through it for as long as it is there. A clone pins all of that too.
#[derive(Clone, Debug)]
pub struct MemoryHandle<V>(V);

impl<V> Deref for MemoryHandle<V> {
    type Target = V;
    #[inline(always)]
    fn deref(&self) -> &V {
        &self.0
    }
}

impl GuestRam {
    /// The memory of this space.
    pub fn new(space: Arc<GuestSpace>) -> Self {
        Self { space }
    }

    /// The space, for all else that can be done with it.
    pub fn space(&self) -> &Arc<GuestSpace> {
        &self.space
    }

    /// The same memory for devices.
    pub fn dma(&self) -> GuestDma {
        GuestDma(self.clone())
    }
}

impl GuestDma {
    /// The same memory for those who see all of it.
    pub fn ram(&self) -> &GuestRam {
        &self.0
    }
}

impl GuestAddressSpace for GuestRam {
    type M = RamView;
    type T = MemoryHandle<RamView>;

    #[inline]
    fn memory(&self) -> Self::T {
        MemoryHandle(RamView::new(self.space.mm().pin_set()))
    }
}

impl GuestAddressSpace for GuestDma {
    type M = DmaView;
    type T = MemoryHandle<DmaView>;

    #[inline]
    fn memory(&self) -> Self::T {
        MemoryHandle(DmaView::new(RamView::new(self.0.space.mm().pin_set())))
    }
}
