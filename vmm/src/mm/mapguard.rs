//! The map held still.

use std::fmt;

use super::core::Core;
use super::node::Child;
use super::{AddrRange, LookupError, Payload, Vma, tree};

/// The map lock, shared: no writer is at work while it lives.
pub struct MmapReadGuard<'a, T: Payload> {
    core: &'a Core<T>,
    /// In force as long as the map lock is held.
    root: Child<T>,
}

impl<'a, T: Payload> MmapReadGuard<'a, T> {
    /// Takes the map lock for reading.
    pub(super) fn new(core: &'a Core<T>) -> Result<Self, LookupError> {
        core.writer.map_lock.read()?;
        let root = core.root();
        Ok(Self { core, root })
    }

    /// The VMA that covers `addr`.
    pub fn vma_lookup(&self, addr: u64) -> Option<&Vma<T>> {
        // SAFETY: the version is in force and the map lock is held; for both as
        // long as the result is borrowed.
        unsafe { tree::find(self.root, addr).map(|slot| slot.vma()) }
    }

    /// The VMA that covers `addr`, or else the first one after it.
    pub fn find_vma(&self, addr: u64) -> Option<&Vma<T>> {
        // SAFETY: as above.
        unsafe { tree::at_or_after(self.root, addr).map(|slot| slot.vma()) }
    }

    /// All VMAs, in the order of their addresses.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Vma<T>> + '_ {
        self.range(self.core.range)
    }

    /// The VMAs that overlap `range`, in the order of their addresses.
    pub fn range(&self, range: AddrRange) -> impl DoubleEndedIterator<Item = &Vma<T>> + '_ {
        // SAFETY: as above.
        let slots = unsafe { tree::slots(self.root, range) };
        // SAFETY: as above.
        slots.map(|slot| unsafe { slot.vma() })
    }

    /// The first VMA that overlaps `range`.
    pub fn overlapping(&self, range: AddrRange) -> Option<&Vma<T>> {
        self.find_vma(range.start())
            .filter(|vma| vma.range().overlaps(range))
    }
}

impl<T: Payload> Drop for MmapReadGuard<'_, T> {
    fn drop(&mut self) {
        self.core.writer.map_lock.end_read();
    }
}

impl<T: Payload> fmt::Debug for MmapReadGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MmapReadGuard")
            .field("vmas", &self.iter().count())
            .finish_non_exhaustive()
    }
}
