//! Behaviour that KVM keeps for old user space, and that costs a new one.
use kvm_bindings::{KVM_CAP_DISABLE_QUIRKS2, KVM_X86_QUIRK_SLOT_ZAP_ALL, kvm_enable_cap};
use kvm_ioctls::VmFd;

use super::ioctls::checked;
use crate::memory::faults::Step;

/// What the guest loses of its second-level mappings when a memslot goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SlotZap {
    /// Those of the slot, where KVM can do that
    /// (`KVM_CAP_DISABLE_QUIRKS2` has `KVM_X86_QUIRK_SLOT_ZAP_ALL`).
    #[default]
    ThatSlot,
    /// All of them: the guest faults its way back through all of its memory. For
    /// comparison.
    Everything,
}

/// Tells KVM, and returns whether it will be so.
pub(super) fn apply(fd: &VmFd, zap: SlotZap) -> Result<SlotZap, kvm_ioctls::Error> {
    let offered = fd.check_extension_raw(KVM_CAP_DISABLE_QUIRKS2.into());
    let is_offered = offered > 0 && offered as u32 & KVM_X86_QUIRK_SLOT_ZAP_ALL != 0;
    if zap == SlotZap::Everything || !is_offered {
        return Ok(SlotZap::Everything);
    }
    let cap = kvm_enable_cap {
        cap: KVM_CAP_DISABLE_QUIRKS2,
        args: [KVM_X86_QUIRK_SLOT_ZAP_ALL.into(), 0, 0, 0],
        ..Default::default()
    };
    checked(Step::DisableQuirk, || fd.enable_cap(&cap)).map(|()| SlotZap::ThatSlot)
}
