//! The two ioctls that kvm-ioctls does not have in the form needed here:
//! `KVM_RUN` without its decoding (which hides what internal errors and port
//! accesses carry), and the descriptor of the counters. And how a test makes any
//! ioctl fail.
use kvm_bindings::KVMIO;
use vmm_sys_util::ioctl_io_nr;

use crate::memory::faults::{self, Step};

ioctl_io_nr!(KVM_RUN, KVMIO, 0x80);
ioctl_io_nr!(KVM_GET_STATS_FD, KVMIO, 0xce);

/// Runs an ioctl, unless a test wants this step to fail.
pub(super) fn checked<R>(
    step: Step,
    ioctl: impl FnOnce() -> Result<R, kvm_ioctls::Error>,
) -> Result<R, kvm_ioctls::Error> {
    faults::check(step).map_err(kvm_ioctls::Error::from)?;
    ioctl()
}
