//! What a `KVM_RUN` that ends its vCPU left in the run page, made into a
//! [`VcpuError`].
use kvm_bindings as kvm;
use kvm_bindings::kvm_run;

use super::error::{InstructionBytes, VcpuError};

/// The `rip` that KVM stored at the last return.
///
/// # Safety
/// `run` is a vCPU's run page, mapped, and KVM does not run.
unsafe fn rip(run: *const kvm_run) -> u64 {
    // SAFETY: mapped, and the caller's to read.
    unsafe { (*run).s.regs.regs.rip }
}

/// A return of 0 whose exit ends the vCPU.
///
/// # Safety
/// `run` is a vCPU's run page, mapped; `KVM_RUN` has just returned 0.
#[cold]
pub(super) unsafe fn failure(vcpu: u32, run: *const kvm_run) -> VcpuError {
    // SAFETY: as the caller promised.
    let rip = unsafe { rip(run) };
    // SAFETY: mapped, and the caller's to read; any bytes are a valid union.
    let (reason, union) = unsafe { ((*run).exit_reason, (*run).__bindgen_anon_1) };
    match reason {
        kvm::KVM_EXIT_SHUTDOWN => VcpuError::Shutdown { vcpu, rip },
        kvm::KVM_EXIT_FAIL_ENTRY => {
            // SAFETY: the exit reason says that this is the union's member.
            let f = unsafe { union.fail_entry };
            let (reason, cpu) = (f.hardware_entry_failure_reason, f.cpu);
            VcpuError::FailEntry {
                vcpu,
                rip,
                reason,
                cpu,
            }
        }
        kvm::KVM_EXIT_INTERNAL_ERROR => {
            // SAFETY: as above.
            let e = unsafe { union.internal };
            let data = &e.data[..(e.ndata as usize).min(e.data.len())];
            internal(vcpu, rip, e.suberror, data)
        }
        _ => VcpuError::Unexpected { vcpu, rip, reason },
    }
}

/// An internal error. One of emulation has, since Linux 5.14, a word of flags,
/// and if the first of them is set two words that begin with a length and the
/// bytes of the instruction.
fn internal(vcpu: u32, rip: u64, suberror: u32, data: &[u64]) -> VcpuError {
    if suberror != kvm::KVM_INTERNAL_ERROR_EMULATION {
        return VcpuError::Internal {
            vcpu,
            rip,
            suberror,
            data: data.to_vec(),
        };
    }
    let given = u64::from(kvm::KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES);
    let bytes = match *data {
        [flags, a, b, ..] if flags & given != 0 => {
            let words = (u128::from(b) << 64 | u128::from(a)).to_le_bytes();
            InstructionBytes::new(&words[1..][..usize::from(words[0]).min(15)])
        }
        _ => InstructionBytes::default(),
    };
    VcpuError::Emulation { vcpu, rip, bytes }
}

/// Decodes a failure of `KVM_RUN` that is neither `EINTR` nor `EAGAIN`.
///
/// KVM reports a memory fault by `EFAULT` or `EHWPOISON` *and* an exit reason;
/// with any other error the reason means nothing. It was 0 before the call.
///
/// # Safety
/// `run` is a vCPU's run page, mapped; `KVM_RUN` has just failed with `source`.
#[cold]
pub(super) unsafe fn error(vcpu: u32, run: *const kvm_run, source: std::io::Error) -> VcpuError {
    // SAFETY: as the caller promised.
    let rip = unsafe { rip(run) };
    // SAFETY: the same; the member is read only if the reason says that it is
    // there.
    let fault = unsafe {
        ((*run).exit_reason == kvm::KVM_EXIT_MEMORY_FAULT)
            .then(|| (*run).__bindgen_anon_1.memory_fault)
    };
    match (source.raw_os_error(), fault) {
        (Some(libc::EHWPOISON), f) => VcpuError::HardwarePoison {
            vcpu,
            rip,
            gpa: f.map(|f| f.gpa),
            host: None,
        },
        (Some(libc::EFAULT), Some(f)) => VcpuError::MemoryFault {
            vcpu,
            rip,
            gpa: f.gpa,
            size: f.size,
            flags: f.flags,
        },
        (Some(libc::EFAULT), None) => VcpuError::Fault { vcpu, rip },
        _ => VcpuError::Run { vcpu, rip, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn emulation(data: &[u64]) -> Vec<u8> {
        match internal(0, 0, 1, data) {
            VcpuError::Emulation { bytes, .. } => bytes.as_slice().to_vec(),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn instruction_bytes_are_read_only_when_the_flag_says_so() {
        let (a, b) = (0x0706_0504_0302_010f, 0x0f0e_0d0c_0b0a_0908);
        assert_eq!(emulation(&[1, a, b]), (1..=15).collect::<Vec<u8>>());
        assert_eq!(emulation(&[1, 0x0302_0102, 0]), [1, 2]);
        assert_eq!(
            emulation(&[1, a | 0xff, b]).len(),
            15,
            "a length beyond the bytes"
        );
        assert!(emulation(&[0, a, b]).is_empty());
        assert!(emulation(&[1]).is_empty() && emulation(&[]).is_empty());
    }

    #[test]
    fn other_internal_errors_keep_their_words() {
        let e = internal(2, 0x10, 3, &[5, 6]);
        assert!(
            matches!(e, VcpuError::Internal { vcpu: 2, rip: 0x10, suberror: 3, ref data } if data == &[5, 6])
        );
    }

    #[test]
    fn a_stale_exit_reason_is_no_memory_fault_and_errors_are_told_apart() {
        // SAFETY: plain data, all zeroes is valid.
        let mut run: kvm_run = unsafe { std::mem::zeroed() };
        let decode = |run: &kvm_run, e| {
            // SAFETY: a run structure that nobody else has.
            unsafe { error(1, run, std::io::Error::from_raw_os_error(e)) }
        };
        assert!(matches!(
            decode(&run, libc::EFAULT),
            VcpuError::Fault { vcpu: 1, .. }
        ));
        assert!(matches!(
            decode(&run, libc::EHWPOISON),
            VcpuError::HardwarePoison { gpa: None, .. }
        ));
        run.exit_reason = kvm::KVM_EXIT_MEMORY_FAULT;
        run.__bindgen_anon_1.memory_fault.gpa = 0x5000;
        assert!(matches!(
            decode(&run, libc::EFAULT),
            VcpuError::MemoryFault { gpa: 0x5000, .. }
        ));
        assert!(matches!(
            decode(&run, libc::EHWPOISON),
            VcpuError::HardwarePoison {
                gpa: Some(0x5000),
                ..
            }
        ));
        assert!(matches!(decode(&run, libc::ENOSYS), VcpuError::Run { .. }));
    }
}
