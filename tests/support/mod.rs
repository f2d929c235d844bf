//! What tests that need `/dev/kvm` share: the harness, guest memory, a small
//! machine, and a way to write guest code.
#![allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "each test binary uses a part of this"
)]
pub(crate) mod blocks;
pub(crate) mod fake_api;
pub(crate) mod paging;
pub(crate) mod pool;
pub(crate) mod required;
pub(crate) mod space;
pub(crate) mod tmux;

use std::error::Error;
use std::ptr::null_mut;
use std::sync::Arc;

use gracefault::kvm::{
    Kvm, MemSlot, Registers, Seccomp, SlotAccess, SlotZap, Vcpu, VcpuFilter, Vm, boot,
};
use gracefault::memory::HostMemory;
use libtest_mimic::{Completion, Trial};

use required::left_out;

/// What a test returns.
pub(crate) type Outcome = Result<(), Box<dyn Error>>;

/// A test that needs KVM. Where that cannot be opened it is reported as
/// ignored, with the reason; or as failed, if `GRACEFAULT_REQUIRE_KVM` is 1.
pub(crate) fn kvm_test(name: &str, test: fn() -> Outcome) -> Trial {
    kvm_test_if(name, move || test().map(|()| Completion::Completed))
}

/// As [`kvm_test`], of a test that may itself say why it cannot be done here.
pub(crate) fn kvm_test_if(
    name: &str,
    test: impl FnOnce() -> Result<Completion, Box<dyn Error>> + Send + 'static,
) -> Trial {
    Trial::ignorable_test(name, move || {
        if let Err(e) = Kvm::open() {
            return Ok(left_out(required::KVM, e)?);
        }
        Ok(test().map_err(|e| e.to_string())?)
    })
}

/// Anonymous memory.
pub(crate) struct Ram {
    at: *mut u8,
    len: usize,
}

// SAFETY: it is only an address; accesses are the guest's, and those of the
// tests, which wait for the guest.
unsafe impl Send for Ram {}
// SAFETY: as above.
unsafe impl Sync for Ram {}
// SAFETY: mapped by `Ram::new` until dropped, and nothing of Rust's lives there.
// (One test makes it inaccessible, to see that KVM says so.)
unsafe impl HostMemory for Ram {
    fn host_addr(&self) -> *mut u8 {
        self.at
    }
    fn len(&self) -> u64 {
        self.len as u64
    }
}

impl Ram {
    pub(crate) fn new(len: usize) -> Arc<Self> {
        let (prot, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
        );
        // SAFETY: a new mapping at an address that the kernel chooses.
        let at = unsafe { libc::mmap(null_mut(), len, prot, flags, -1, 0) };
        assert_ne!(at, libc::MAP_FAILED);
        Arc::new(Self { at: at.cast(), len })
    }

    /// Takes all access away, as a hole or a truncated file would.
    pub(crate) fn protect(&self) {
        // SAFETY: its own mapping, to which there are no references.
        let failed = unsafe { libc::mprotect(self.at.cast(), self.len, libc::PROT_NONE) };
        assert_eq!(failed, 0);
    }

    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) {
        assert!(offset as usize + bytes.len() <= self.len);
        // SAFETY: inside of the mapping, checked above.
        unsafe {
            self.at
                .add(offset as usize)
                .copy_from(bytes.as_ptr(), bytes.len())
        };
    }

    pub(crate) fn read_u64(&self, offset: u64) -> u64 {
        assert!(offset as usize + 8 <= self.len);
        // SAFETY: inside of the mapping, checked above.
        unsafe { self.at.add(offset as usize).cast::<u64>().read_unaligned() }
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        // SAFETY: its own mapping, and nobody is left who uses it.
        unsafe { libc::munmap(self.at.cast(), self.len) };
    }
}

/// Where vCPU `id`'s code, report and stack are.
const CODE: u64 = 0x20_0000;
const REPORTS: u64 = 0x30_0000;
const STACKS: u64 = 0x38_0000;
/// The identity map's end; MMIO for every test is below.
pub(crate) const MAPPED_END: u64 = 6 << 30;
/// Bytes of RAM, from address 0.
pub(crate) const RAM: usize = 4 << 20;
/// An address with no memory, as a device has.
pub(crate) const MMIO: u64 = 0xd000_0000;

/// A VM with 4 MiB of RAM and everything for vCPUs at CPL 3.
pub(crate) struct Machine {
    pub(crate) vm: Vm,
    pub(crate) ram: Arc<Ram>,
    pub(crate) slot: MemSlot,
}

impl Machine {
    pub(crate) fn new() -> Result<Self, Box<dyn Error>> {
        Self::new_with(SlotZap::default())
    }

    pub(crate) fn new_with(zap: SlotZap) -> Result<Self, Box<dyn Error>> {
        let vm = Vm::new_with(&Kvm::open()?, zap)?;
        let ram = Ram::new(RAM);
        let (bits, tables, room) = (vm.physical_bits(), boot::TABLES_GPA, boot::TABLES_ROOM);
        boot::write_tables(MAPPED_END, bits, tables, room, &mut |gpa, bytes| {
            ram.write(gpa, bytes);
            Ok(())
        })?;
        let slot = vm.add_slot(0, ram.clone(), SlotAccess::ReadWrite)?;
        Ok(Self { vm, ram, slot })
    }

    /// vCPU `id`, about to run `code` with `rdi` holding [`MMIO`]. Its thread will be
    /// confined.
    pub(crate) fn vcpu(&self, id: u32, code: &[u8]) -> Result<Vcpu, Box<dyn Error>> {
        let n = u64::from(id);
        let entry = CODE + n * 0x1000;
        self.ram.write(entry, code);
        let mut vcpu = self.vm.create_vcpu(id)?;
        // What the tests' own handlers need besides has to be said, too.
        vcpu.confine(VcpuFilter::new(Seccomp::On, &[])?);
        vcpu.start_at(&boot::Start {
            entry,
            params: MMIO,
            stack_top: STACKS + (n + 1) * 0x1000,
            report: REPORTS + n * 0x1000,
            tables: boot::TABLES_GPA,
        })?;
        Ok(vcpu)
    }
}

/// The registers of `vcpu`, changed.
pub(crate) fn with_regs(vcpu: &mut Vcpu, change: impl FnOnce(&mut Registers)) -> Outcome {
    let mut regs = vcpu.regs()?;
    change(&mut regs);
    Ok(vcpu.set_regs(&regs)?)
}

/// The machine code of some assembly, as bytes. Local labels from 5 on are free.
macro_rules! guest {
    ($($line:literal),+ $(,)?) => {{
        let (start, end): (*const u8, *const u8);
        // SAFETY: the code is only data here, in a section of its own; two
        // addresses are taken, and nothing else happens.
        unsafe {
            std::arch::asm!(
                "lea {start}, [rip + 2f]",
                "lea {end}, [rip + 3f]",
                ".pushsection .rodata.guest, \"a\"",
                "2:",
                $($line,)+
                "3:",
                ".popsection",
                start = out(reg) start,
                end = out(reg) end,
                options(nomem, nostack, preserves_flags),
            );
            std::slice::from_raw_parts(start, end.offset_from(start) as usize)
        }
    }};
}
pub(crate) use guest;
