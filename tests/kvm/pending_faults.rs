//! "A fault of the VMM or of a vCPU pending in userfaultfd while its region is being
//! unplugged": whoever resolves it waits for no writer, and the unplug ends.
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use gracefault::kvm::{Exit, SlotAccess};
use gracefault::memory::HostMemory;
use gracefault::mm::{
    AddrRange, AddressSpace, DrainReport, HoldKind, LockOptions, OnSlow, Payload, VmFlags,
};
use libtest_mimic::{Completion, Trial};

use crate::support::required::{self, left_out};
use crate::support::{MMIO, Machine, Outcome, Ram, guest, kvm_test_if};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test_if("pending_fault_of_the_vmm", || with_faults(of_the_vmm)),
        kvm_test_if("pending_fault_of_a_vcpu", || with_faults(of_a_vcpu)),
    ]
}

/// Does `test`, unless this host has no userfaultfd for faults of the kernel too.
fn with_faults(test: fn() -> Outcome) -> Result<Completion, Box<dyn std::error::Error>> {
    if let Err(e) = Userfaults::open() {
        return Ok(left_out(required::UFFD, format!("userfaultfd: {e}"))?);
    }
    test()?;
    Ok(Completion::Completed)
}

const PAGE: u64 = 4096;
/// What the page is found to hold in the end.
const PATTERN: u64 = 0x5a5a_5a5a_5a5a_5a5a;

/// Faults on missing pages, to be resolved by whoever has this.
struct Userfaults(File);

/// `ioctl` numbers, and the one feature version, of `linux/userfaultfd.h`.
const API: (u64, u64) = (0xc018_aa3f, 0xaa);
const REGISTER: u64 = 0xc020_aa00;
const COPY: u64 = 0xc028_aa03;
/// An event, in its first byte: a page is missing.
const PAGEFAULT: u8 = 0x12;

impl Userfaults {
    fn open() -> io::Result<Self> {
        // SAFETY: returns a new descriptor or an error.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        let this = Self(unsafe { File::from_raw_fd(fd as i32) });
        this.control(API.0, &mut [API.1, 0, 0])?;
        Ok(this)
    }

    /// `words` is what the number says, in and out.
    fn control(&self, number: u64, words: &mut [u64]) -> io::Result<()> {
        // SAFETY: the words are as many as the number wants, and live as long as the
        // call; memory that it writes to is given by the callers.
        let failed = unsafe { libc::ioctl(self.0.as_raw_fd(), number, words.as_mut_ptr()) };
        match failed {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Of all that is missing in `ram`, from now on.
    fn of(ram: &Ram) -> io::Result<Self> {
        let this = Self::open()?;
        const MISSING: u64 = 1;
        this.control(
            REGISTER,
            &mut [ram.host_addr() as u64, ram.len(), MISSING, 0],
        )?;
        Ok(this)
    }

    /// Waits for a fault; returns the page.
    fn wait(&mut self) -> io::Result<u64> {
        let mut event = [0; 32];
        self.0.read_exact(&mut event)?;
        assert_eq!(event[0], PAGEFAULT);
        let addr = u64::from_ne_bytes(event[16..24].try_into().unwrap());
        Ok(addr & !(PAGE - 1))
    }

    /// Puts the pattern there, and lets who waits for it go on.
    fn resolve(&self, page: u64) -> io::Result<()> {
        let bytes = vec![PATTERN; PAGE as usize / 8];
        self.control(COPY, &mut [page, bytes.as_ptr() as u64, PAGE, 0, 0])
    }
}

/// What is plugged.
#[derive(Clone)]
struct Block(Arc<Ram>);
impl Payload for Block {}

/// A block at [`MMIO`], and another after it.
fn space() -> Result<(AddressSpace<Block>, Arc<Ram>), Box<dyn std::error::Error>> {
    let mm = AddressSpace::new("guest", AddrRange::new(0, 1 << 40).ok_or("empty")?);
    let ram = Ram::new(PAGE as usize);
    let flags = VmFlags::READ | VmFlags::WRITE;
    mm.map(block(), flags, 0, Block(ram.clone()))?;
    let next = AddrRange::new(MMIO + PAGE, PAGE).ok_or("empty")?;
    mm.map(next, flags, 0, Block(Ram::new(PAGE as usize)))?;
    Ok((mm, ram))
}

fn block() -> AddrRange {
    AddrRange::new(MMIO, PAGE).expect("not empty")
}

/// A device's access holds the block while its fault is pending, so the unplug waits
/// for both; who resolves the fault looks up what it likes meanwhile.
fn of_the_vmm() -> Outcome {
    let (mm, ram) = space()?;
    let mut faults = Userfaults::of(&ram)?;
    thread::scope(|scope| {
        let access = || {
            let vma = mm.lock_vma_under_rcu_wait(MMIO).unwrap().expect("mapped");
            vma.payload().0.read_u64(0)
        };
        let named = thread::Builder::new().name("dma".into());
        let access = named.spawn_scoped(scope, access)?;
        let page = faults.wait()?;
        let (found, is_found) = mpsc::channel();
        let mm = &mm;
        let unplug = scope.spawn(move || {
            let mut section = mm.mmap_write_lock().unwrap();
            section.unmap(block()).unwrap();
            let options = LockOptions {
                on_slow: Some(OnSlow {
                    after: Duration::ZERO,
                    call: &mut |_: &DrainReport| _ = found.send(()),
                }),
                ..LockOptions::default()
            };
            section.lock_with(options).unwrap().publish()
        });
        // Until the drain has found who holds the block, and the block is locked again.
        let was_found = is_found.recv();
        while mm.lock_vma_under_rcu(MMIO).is_some() {
            thread::yield_now();
        }
        let other_is_there = mm.lock_vma_under_rcu_wait(MMIO + PAGE)?.is_some();
        let was_over = unplug.is_finished();
        // Before anything is asserted: nobody is left asleep if it fails.
        faults.resolve(page)?;
        assert!(was_found.is_ok() && other_is_there && !was_over);
        assert_eq!(access.join().unwrap(), PATTERN);
        let done = unplug.join().unwrap();
        assert_eq!(done.removed.len(), 1);
        let holders: Vec<_> = done.drain.holders.iter().collect();
        assert!(
            holders
                .iter()
                .any(|h| h.thread == "dma" && h.kind == HoldKind::Hold),
            "{holders:?}"
        );
        Ok(())
    })
}

/// A vCPU that waits for a fault in the kernel holds nothing of ours: the drain is
/// over at once. KVM's own change of the slot may wait for it; and who resolves the
/// fault waits for neither.
fn of_a_vcpu() -> Outcome {
    let machine = Machine::new()?;
    let (mm, ram) = space()?;
    let slot = machine
        .vm
        .add_slot(MMIO, ram.clone(), SlotAccess::ReadWrite)?;
    let mut faults = Userfaults::of(&ram)?;
    let mut vcpu = machine.vcpu(
        0,
        guest!("mov [rdi], rax", "5: mov [rdi + 0x2000], rax", "jmp 5b"),
    )?;
    thread::scope(|scope| {
        let guest = scope.spawn(move || match vcpu.run() {
            Ok(Exit::MmioWrite { gpa, .. }) => gpa - MMIO,
            other => panic!("{other:x?}"),
        });
        let page = faults.wait()?;
        let mut section = mm.mmap_write_lock()?;
        section.unmap(block())?;
        let drained = section.lock()?;
        assert_eq!(drained.drain().holders, []);
        let removal = scope.spawn(|| slot.remove().map_err(|(_, e)| e.to_string()));
        assert!(mm.lock_vma_under_rcu_wait(MMIO + PAGE)?.is_some());
        faults.resolve(page)?;
        removal.join().unwrap()?;
        assert_eq!(drained.publish().removed.len(), 1);
        // It wrote to the page, or was told that there is none any more.
        let exit = guest.join().unwrap();
        assert!(exit == 0 || exit == 0x2000, "{exit:#x}");
        Ok(())
    })
}
