//! Which pages of a slot have been written to.
use std::sync::{MutexGuard, PoisonError};

use super::slot_error::SlotError;
use super::slots::MemSlot;

impl MemSlot {
    /// The pages that were written since the last call, or since the slot was
    /// added: bit `n % 64` of word `n / 64` is page `n`. For a slot that was added
    /// as [`SlotAccess::Logged`](super::SlotAccess::Logged). If its memory tracks what
    /// the VMM writes ([`HostMemory::dirty_pages`]), that is in it too, and taken from
    /// there. One call, or one of [`merge_dirty_pages`](Self::merge_dirty_pages), waits
    /// for another.
    ///
    /// # Errors
    /// [`SlotError::DirtyLog`], also for a slot that is not logged.
    ///
    /// [`HostMemory::dirty_pages`]: crate::memory::HostMemory::dirty_pages
    pub fn take_dirty_pages(&self) -> Result<Vec<u64>, SlotError> {
        let _log = self.lock_log();
        let mut pages = self.take_log()?;
        if let Some(tracked) = self.memory().dirty_pages() {
            for (word, more) in pages.iter_mut().zip(tracked.get_and_reset()) {
                *word |= more;
            }
        }
        Ok(pages)
    }

    /// Adds the pages that the guest has written to what its memory tracks, where a
    /// [region's bitmap](vm_memory::GuestMemoryRegion::bitmap) has them all. Does nothing
    /// for memory that does not track.
    ///
    /// # Errors
    /// As [`take_dirty_pages`](Self::take_dirty_pages).
    pub fn merge_dirty_pages(&self) -> Result<(), SlotError> {
        let Some(tracked) = self.memory().dirty_pages() else {
            return Ok(());
        };
        let _log = self.lock_log();
        for (index, word) in self.take_log()?.into_iter().enumerate() {
            let set = (0..64).filter(|bit| word >> bit & 1 == 1);
            set.for_each(|bit| tracked.set_bit(64 * index + bit));
        }
        Ok(())
    }

    /// Taken out of KVM's log, pages are in nobody's sight until they are in the bitmap:
    /// who takes both meanwhile would miss them.
    fn lock_log(&self) -> MutexGuard<'_, ()> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What KVM has logged.
    fn take_log(&self) -> Result<Vec<u64>, SlotError> {
        let log = self.vm.fd.get_dirty_log(self.id(), self.bytes() as usize);
        log.map_err(|e| SlotError::DirtyLog {
            id: self.id(),
            source: e.into(),
        })
    }
}
