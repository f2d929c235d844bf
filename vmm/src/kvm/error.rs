//! What can end a vCPU besides its own wish. Every message names the vCPU, and
//! where it was if that is known.
use std::io;

pub use super::instruction::InstructionBytes;
use super::seccomp::SeccompError;

/// Why a vCPU could not be made, or cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VcpuError {
    /// There cannot be so many.
    #[error(
        "vCPU {vcpu} cannot be: this host's KVM allows {max} vCPUs (KVM_CAP_MAX_VCPUS), with ids below {ids}; use fewer"
    )]
    Limit {
        /// The id asked for.
        vcpu: u32,
        /// Ids are below this.
        ids: u32,
        /// The most vCPUs in one VM.
        max: u32,
    },
    /// Each vCPU is a descriptor, and its counters are another.
    #[error("no file descriptor is left for vCPU {vcpu}: raise the limit with `ulimit -n`")]
    Files {
        /// The id asked for.
        vcpu: u32,
    },
    /// There is a vCPU of this id.
    #[error(
        "vCPU {vcpu} exists: give each vCPU of a machine its own number, also after one was dropped"
    )]
    Exists {
        /// The id asked for.
        vcpu: u32,
    },
    /// An ioctl other than `KVM_RUN` failed.
    #[error("{what} failed for vCPU {vcpu}: {source}; see `gracefault check`")]
    Ioctl {
        /// The vCPU.
        vcpu: u32,
        /// The ioctl.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// Its thread could not be confined, and has not run it.
    #[error("the thread of vCPU {vcpu}: {source}")]
    Seccomp {
        /// The vCPU.
        vcpu: u32,
        /// Why not.
        source: SeccompError,
    },
    /// `KVM_EXIT_SHUTDOWN`.
    #[error(
        "vCPU {vcpu} shut down by a triple fault, rip {rip:#x} (0xfff0: the processor forgot it): the guest faulted and had no handler for it; give it an IDT to learn where"
    )]
    Shutdown {
        /// The vCPU.
        vcpu: u32,
        /// Its `rip`; on AMD that of a processor after reset.
        rip: u64,
    },
    /// `KVM_EXIT_INTERNAL_ERROR`, emulation.
    #[error(
        "vCPU {vcpu} ran an instruction that KVM cannot emulate, rip {rip:#x}, bytes {bytes}: touch device memory and absent memory with plain moves from or to general registers, and execute only from memory that is there"
    )]
    Emulation {
        /// The vCPU.
        vcpu: u32,
        /// Its `rip`.
        rip: u64,
        /// What is there, as far as KVM tells.
        bytes: InstructionBytes,
    },
    /// `KVM_EXIT_INTERNAL_ERROR`, any other.
    #[error("vCPU {vcpu} met an internal error of KVM, suberror {suberror} ({}), rip {rip:#x}, {} data words {data:#x?}: `dmesg` may say more", suberror_name(*.suberror), .data.len())]
    Internal {
        /// The vCPU.
        vcpu: u32,
        /// Its `rip`.
        rip: u64,
        /// Which error.
        suberror: u32,
        /// What KVM adds; its meaning depends on the suberror.
        data: Vec<u64>,
    },
    /// `KVM_EXIT_FAIL_ENTRY`.
    #[error(
        "vCPU {vcpu} could not enter the guest on host CPU {cpu}, rip {rip:#x}: hardware reason {reason:#x} (bit 31 set: its register state is not valid)"
    )]
    FailEntry {
        /// The vCPU.
        vcpu: u32,
        /// Its `rip`.
        rip: u64,
        /// The processor's reason.
        reason: u64,
        /// The host CPU.
        cpu: u32,
    },
    /// `KVM_EXIT_MEMORY_FAULT`.
    #[error(
        "vCPU {vcpu} cannot reach its memory at GPA {gpa:#x} ({size:#x} bytes, flags {flags:#x}), rip {rip:#x}: there is a hole in the mapping behind a memslot, or its backing file was truncated"
    )]
    MemoryFault {
        /// The vCPU.
        vcpu: u32,
        /// Its `rip`.
        rip: u64,
        /// Where.
        gpa: u64,
        /// How many bytes.
        size: u64,
        /// `KVM_MEMORY_EXIT_FLAG_*`.
        flags: u64,
    },
    /// `EFAULT`, with no more said.
    #[error(
        "vCPU {vcpu} cannot reach its memory, rip {rip:#x}, and this KVM does not say where: there is a hole in the mapping behind a memslot, or its backing file was truncated"
    )]
    Fault {
        /// The vCPU.
        vcpu: u32,
        /// Its `rip`.
        rip: u64,
    },
    /// `EHWPOISON`.
    #[error(
        "vCPU {vcpu} met broken host memory{}{}, rip {rip:#x}: replace the host's memory; `dmesg` names it",
        .gpa.map_or(String::new(), |at| format!(", GPA {at:#x}")),
        .host.map_or(String::new(), |at| format!(", host address {at:#x}"))
    )]
    HardwarePoison {
        /// The vCPU.
        vcpu: u32,
        /// Its `rip`.
        rip: u64,
        /// Where, if KVM says so.
        gpa: Option<u64>,
        /// The host address, if it came by signal.
        host: Option<usize>,
    },
    /// An exit that nothing here asked for.
    #[error("vCPU {vcpu} came back with exit {reason} ({}), which nothing here expects, rip {rip:#x}", exit_name(*.reason))]
    Unexpected {
        /// The vCPU.
        vcpu: u32,
        /// Its `rip`.
        rip: u64,
        /// `KVM_EXIT_*`.
        reason: u32,
    },
    /// `KVM_RUN` failed in another way.
    #[error(
        "vCPU {vcpu} cannot run (KVM_RUN), rip {rip:#x}: {source}; \"I/O error\" means a fork of the process that made it, or a KVM bug that dmesg tells of"
    )]
    Run {
        /// The vCPU.
        vcpu: u32,
        /// Its `rip`.
        rip: u64,
        /// The system's error.
        source: io::Error,
    },
}

/// What an internal error's suberror means.
fn suberror_name(suberror: u32) -> &'static str {
    match suberror {
        1 => "emulation",
        2 => "exceptions at the same time",
        3 => "a fault while delivering an event",
        4 => "an exit of the processor that KVM does not know",
        _ => "unknown",
    }
}

/// `KVM_EXIT_`'s name of a reason.
pub(super) fn exit_name(reason: u32) -> &'static str {
    const NAMES: [&str; 40] = [
        "UNKNOWN",
        "EXCEPTION",
        "IO",
        "HYPERCALL",
        "DEBUG",
        "HLT",
        "MMIO",
        "IRQ_WINDOW_OPEN",
        "SHUTDOWN",
        "FAIL_ENTRY",
        "INTR",
        "SET_TPR",
        "TPR_ACCESS",
        "S390_SIEIC",
        "S390_RESET",
        "DCR",
        "NMI",
        "INTERNAL_ERROR",
        "OSI",
        "PAPR_HCALL",
        "S390_UCONTROL",
        "WATCHDOG",
        "S390_TSCH",
        "EPR",
        "SYSTEM_EVENT",
        "S390_STSI",
        "IOAPIC_EOI",
        "HYPERV",
        "ARM_NISV",
        "X86_RDMSR",
        "X86_WRMSR",
        "DIRTY_RING_FULL",
        "AP_RESET_HOLD",
        "X86_BUS_LOCK",
        "XEN",
        "RISCV_SBI",
        "RISCV_CSR",
        "NOTIFY",
        "LOONGARCH_IOCSR",
        "MEMORY_FAULT",
    ];
    NAMES
        .get(reason as usize)
        .copied()
        .unwrap_or("newer than this program")
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvm_bindings::{KVM_EXIT_MEMORY_FAULT, KVM_EXIT_SYSTEM_EVENT};

    #[test]
    fn exits_have_their_names() {
        assert_eq!(exit_name(KVM_EXIT_SYSTEM_EVENT), "SYSTEM_EVENT");
        assert_eq!(exit_name(KVM_EXIT_MEMORY_FAULT), "MEMORY_FAULT");
        assert_eq!(exit_name(4000), "newer than this program");
    }

    #[test]
    fn messages_name_the_vcpu_rip_and_cause() {
        let bytes = InstructionBytes::new(&[0xf3, 0x0f, 0x7e, 0x07]);
        let data = vec![0x80, 7];
        for (error, words) in [
            (
                VcpuError::Shutdown {
                    vcpu: 3,
                    rip: 0x1234,
                },
                vec!["triple fault"],
            ),
            (
                VcpuError::Emulation {
                    vcpu: 3,
                    rip: 0x1234,
                    bytes,
                },
                vec!["f3 0f 7e 07"],
            ),
            (
                VcpuError::Internal {
                    vcpu: 3,
                    rip: 0x1234,
                    suberror: 3,
                    data,
                },
                vec!["suberror 3 (a fault", "2 data words"],
            ),
            (
                VcpuError::FailEntry {
                    vcpu: 3,
                    rip: 0x1234,
                    reason: 1 << 31,
                    cpu: 9,
                },
                vec!["0x80000000", "CPU 9"],
            ),
            (
                VcpuError::MemoryFault {
                    vcpu: 3,
                    rip: 0x1234,
                    gpa: 0x7000,
                    size: 4096,
                    flags: 8,
                },
                vec!["0x7000", "flags 0x8"],
            ),
            (
                VcpuError::Fault {
                    vcpu: 3,
                    rip: 0x1234,
                },
                vec!["hole", "truncated"],
            ),
            (
                VcpuError::HardwarePoison {
                    vcpu: 3,
                    rip: 0x1234,
                    gpa: Some(0x7000),
                    host: Some(0x8000),
                },
                vec!["GPA 0x7000", "host address 0x8000"],
            ),
            (
                VcpuError::Unexpected {
                    vcpu: 3,
                    rip: 0x1234,
                    reason: 24,
                },
                vec!["24 (SYSTEM_EVENT)"],
            ),
        ] {
            let text = error.to_string();
            assert!(
                text.starts_with("vCPU 3 ") && text.contains("0x1234"),
                "{text}"
            );
            assert!(words.iter().all(|w| text.contains(w)), "{text}");
        }
        assert_eq!(
            InstructionBytes::default().to_string(),
            "(bytes not reported)"
        );
    }
}
