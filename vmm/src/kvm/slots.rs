//! Memslots that own what they map.
//!
//! A [`MemSlot`] keeps its host memory alive for as long as KVM maps it, and
//! removes itself when dropped: there is no moment at which the guest reaches
//! memory that the process has given back. [`Vm::add_slot`] and removal may be
//! called from any thread, also while vCPUs run; KVM serialises them.
//!
//! What a stranger should know:
//!
//! - KVM cannot resize, move or replace a slot in one step. Between a removal
//!   and an addition the guest's accesses exit as MMIO.
//! - Removal waits for a vCPU that is inside the kernel in a page fault on any
//!   slot of the VM. Whoever resolves such faults (userfaultfd) must not wait
//!   for a removal.
//! - Drop cannot report an error. Call [`MemSlot::remove`] where it matters;
//!   a drop that fails logs, and keeps the memory and the id for as long as
//!   there is the VM, rather than let the guest reach memory that is gone.
use std::fmt;
use std::sync::{Arc, Mutex};

use kvm_bindings::kvm_userspace_memory_region;

use super::ioctls::checked;
pub use super::slot_error::SlotError;
use super::slot_ids::NoneLeft;
use super::slot_region;
use super::vm::{Vm, VmInner};
use crate::memory::HostMemory;
use crate::memory::faults::Step;

const PAGE: u64 = 4096;
/// KVM's own limit on one slot: 2^31 - 1 pages.
pub(super) const MAX_SLOT_BYTES: u64 = ((1 << 31) - 1) * PAGE;

/// What the guest may do with a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotAccess {
    /// Anything.
    ReadWrite,
    /// Anything; which pages it writes is logged
    /// ([`MemSlot::take_dirty_pages`]), which costs a fault at the first write to
    /// each.
    Logged,
    /// Read and execute; a write exits as MMIO (ROM).
    ReadOnly,
}

/// A memslot. Dropping it takes it out of the guest.
pub struct MemSlot {
    pub(super) vm: Arc<VmInner>,
    id: u32,
    gpa: u64,
    len: u64,
    access: SlotAccess,
    /// Held while dirty pages are on their way from KVM's log.
    pub(super) log: Mutex<()>,
    /// `None` once the slot is out.
    memory: Option<Arc<dyn HostMemory>>,
}

impl Vm {
    /// Maps all of `memory` at `gpa`. May block for as long as a vCPU's page
    /// fault on this VM is unresolved.
    ///
    /// # Errors
    /// See [`SlotError`]; nothing has changed then.
    pub fn add_slot(
        &self,
        gpa: u64,
        memory: Arc<dyn HostMemory>,
        access: SlotAccess,
    ) -> Result<MemSlot, SlotError> {
        let id = self.reserve_slot(gpa, &*memory)?;
        self.add_slot_as(id, gpa, memory, access)
            .inspect_err(|_| self.inner.ids.give(id))
    }

    /// Checks what can be checked without KVM, and takes an id for it.
    pub(super) fn reserve_slot(&self, gpa: u64, memory: &dyn HostMemory) -> Result<u32, SlotError> {
        let (len, host) = (memory.len(), memory.host_addr() as u64);
        check(gpa, len, host, self.inner.physical_bits)?;
        let none_left = |NoneLeft(limit)| SlotError::NoneLeft { limit };
        self.inner.ids.take().map_err(none_left)
    }

    /// Adds what has been checked, under an id that the caller has taken and that
    /// is its own again on an error.
    pub(super) fn add_slot_as(
        &self,
        id: u32,
        gpa: u64,
        memory: Arc<dyn HostMemory>,
        access: SlotAccess,
    ) -> Result<MemSlot, SlotError> {
        let len = memory.len();
        let no_log = access == SlotAccess::Logged && memory.guest_memfd().is_some();
        // SAFETY: the MemSlot made below keeps the memory until KVM has let go
        // of it.
        let add = || unsafe { slot_region::add(&self.inner.fd, id, gpa, &*memory, access) };
        match checked(Step::AddSlot, add) {
            Ok(()) => Ok(MemSlot {
                vm: self.inner.clone(),
                id,
                gpa,
                len,
                access,
                log: Mutex::new(()),
                memory: Some(memory),
            }),
            Err(e) => Err(match e.errno() {
                libc::EEXIST => SlotError::Overlap { gpa, len },
                libc::EINVAL if no_log => SlotError::NoDirtyLog { gpa, len },
                _ => SlotError::Kvm {
                    what: "add",
                    id,
                    gpa,
                    len,
                    source: e.into(),
                },
            }),
        }
    }
}

fn check(gpa: u64, len: u64, host: u64, bits: u32) -> Result<(), SlotError> {
    if len == 0 || !(gpa | len | host).is_multiple_of(PAGE) {
        return Err(SlotError::Unaligned { gpa, len, host });
    }
    if len > MAX_SLOT_BYTES {
        return Err(SlotError::TooLarge { len });
    }
    match gpa.checked_add(len) {
        Some(end) if end <= 1 << bits => Ok(()),
        _ => Err(SlotError::PastEnd { gpa, len, bits }),
    }
}

impl MemSlot {
    /// KVM's number of it.
    pub fn id(&self) -> u32 {
        self.id
    }
    /// Its first guest-physical address.
    pub fn gpa(&self) -> u64 {
        self.gpa
    }
    /// Its bytes.
    pub fn bytes(&self) -> u64 {
        self.len
    }
    pub(super) fn memory(&self) -> &dyn HostMemory {
        let memory = self.memory.as_deref();
        memory.expect("there until the slot is out, which takes it by value")
    }

    /// What the guest may do with it.
    pub fn access(&self) -> SlotAccess {
        self.access
    }

    /// Takes it out of the guest: when this returns, no vCPU reaches the memory
    /// any more. Blocks as [`Vm::add_slot`] does.
    ///
    /// # Errors
    /// [`SlotError::Kvm`], with the slot, which is still in place.
    pub fn remove(mut self) -> Result<(), (Self, SlotError)> {
        match self.take_out() {
            Ok(()) => Ok(()),
            Err(e) => Err((self, e)),
        }
    }

    /// As [`MemSlot::remove`], but the id stays the caller's.
    pub(super) fn remove_keeping_id(mut self) -> Result<(), (Self, SlotError)> {
        match self.forget() {
            Ok(()) => Ok(()),
            Err(e) => Err((self, e)),
        }
    }

    fn take_out(&mut self) -> Result<(), SlotError> {
        self.forget()?;
        self.vm.ids.give(self.id);
        Ok(())
    }

    /// Has KVM forget it, and lets go of the memory.
    fn forget(&mut self) -> Result<(), SlotError> {
        let region = kvm_userspace_memory_region {
            slot: self.id,
            ..Default::default()
        };
        // SAFETY: a size of 0 removes the slot; KVM reads no host memory.
        let remove = || unsafe { self.vm.fd.set_user_memory_region(region) };
        checked(Step::RemoveSlot, remove).map_err(|e| SlotError::Kvm {
            what: "remove",
            id: self.id,
            gpa: self.gpa,
            len: self.len,
            source: e.into(),
        })?;
        self.memory = None;
        Ok(())
    }
}

impl Drop for MemSlot {
    fn drop(&mut self) {
        if self.memory.is_none() {
            return;
        }
        if let Err(e) = self.take_out() {
            log::error!(
                "{e}; its memory is kept as long as the VM, since the guest still reaches it"
            );
            if let Some(memory) = self.memory.take() {
                self.vm.keep(memory);
            }
        }
    }
}

impl fmt::Debug for MemSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemSlot")
            .field("id", &self.id)
            .field("gpa", &format_args!("{:#x}", self.gpa))
            .field("bytes", &format_args!("{:#x}", self.len))
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_refused_before_the_ioctl() {
        let ok = |gpa, len, host| check(gpa, len, host, 40);
        assert!(ok(0x1000, 0x1000, 0x7000).is_ok());
        assert!(ok((1 << 40) - 0x1000, 0x1000, 0x7000).is_ok());
        for (gpa, len, host) in [(1, 0x1000, 0), (0, 0x1001, 0), (0, 0x1000, 1), (0, 0, 0)] {
            assert!(matches!(
                ok(gpa, len, host),
                Err(SlotError::Unaligned { .. })
            ));
        }
        for gpa in [
            1 << 40,
            (1 << 40) - 0x1000,
            u64::MAX - 0xfff,
            u64::MAX - 0x1fff,
        ] {
            assert!(matches!(
                ok(gpa, 0x2000, 0),
                Err(SlotError::PastEnd { bits: 40, .. })
            ));
        }
        assert!(matches!(
            ok(0, MAX_SLOT_BYTES + PAGE, 0),
            Err(SlotError::TooLarge { .. })
        ));
    }
}
