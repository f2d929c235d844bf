//! A VMA held read-locked.

use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::Deref;

use super::core::Core;
use super::entry::Entry;
use super::slot::Slot;
use super::{Payload, Vma, VmaPin};

/// A read-locked VMA. While it lives the VMA's bounds, flags and payload stay as
/// they are, and no writer that wants to change them gets past its drain.
///
/// Stays with its thread. It may be held across anything but the opening of a
/// write section in the same address space, which is an error there; further
/// lookups are allowed. Dropping it costs a store. One that is forgotten
/// (`mem::forget`) holds its VMA for ever.
pub struct VmaReadGuard<'a, T: Payload> {
    pub(super) core: &'a Core<T>,
    pub(super) slot: &'a Slot<T>,
    /// Says that the VMA is held. It is reached by this pointer when the guard is
    /// dropped, not through the thread.
    pub(super) entry: &'a Entry,
    /// Admission of nested lookups goes by thread, so a guard must not move.
    pub(super) stays: PhantomData<*const ()>,
}

impl<T: Payload> VmaReadGuard<'_, T> {
    /// Makes of it a hold that may outlive the call and go to another thread.
    /// Costs a count on the address space, which the pin keeps alive.
    pub fn pin(self) -> VmaPin<T> {
        let this = ManuallyDrop::new(self);
        VmaPin::take_over(this.core.shared(), this.slot, this.entry)
    }
}

impl<T: Payload> Deref for VmaReadGuard<'_, T> {
    type Target = Vma<T>;
    #[inline]
    fn deref(&self) -> &Vma<T> {
        // SAFETY: held read-locked until the drop, and the result is borrowed from
        // the guard.
        unsafe { self.slot.vma() }
    }
}

impl<T: Payload> Drop for VmaReadGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // Looked at before the hold ends, since the slot may be freed after it.
        if self.core.bell.is_wanted() {
            self.core.put_and_ring(self.slot, self.entry);
        } else {
            self.entry.clear();
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
