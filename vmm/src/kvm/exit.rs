//! One return from `KVM_RUN`, decoded. What ends a vCPU is a
//! [`VcpuError`] instead.
use kvm_bindings as kvm;
use kvm_bindings::kvm_run;

use super::error::{InstructionBytes, VcpuError};
use super::fragment::Fragments;
use super::run_page::RunPage;
use super::vcpu::Registers;

/// Why the guest stopped, with the data it waits for or brings. Data slices
/// are the memory that KVM reads: what is written to a read's `data` is what
/// the guest gets at the next `run`.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exit<'a> {
    /// A load from an address without a memslot.
    MmioRead {
        /// The guest-physical address.
        gpa: u64,
        /// 1 to 8 bytes to be filled, all of them; they do not cross a page.
        /// Before that they hold what was there last.
        data: &'a mut [u8],
        /// Whether this continues the access that the exit before began: see
        /// [`fragment`](super::fragment).
        fragment: bool,
    },
    /// A store to an address without a memslot, or to a read-only one.
    MmioWrite {
        /// The guest-physical address.
        gpa: u64,
        /// The 1 to 8 bytes; they do not cross a page.
        data: &'a [u8],
        /// As in a read.
        fragment: bool,
    },
    /// `in`, or several by `rep ins`.
    PioIn {
        /// The port.
        port: u16,
        /// Bytes of one access: 1, 2 or 4.
        size: u8,
        /// To be filled: as many accesses as fit, one after the other.
        data: &'a mut [u8],
    },
    /// `out`, or several by `rep outs`.
    PioOut {
        /// The port.
        port: u16,
        /// Bytes of one access: 1, 2 or 4.
        size: u8,
        /// What was sent: as many accesses as fit, one after the other.
        data: &'a [u8],
    },
    /// `hlt`.
    Halt,
    /// Nothing of the guest's: a kick, or some other signal.
    Interrupted,
}

/// Decodes a return of 0.
///
/// # Safety
/// `KVM_RUN` on `page`'s vCPU has just returned 0, and for `'a` nobody but the
/// holder of the result touches the page's data, and KVM does not run.
#[inline]
pub(super) unsafe fn decode<'a>(
    vcpu: u32,
    page: &RunPage,
    fragments: &mut Fragments,
) -> Result<Exit<'a>, VcpuError> {
    let run = page.as_ptr();
    // SAFETY: mapped, and the caller's to read.
    let reason = unsafe { (*run).exit_reason };
    if reason == kvm::KVM_EXIT_MMIO {
        // SAFETY: the exit reason says that this is the union's member; the
        // references are to different bytes, and the caller's for 'a.
        let (mmio, registers) = unsafe { (&mut (*run).__bindgen_anon_1.mmio, &(*run).s.regs.regs) };
        let (gpa, write) = (mmio.phys_addr, mmio.is_write != 0);
        let len = mmio.len.min(8);
        let fragment = fragments.mmio(write, gpa, len.into(), registers);
        let data = &mut mmio.data[..len as usize];
        return Ok(match write {
            true => Exit::MmioWrite {
                gpa,
                data,
                fragment,
            },
            false => Exit::MmioRead {
                gpa,
                data,
                fragment,
            },
        });
    }
    fragments.other();
    match reason {
        kvm::KVM_EXIT_IO => {
            // SAFETY: the exit reason says that this is the union's member.
            let io = unsafe { (*run).__bindgen_anon_1.io };
            let len = usize::from(io.size) * io.count as usize;
            let Some(at) = page.bytes_at(io.data_offset, len) else {
                return Err(failure(vcpu, run));
            };
            // SAFETY: `bytes_at` checked the bounds; the bytes are the
            // caller's for 'a, and any value of them is valid.
            let data = unsafe { std::slice::from_raw_parts_mut(at, len) };
            let (port, size) = (io.port, io.size);
            Ok(match u32::from(io.direction) {
                kvm::KVM_EXIT_IO_IN => Exit::PioIn { port, size, data },
                _ => Exit::PioOut { port, size, data },
            })
        }
        kvm::KVM_EXIT_HLT => Ok(Exit::Halt),
        kvm::KVM_EXIT_INTR => Ok(Exit::Interrupted),
        _ => Err(failure(vcpu, run)),
    }
}

/// The `rip` that KVM stored at the last return.
pub(super) fn rip(run: *const kvm_run) -> u64 {
    // SAFETY: `run` is a vCPU's page, mapped while its owner, up the stack,
    // lives; KVM does not run now.
    unsafe { (*run).s.regs.regs.rip }
}

/// The registers that KVM stored at the last return.
///
/// # Safety
/// `page`'s vCPU does not run for `'a`.
#[inline]
pub(super) unsafe fn registers<'a>(page: &RunPage) -> &'a Registers {
    // SAFETY: mapped; nobody but KVM writes them, and it does not run.
    unsafe { &(*page.as_ptr()).s.regs.regs }
}

/// An exit that ends the vCPU.
#[cold]
fn failure(vcpu: u32, run: *const kvm_run) -> VcpuError {
    let rip = rip(run);
    // SAFETY: as in `rip`.
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
#[cold]
pub(super) fn error(vcpu: u32, run: *const kvm_run, source: std::io::Error) -> VcpuError {
    let rip = rip(run);
    // SAFETY: as in `rip`; the member is read only if the reason says that it
    // is there.
    let fault = unsafe {
        ((*run).exit_reason == kvm::KVM_EXIT_MEMORY_FAULT)
            .then(|| (*run).__bindgen_anon_1.memory_fault)
    };
    match (source.raw_os_error(), fault) {
        (Some(libc::EHWPOISON), f) => VcpuError::HardwarePoison {
            vcpu,
            rip,
            gpa: f.map(|f| f.gpa),
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
        let decode = |run: &kvm_run, e| error(1, run, std::io::Error::from_raw_os_error(e));
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
