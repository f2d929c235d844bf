//! The ioctl behind a memslot: which of its two forms, with which flags.
use std::os::fd::AsRawFd;

use kvm_bindings::{
    KVM_MEM_GUEST_MEMFD, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_userspace_memory_region,
    kvm_userspace_memory_region2,
};
use kvm_ioctls::VmFd;

use super::slots::SlotAccess;
use crate::memory::HostMemory;

/// Adds a memslot.
///
/// # Safety
///
/// `memory` must live until KVM has let go of the slot.
pub(super) unsafe fn add(
    fd: &VmFd,
    id: u32,
    gpa: u64,
    memory: &dyn HostMemory,
    access: SlotAccess,
) -> Result<(), kvm_ioctls::Error> {
    let flags = match access {
        SlotAccess::ReadWrite => 0,
        SlotAccess::ReadOnly => KVM_MEM_READONLY,
        SlotAccess::Logged => KVM_MEM_LOG_DIRTY_PAGES,
    };
    let (memory_size, userspace_addr) = (memory.len(), memory.host_addr() as u64);
    let Some((file, offset)) = memory.guest_memfd() else {
        let region = kvm_userspace_memory_region {
            slot: id,
            flags,
            guest_phys_addr: gpa,
            memory_size,
            userspace_addr,
        };
        // SAFETY: the bytes are mapped and may be written by a guest for as long
        // as `memory` lives (the implementor of HostMemory promised), and the
        // caller keeps it until the slot is out.
        return unsafe { fd.set_user_memory_region(region) };
    };
    let region = kvm_userspace_memory_region2 {
        slot: id,
        flags: flags | KVM_MEM_GUEST_MEMFD,
        guest_phys_addr: gpa,
        memory_size,
        userspace_addr,
        guest_memfd: file.as_raw_fd() as u32,
        guest_memfd_offset: offset,
        ..Default::default()
    };
    // SAFETY: as above; KVM has a reference to the file of its own.
    unsafe { fd.set_user_memory_region2(region) }
}
