//! Holds that outlive the call.

use std::fmt;
use std::ops::Deref;
use std::ptr;
use std::sync::Arc;

use super::core::Core;
use super::entry::Entry;
use super::slot::Slot;
use super::sync::atomic::Ordering;
use super::sync::mutant;
use super::{LookupError, LookupPath, Payload, Vma, VmaReadGuard, WaitOptions, Window};

/// A VMA held read-locked by whoever has this, on whichever thread: for what is
/// still under way when the call that began it is over, such as a descriptor chain
/// that waits for the disk. Made by [`VmaReadGuard::pin`].
///
/// A drain waits for a pin as it does for a guard, and reports it under the name of
/// the thread that made it. The map does not know on which thread a pin is, so:
///
/// - opening a write section with a pin at hand is no error; wanting to change the
///   pinned VMA in it is a wait for ever (or until the deadline);
/// - a lookup of another VMA that the same writer wants is let in by a pin only if
///   it goes through the pin:
///   [`lock_vma_under_rcu_wait_with`](Self::lock_vma_under_rcu_wait_with).
///
/// A pin keeps the address space alive. One that is forgotten holds its VMA for
/// ever.
pub struct VmaPin<T: Payload> {
    core: Arc<Core<T>>,
    slot: *const Slot<T>,
    /// In the record where the pin was born, which is claimed by nobody else until
    /// it is empty.
    entry: *const Entry,
}

// SAFETY: the VMA may be shared and sent, as `Payload` demands of what it carries;
// entries and slots are shared between threads at any rate. The entry may be
// cleared from any thread, since its owner fills it only once it is empty.
unsafe impl<T: Payload> Send for VmaPin<T> {}
// SAFETY: as above; a shared pin only reads.
unsafe impl<T: Payload> Sync for VmaPin<T> {}

impl<T: Payload> VmaPin<T> {
    /// Takes over the hold of a guard.
    pub(super) fn take_over(core: Arc<Core<T>>, slot: &Slot<T>, entry: &Entry) -> Self {
        entry.pin();
        core.pinned(slot);
        Self {
            core,
            slot: ptr::from_ref(slot),
            entry: ptr::from_ref(entry),
        }
    }

    fn entry(&self) -> &Entry {
        // SAFETY: lives as long as the registry, which the space keeps.
        unsafe { &*self.entry }
    }

    /// As [`AddressSpace::lock_vma_under_rcu_wait_with`], but is also let in to
    /// what is locked together with the pinned VMA: the writer waits for this pin
    /// anyway. (Not in a space whose strategy is not
    /// [killable](super::Capabilities::is_killable): there it may wait for ever.)
    ///
    /// [`AddressSpace::lock_vma_under_rcu_wait_with`]: super::AddressSpace::lock_vma_under_rcu_wait_with
    pub fn lock_vma_under_rcu_wait_with(
        &self,
        addr: u64,
        options: WaitOptions<'_>,
        path: &mut LookupPath,
    ) -> Result<Option<VmaReadGuard<'_, T>>, LookupError> {
        let record = self.core.record();
        // SAFETY: held until the drop.
        let holds_member = |seq| unsafe { &*self.slot }.is_locked(seq);
        self.core
            .waiting_lookup(record.get(), addr, Some(&holds_member), options, path)
    }
}

impl<T: Payload> Clone for VmaPin<T> {
    /// Another pin of the same VMA, which is there from now on under the name of
    /// the calling thread.
    fn clone(&self) -> Self {
        let record = self.core.record();
        let entry = record.vacant();
        if mutant("moves-first") {
            self.core.count_move();
        }
        self.core.window(Window::Moving);
        entry.pin_at(self.entry().addr());
        self.core.window(Window::Moving);
        // This one keeps a drain from ending until it is dropped, and by then the
        // drain knows that it has to look again.
        if !mutant("moves-first") {
            self.core.count_move();
        }
        Self {
            core: self.core.clone(),
            slot: self.slot,
            entry: ptr::from_ref(entry),
        }
    }
}

impl<T: Payload> Deref for VmaPin<T> {
    type Target = Vma<T>;
    fn deref(&self) -> &Vma<T> {
        // SAFETY: held until the drop, and slots live as long as they are held.
        unsafe { (*self.slot).vma() }
    }
}

impl<T: Payload> Drop for VmaPin<T> {
    fn drop(&mut self) {
        // SAFETY: pinned until the entry is cleared, below.
        let marked = unsafe { &*self.slot }.is_locked(self.core.seq.load(Ordering::Relaxed));
        let entry = self.entry();
        let addr = entry.addr();
        entry.clear();
        if marked {
            self.core.bell.ring(addr);
        }
    }
}

impl<T: Payload> fmt::Debug for VmaPin<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VmaPin")
            .field("range", &self.range())
            .finish_non_exhaustive()
    }
}
