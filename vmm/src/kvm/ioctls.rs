//! The two ioctls that kvm-ioctls does not have in the form needed here:
//! `KVM_RUN` without its decoding (which hides what internal errors and port
//! accesses carry), and the descriptor of the counters.
use kvm_bindings::KVMIO;
use vmm_sys_util::ioctl_io_nr;

ioctl_io_nr!(KVM_RUN, KVMIO, 0x80);
ioctl_io_nr!(KVM_GET_STATS_FD, KVMIO, 0xce);
