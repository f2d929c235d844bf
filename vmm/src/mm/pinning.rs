//! How a hold becomes a pin of a set, and ends.

use std::mem;

use super::core::Core;
use super::entry::Entry;
use super::lookup::Held;
use super::record::Record;
use super::slot::Slot;
use super::sync::atomic::Ordering;
use super::sync::unless;
use super::{Payload, Vma};

impl<T: Payload> Core<T> {
    /// Pins what is at `addr`, if it is wanted and no section is open. `record` is the
    /// calling thread's.
    #[inline(always)]
    pub(super) fn pin_between_sections(
        &self,
        record: &Record,
        addr: u64,
        wanted: impl FnOnce(&Vma<T>) -> bool,
    ) -> Option<(*const Entry, *const Slot<T>)> {
        if self.strategy.is_aside() {
            return None;
        }
        self.check_rank(addr);
        let entry = record.vacant_beside();
        entry.walk(addr);
        let seq = self.seq.load(unless("seq-acquire", Ordering::Acquire));
        if seq & 1 == 0 {
            // SAFETY: the entry says that this thread walks, since before the number
            // was loaded.
            let found = unsafe { self.find_between_sections(record, seq, addr, &|_| ()) };
            if let Some(slot) = found {
                // Whoever would change it has not begun, and waits for the entry.
                entry.pin();
                let held = Held { slot, entry };
                // SAFETY: held.
                if unsafe { self.is_wanted(&held, wanted) } {
                    return Some((entry, slot));
                }
            }
        }
        self.leave(entry);
        None
    }

    /// Whether what is held is wanted. Gives the hold up if that panics.
    ///
    /// # Safety
    ///
    /// It is held.
    #[inline(always)]
    pub(super) unsafe fn is_wanted(
        &self,
        held: &Held<'_, T>,
        wanted: impl FnOnce(&Vma<T>) -> bool,
    ) -> bool {
        struct Unwinding<'a, T: Payload>(&'a Core<T>, &'a Slot<T>, &'a Entry);
        impl<T: Payload> Drop for Unwinding<'_, T> {
            fn drop(&mut self) {
                let Self(core, slot, entry) = self;
                core.put_and_ring(slot, entry);
            }
        }
        let unwinding = Unwinding(self, held.slot, held.entry);
        // SAFETY: says the caller.
        let is_wanted = wanted(unsafe { held.slot.vma() });
        mem::forget(unwinding);
        is_wanted
    }

    /// Makes a pin of a hold: its entry.
    #[inline(always)]
    pub(super) fn pin(&self, held: Held<'_, T>) -> *const Entry {
        held.entry.pin();
        self.pinned(held.slot);
        held.entry
    }

    /// Gives up a hold of what is pinned besides.
    pub(super) fn put_back(&self, held: Held<'_, T>) {
        self.put_and_ring(held.slot, held.entry);
    }

    /// Ends a pin.
    #[inline(always)]
    pub(super) fn unpin(&self, slot: *const Slot<T>, entry: *const Entry) {
        // SAFETY: lives as long as the registry, which the space keeps.
        let entry = unsafe { &*entry };
        if !self.bell.is_wanted() {
            return entry.clear();
        }
        // SAFETY: pinned until the entry is cleared, below.
        let marked = unsafe { &*slot }.is_locked(self.seq.load(Ordering::Relaxed));
        let addr = entry.addr();
        entry.clear();
        if marked {
            self.bell.ring(addr);
        }
    }
}
