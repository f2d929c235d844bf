//! The virtual machine: what owns memslots and vCPUs.
//!
//! A [`Vm`] is a handle; clones name the same machine. Memslots and vCPUs hold
//! one too, so the kernel's VM lives as long as anything of it does, whatever
//! is dropped first.
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::{CpuId, KVM_CAP_EXIT_ON_EMULATION_FAILURE, KVM_CAP_MAX_VCPU_ID, kvm_enable_cap};
use kvm_ioctls::VmFd;

use super::ioctls::checked;
use super::open::Kvm;
use super::quirks::{self, SlotZap};
use super::slot_ids::SlotIds;
use crate::memory::HostMemory;
use crate::memory::faults::Step;

/// Three pages below 4 GiB that KVM takes on Intel processors without
/// unrestricted guest mode. No region may lie there: they are where the
/// firmware would be.
pub const TSS_GPA: u64 = 0xfffb_d000;

/// Why a VM could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VmError {
    /// Another hypervisor has the processor.
    #[error(
        "the processor's virtualization is in use by another hypervisor, such as VirtualBox or VMware: stop its virtual machines; see `gracefault check`"
    )]
    Busy,
    /// `KVM_CREATE_VM` failed.
    #[error(
        "KVM could not create a virtual machine (KVM_CREATE_VM): {source}; see `gracefault check`"
    )]
    Create {
        /// The system's error.
        source: io::Error,
    },
    /// A setting of the new VM was refused.
    #[error("KVM refused {what} for a new virtual machine: {source}; see `gracefault check`")]
    Setup {
        /// The ioctl.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

/// A virtual machine, without memory and vCPUs at first.
#[derive(Clone, Debug)]
pub struct Vm {
    pub(super) inner: Arc<VmInner>,
}

/// What clones, memslots and vCPUs share.
pub(super) struct VmInner {
    pub(super) fd: VmFd,
    pub(super) ids: SlotIds,
    pub(super) physical_bits: u32,
    pub(super) max_vcpu_id: u32,
    pub(super) max_vcpus: u32,
    pub(super) cpuid: CpuId,
    pub(super) emulation_exits: bool,
    zap: SlotZap,
    /// What KVM has not let go of. Goes after the descriptor, and so after the
    /// vCPUs, each of which has this.
    kept: Mutex<Vec<Arc<dyn HostMemory>>>,
}

impl VmInner {
    /// Keeps memory for as long as there is a vCPU or the VM.
    pub(super) fn keep(&self, memory: Arc<dyn HostMemory>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push(memory);
    }
}

impl fmt::Debug for VmInner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VmInner")
            .field("fd", &self.fd)
            .field("slots", &self.ids)
            .finish_non_exhaustive()
    }
}

impl Vm {
    /// Creates one.
    ///
    /// # Errors
    /// See [`VmError`].
    pub fn new(kvm: &Kvm) -> Result<Self, VmError> {
        Self::new_with(kvm, SlotZap::default())
    }

    /// Creates one that loses what `zap` says when a memslot goes.
    ///
    /// # Errors
    /// See [`VmError`].
    pub fn new_with(kvm: &Kvm, zap: SlotZap) -> Result<Self, VmError> {
        let fd = loop {
            match checked(Step::CreateVm, || kvm.fd.create_vm()) {
                Ok(fd) => break fd,
                // A signal came while KVM registered with the memory manager.
                Err(e) if e.errno() == libc::EINTR => {}
                Err(e) if e.errno() == libc::EBUSY => return Err(VmError::Busy),
                Err(e) => return Err(VmError::Create { source: e.into() }),
            }
        };
        let setup = |what| {
            move |e: kvm_ioctls::Error| VmError::Setup {
                what,
                source: e.into(),
            }
        };
        checked(Step::SetTss, || fd.set_tss_address(TSS_GPA as usize))
            .map_err(setup("KVM_SET_TSS_ADDR"))?;
        let emulation_exits = kvm
            .fd
            .check_extension_raw(KVM_CAP_EXIT_ON_EMULATION_FAILURE.into())
            > 0;
        if emulation_exits {
            let cap = kvm_enable_cap {
                cap: KVM_CAP_EXIT_ON_EMULATION_FAILURE,
                args: [1, 0, 0, 0],
                ..Default::default()
            };
            checked(Step::EnableEmulationExits, || fd.enable_cap(&cap))
                .map_err(setup("KVM_CAP_EXIT_ON_EMULATION_FAILURE"))?;
        }
        let zap = quirks::apply(&fd, zap).map_err(|e| VmError::Setup {
            what: "KVM_CAP_DISABLE_QUIRKS2",
            source: e.into(),
        })?;
        let max_vcpu_id = match kvm.fd.check_extension_raw(KVM_CAP_MAX_VCPU_ID.into()) {
            n if n > 0 => n as u32,
            _ => kvm.max_vcpus(),
        };
        let inner = VmInner {
            fd,
            ids: SlotIds::new(kvm.max_slots()),
            physical_bits: kvm.physical_bits(),
            max_vcpu_id,
            max_vcpus: kvm.max_vcpus(),
            cpuid: kvm.cpuid.clone(),
            emulation_exits,
            zap,
            kept: Mutex::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Bits in a guest-physical address; memory must end at or below `1 <<`
    /// this.
    pub fn physical_bits(&self) -> u32 {
        self.inner.physical_bits
    }

    /// Memslots that are in use.
    pub fn slots(&self) -> u32 {
        self.inner.ids.taken()
    }

    /// The most memslots at a time.
    pub fn max_slots(&self) -> u32 {
        self.inner.ids.limit()
    }

    /// What the guest loses when a memslot goes.
    pub fn slot_zap(&self) -> SlotZap {
        self.inner.zap
    }

    /// Whether an instruction that KVM cannot emulate always ends in
    /// [`VcpuError::Emulation`](super::VcpuError::Emulation). Otherwise the
    /// guest may get an invalid-opcode exception instead.
    pub fn reports_emulation_failures(&self) -> bool {
        self.inner.emulation_exits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_processor_is_told_from_other_failures() {
        let text = VmError::Busy.to_string();
        assert!(text.contains("VirtualBox"), "{text}");
        assert!(text.ends_with("see `gracefault check`"), "{text}");
    }
}
