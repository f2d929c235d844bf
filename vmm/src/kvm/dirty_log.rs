//! Which pages of a slot the guest has written.
use super::slot_error::SlotError;
use super::slots::MemSlot;

impl MemSlot {
    /// The pages that were written since the last call, or since the slot was
    /// added: bit `n % 64` of word `n / 64` is page `n`. For a slot that was added
    /// as [`SlotAccess::Logged`](super::SlotAccess::Logged). What the VMM itself
    /// writes is not in it.
    ///
    /// # Errors
    /// [`SlotError::DirtyLog`], also for a slot that is not logged.
    pub fn take_dirty_pages(&self) -> Result<Vec<u64>, SlotError> {
        let log = self.vm.fd.get_dirty_log(self.id(), self.bytes() as usize);
        log.map_err(|e| SlotError::DirtyLog {
            id: self.id(),
            source: e.into(),
        })
    }
}
