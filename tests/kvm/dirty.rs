//! What the guest has written and what the VMM has, in one bitmap.
use std::sync::Arc;

use gracefault::kvm::{Exit, SlotAccess};
use gracefault::memory::vm_memory::GuestRam;
use gracefault::memory::{GuestSpace, Mapping, PAGE};
use gracefault::mm::AddrRange;
use libtest_mimic::Trial;
use vm_memory::bitmap::Bitmap;
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemoryBackend, GuestMemoryRegion};

use crate::support::{MMIO, Machine, Outcome, guest, kvm_test};

pub(crate) fn trials() -> Vec<Trial> {
    vec![kvm_test("dirty_pages_of_guest_and_vmm", of_guest_and_vmm)]
}

fn of_guest_and_vmm() -> Outcome {
    let machine = Machine::new()?;
    let code = guest!(
        "mov [rdi + 0x3000], rax",
        "mov rax, [rdi + 0x1000]",
        "mov [rdi + 0x41000], rax",
        "mov [rdi - 0x1000], rax",
        "mov [rdi + 0x7000], rax",
        "mov [rdi - 0x1000], rax",
    );
    let mut vcpu = machine.vcpu(0, code)?;
    let memory = Arc::new(Mapping::anonymous(0x42000)?.with_dirty_pages());
    let slot = machine
        .vm
        .add_slot(MMIO, memory.clone(), SlotAccess::Logged)?;
    let space = GuestSpace::physical(AddrRange::new(0, 1 << 40).expect("not empty"));
    let ram = GuestRam::new(Arc::new(space));
    ram.insert_region(GuestAddress(MMIO), memory)?;

    assert!(matches!(vcpu.run()?, Exit::MmioWrite { .. }));
    let device = ram.dma().memory();
    device.write_obj(7_u64, GuestAddress(MMIO + 5 * PAGE - 4))?;
    slot.merge_dirty_pages()?;
    let all = ram.memory();
    let region = all.find_region(GuestAddress(MMIO)).expect("mapped above");
    let is_dirty = |page: &u64| region.bitmap().dirty_at((page * PAGE) as usize);
    let dirty: Vec<u64> = (0..0x42).filter(is_dirty).collect();
    assert_eq!(dirty, [3, 4, 5, 0x41]);
    device.write_obj(7_u64, GuestAddress(MMIO + 6 * PAGE))?;
    let word = |pages: &[u64]| pages.iter().fold(0, |word, page| word | 1 << page);
    let taken = slot.take_dirty_pages()?;
    assert_eq!(taken[..2], [word(&[3, 4, 5, 6]), word(&[1])]);
    assert!(!(0..0x42).any(|page| is_dirty(&page)), "taken");

    assert!(matches!(vcpu.run()?, Exit::MmioWrite { .. }));
    assert_eq!(
        slot.take_dirty_pages()?[..2],
        [word(&[7]), 0],
        "only what is new"
    );
    Ok(())
}
