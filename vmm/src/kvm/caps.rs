//! The capabilities asked of KVM: one table, read by [`Kvm::open`], which
//! refuses to go on without the required ones, and by `gracefault check`, which
//! prints them all.
//!
//! A capability stands here if, and only if, some code in this module uses it.
//! Its number is what `KVM_CHECK_EXTENSION` takes; what that answers is 0 for
//! "no" and a positive number for "yes", which for some is a limit or a bit
//! mask.
//!
//! [`Kvm::open`]: super::Kvm::open
use kvm_bindings as kvm;

use super::guest_memfd::{self, KVM_CAP_GUEST_MEMFD_FLAGS};

/// Whether Gracefault runs without a capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// No: [`Kvm::open`](super::Kvm::open) fails.
    Required,
    /// Yes, with less; [`Capability::without`] says with what less.
    Optional,
}

/// One capability of KVM, and what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// Its name without `KVM_CAP_`.
    pub name: &'static str,
    /// Its number.
    pub number: u32,
    /// Bits that must be set in the answer; 0: any positive answer will do.
    pub bits: i32,
    /// Whether it can be done without.
    pub need: Need,
    /// What Gracefault uses it for.
    pub purpose: &'static str,
    /// What is missing, or different, without it.
    pub without: &'static str,
    /// What to do to have it.
    pub fix: &'static str,
}

impl Capability {
    /// Whether `answer`, of `KVM_CHECK_EXTENSION`, means that it is there.
    pub const fn is_met_by(&self, answer: i32) -> bool {
        answer > 0 && answer & self.bits == self.bits
    }
}

/// A capability and what this host's KVM answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The capability.
    pub capability: &'static Capability,
    /// The answer of `KVM_CHECK_EXTENSION`: 0 (or negative) is "no".
    pub answer: i32,
}

impl Found {
    /// Whether the capability is there.
    pub const fn is_met(&self) -> bool {
        self.capability.is_met_by(self.answer)
    }
}

const ANCIENT: &str = "run a kernel that is still maintained; every x86 one since 2011 has it";

const fn required(name: &'static str, number: u32, purpose: &'static str) -> Capability {
    Capability {
        name,
        number,
        bits: 0,
        need: Need::Required,
        purpose,
        without: "nothing runs",
        fix: ANCIENT,
    }
}

/// Every capability that is used, in the order of their numbers.
pub static CAPABILITIES: &[Capability] = &[
    required(
        "USER_MEMORY",
        kvm::KVM_CAP_USER_MEMORY,
        "guest RAM from the VMM's own mappings",
    ),
    required(
        "SET_TSS_ADDR",
        kvm::KVM_CAP_SET_TSS_ADDR,
        "the pages Intel processors need for real mode",
    ),
    required(
        "EXT_CPUID",
        kvm::KVM_CAP_EXT_CPUID,
        "telling the guest which processor it has",
    ),
    required(
        "NR_VCPUS",
        kvm::KVM_CAP_NR_VCPUS,
        "the recommended number of vCPUs",
    ),
    required(
        "NR_MEMSLOTS",
        kvm::KVM_CAP_NR_MEMSLOTS,
        "the limit on regions with memory",
    ),
    required(
        "GET_TSC_KHZ",
        kvm::KVM_CAP_GET_TSC_KHZ,
        "the guest's clock rate, for time in reports",
    ),
    required("MAX_VCPUS", kvm::KVM_CAP_MAX_VCPUS, "the limit on vCPUs"),
    Capability {
        bits: kvm::KVM_SYNC_X86_REGS as i32,
        fix: "run Linux 4.17 or later",
        ..required(
            "SYNC_REGS",
            kvm::KVM_CAP_SYNC_REGS,
            "rip with each exit, and counting accesses rather than their fragments, at no system call",
        )
    },
    Capability {
        fix: "run Linux 3.7 or later",
        ..required("READONLY_MEM", kvm::KVM_CAP_READONLY_MEM, "ROM")
    },
    Capability {
        name: "MAX_VCPU_ID",
        number: kvm::KVM_CAP_MAX_VCPU_ID,
        bits: 0,
        need: Need::Optional,
        purpose: "the limit on vCPU ids",
        without: "ids are limited to MAX_VCPUS",
        fix: "run Linux 4.8 or later",
    },
    Capability {
        fix: "run Linux 4.13 or later",
        ..required(
            "IMMEDIATE_EXIT",
            kvm::KVM_CAP_IMMEDIATE_EXIT,
            "stopping a vCPU with no kick lost",
        )
    },
    Capability {
        name: "BINARY_STATS_FD",
        number: kvm::KVM_CAP_BINARY_STATS_FD,
        bits: 0,
        need: Need::Optional,
        purpose: "comparing exits with KVM's own counts",
        without: "a run cannot check its MMIO count against KVM's",
        fix: "run Linux 5.14 or later",
    },
    Capability {
        name: "EXIT_ON_EMULATION_FAILURE",
        number: kvm::KVM_CAP_EXIT_ON_EMULATION_FAILURE,
        bits: 0,
        need: Need::Optional,
        purpose: "naming the instruction when KVM cannot emulate one",
        without: "such an instruction may end in a triple fault instead of an error with its bytes",
        fix: "run Linux 5.14 or later",
    },
    Capability {
        name: "DISABLE_QUIRKS2",
        number: kvm::KVM_CAP_DISABLE_QUIRKS2,
        bits: kvm::KVM_X86_QUIRK_SLOT_ZAP_ALL as i32,
        need: Need::Optional,
        purpose: "unplugging a block without disturbing the guest's other memory (SLOT_ZAP_ALL off)",
        without: "each unplug drops all second-level mappings, and the guest faults its way back",
        fix: "run Linux 6.12 or later",
    },
    Capability {
        name: "MEMORY_FAULT_INFO",
        number: kvm::KVM_CAP_MEMORY_FAULT_INFO,
        bits: 0,
        need: Need::Optional,
        purpose: "the address, when guest memory cannot be reached",
        without: "an error about a hole behind a memslot names rip but no address",
        fix: "run Linux 6.8 or later",
    },
    Capability {
        name: "GUEST_MEMFD_FLAGS",
        number: KVM_CAP_GUEST_MEMFD_FLAGS,
        bits: guest_memfd::FLAGS as i32,
        need: Need::Optional,
        purpose: "guest memory in a file of KVM's own (backing=guest-memfd)",
        without: "backing=guest-memfd is refused; backing=memfd does the same for guests that are not confidential",
        fix: "run Linux 6.18 or later",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_without_duplicates_and_complete() {
        assert!(CAPABILITIES.windows(2).all(|w| w[0].number < w[1].number));
        for c in CAPABILITIES {
            for text in [c.name, c.purpose, c.without, c.fix] {
                assert!(!text.is_empty(), "{c:?}");
            }
            assert!(!c.name.starts_with("KVM_CAP_"));
        }
    }

    #[test]
    fn a_mask_needs_its_bits() {
        let sync = CAPABILITIES.iter().find(|c| c.name == "SYNC_REGS").unwrap();
        assert!(sync.is_met_by(7) && sync.is_met_by(1));
        assert!(!sync.is_met_by(6) && !sync.is_met_by(0) && !sync.is_met_by(-1));
    }
}
