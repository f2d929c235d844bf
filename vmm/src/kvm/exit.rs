//! One return from `KVM_RUN`, decoded. What ends a vCPU is a
//! [`VcpuError`] instead.
use kvm_bindings as kvm;

use super::error::VcpuError;
use super::failure::failure;
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

/// The reason of an exit that [`mmio`] decodes.
pub(super) const MMIO: u32 = kvm::KVM_EXIT_MMIO;

/// An MMIO exit, in parts that fit registers.
///
/// An [`Exit`] is made of it where that is handed over: one that is put together part by
/// part, and then moved, is loaded before the processor has stored the parts, and that
/// waits for all stores before them.
pub(super) struct Mmio<'a> {
    gpa: u64,
    write: bool,
    data: &'a mut [u8],
    fragment: bool,
}

impl<'a> From<Mmio<'a>> for Exit<'a> {
    #[inline(always)]
    fn from(mmio: Mmio<'a>) -> Self {
        let Mmio {
            gpa,
            write,
            data,
            fragment,
        } = mmio;
        match write {
            true => Self::MmioWrite {
                gpa,
                data,
                fragment,
            },
            false => Self::MmioRead {
                gpa,
                data,
                fragment,
            },
        }
    }
}

/// Decodes an MMIO exit.
///
/// # Safety
/// `KVM_RUN` on `page`'s vCPU has just returned 0, for the reason [`MMIO`], and for `'a`
/// nobody but the holder of the result touches the page's data, and KVM does not run.
#[inline(always)]
pub(super) unsafe fn mmio<'a>(page: &RunPage, fragments: &mut Fragments) -> Mmio<'a> {
    let run = page.as_ptr();
    // SAFETY: the exit reason says that this is the union's member; the
    // references are to different bytes, and the caller's for 'a.
    let (mmio, registers) = unsafe { (&mut (*run).__bindgen_anon_1.mmio, &(*run).s.regs.regs) };
    let (gpa, write) = (mmio.phys_addr, mmio.is_write != 0);
    let len = mmio.len.min(8);
    let fragment = fragments.mmio(write, gpa, len.into(), registers);
    Mmio {
        gpa,
        write,
        data: &mut mmio.data[..len as usize],
        fragment,
    }
}

/// Decodes any other return of 0.
///
/// # Safety
/// As for [`mmio`], but for the reason, which is this one.
#[inline(never)]
pub(super) unsafe fn other<'a>(
    vcpu: u32,
    reason: u32,
    page: &RunPage,
) -> Result<Exit<'a>, VcpuError> {
    let run = page.as_ptr();
    match reason {
        kvm::KVM_EXIT_IO => {
            // SAFETY: the exit reason says that this is the union's member.
            let io = unsafe { (*run).__bindgen_anon_1.io };
            let len = usize::from(io.size) * io.count as usize;
            let Some(at) = page.bytes_at(io.data_offset, len) else {
                // SAFETY: as the caller promised.
                return Err(unsafe { failure(vcpu, run) });
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
        // SAFETY: as the caller promised.
        _ => Err(unsafe { failure(vcpu, run) }),
    }
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
