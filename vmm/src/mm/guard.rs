//! A VMA held read-locked, and the map held still.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;

use super::state::{Core, Map};
use super::sync::lock;
use super::{AddrRange, Payload, Vma};

/// A read-locked VMA. While it lives the VMA's bounds, flags and payload stay as
/// they are, and no writer that wants to change them gets past its drain.
///
/// Stays with its thread. It may be held across anything but the opening of a
/// write section in the same address space, which is an error there; further
/// lookups are allowed.
pub struct VmaReadGuard<'a, T: Payload> {
    pub(super) core: &'a Core<T>,
    pub(super) vma: Option<Arc<Vma<T>>>,
    pub(super) reader: u64,
    /// Admission of nested lookups goes by thread, so a guard must not move.
    pub(super) stays: PhantomData<*const ()>,
}

impl<T: Payload> Deref for VmaReadGuard<'_, T> {
    type Target = Vma<T>;
    fn deref(&self) -> &Vma<T> {
        self.vma.as_deref().expect("present until the drop")
    }
}

impl<T: Payload> Drop for VmaReadGuard<'_, T> {
    fn drop(&mut self) {
        // The reference goes first: once the hold is gone, the writer owns the
        // VMA alone.
        self.vma = None;
        let mut state = lock(&self.core.state);
        state.readers.remove(&self.reader);
        if !state.locked.is_empty() {
            self.core.changed.notify_all();
        }
    }
}

impl<T: Payload> fmt::Debug for VmaReadGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VmaReadGuard")
            .field("range", &self.range())
            .finish_non_exhaustive()
    }
}

/// The map lock, shared: no writer is at work while it lives.
pub struct MmapReadGuard<'a, T: Payload> {
    pub(super) core: &'a Core<T>,
    pub(super) map: Arc<Map<T>>,
}

impl<T: Payload> MmapReadGuard<'_, T> {
    /// The VMA that covers `addr`.
    pub fn vma_lookup(&self, addr: u64) -> Option<&Vma<T>> {
        self.find_vma(addr)
            .filter(|vma| vma.range().start() <= addr)
    }

    /// The VMA that covers `addr`, or else the first one after it.
    pub fn find_vma(&self, addr: u64) -> Option<&Vma<T>> {
        let covering = self
            .map
            .range(..=addr)
            .next_back()
            .filter(|(_, v)| v.range().contains(addr));
        let (_, vma) = covering.or_else(|| self.map.range(addr..).next())?;
        Some(vma)
    }

    /// All VMAs, in the order of their addresses.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Vma<T>> + '_ {
        self.map.values().map(|vma| &**vma)
    }

    /// The first VMA that overlaps `range`.
    pub fn overlapping(&self, range: AddrRange) -> Option<&Vma<T>> {
        self.find_vma(range.start())
            .filter(|vma| vma.range().overlaps(range))
    }
}

impl<T: Payload> Drop for MmapReadGuard<'_, T> {
    fn drop(&mut self) {
        // The snapshot goes first, so that the next writer changes the map in
        // place.
        self.map = Arc::default();
        lock(&self.core.state).read_locks -= 1;
        self.core.changed.notify_all();
    }
}

impl<T: Payload> fmt::Debug for MmapReadGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MmapReadGuard")
            .field("vmas", &self.map.len())
            .finish_non_exhaustive()
    }
}
