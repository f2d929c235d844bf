//! What the guest has written and what the VMM has, in one bitmap.
use std::sync::Arc;

use gracefault::hotplug::{BlockKind, Consent, HotplugRegion};
use gracefault::kvm::{Exit, SlotAccess, Vcpu};
use gracefault::memory::vm_memory::GuestRam;
use gracefault::memory::{GuestSpace, Mapping, PAGE};
use gracefault::mm::AddrRange;
use libtest_mimic::Trial;
use vm_memory::bitmap::Bitmap;
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemoryBackend, GuestMemoryRegion};

use crate::support::blocks::Blocks;
use crate::support::{MMIO, Machine, Outcome, guest, kvm_test};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test("dirty_pages_of_guest_and_vmm", of_guest_and_vmm),
        kvm_test("dirty_pages_merged_while_taken", merged_while_taken),
        kvm_test("dirty_pages_of_a_block", || of_a_block(false)),
        kvm_test("dirty_pages_of_a_lazy_block", || of_a_block(true)),
    ]
}

/// Of a plugged block: what the guest writes, and what the VMM does, in one bitmap.
fn of_a_block(lazy: bool) -> Outcome {
    const PAGES: u64 = 0x80;
    let made = |region: HotplugRegion| region.lazy(lazy).with_dirty_log(true);
    let blocks = Blocks::with(PAGES * PAGE, 2, made)?;
    blocks.region.plug(0, BlockKind::Cooperative)?;
    let start = blocks.region.block_range(0).start();
    let code = guest!(
        "mov [rdi + 0x3000], rax",
        "mov [rdi + 0x41000], rax",
        "mov [r13], rax",
        "mov [rdi + 0x7000], rax",
        "mov [r13], rax",
    );
    let mut vcpu = blocks.vcpu(0, code, PAGES)?;
    let run = |vcpu: &mut Vcpu| -> Outcome {
        loop {
            match vcpu.run()? {
                Exit::MmioWrite { gpa, .. } if gpa == MMIO => return Ok(()),
                // The first access to lazy RAM, which puts its slot in.
                Exit::MmioWrite { gpa, data, .. } => {
                    blocks.space.write(gpa, data, None)?;
                }
                other => panic!("{other:x?}"),
            }
        }
    };
    let ram = GuestRam::new(blocks.space.clone());
    let device = ram.dma().memory();
    device.write_obj(7_u64, GuestAddress(start + 5 * PAGE))?;
    run(&mut vcpu)?;
    blocks.region.merge_dirty_pages(0)?;
    let all = ram.memory();
    let block = all.find_region(GuestAddress(start)).expect("plugged");
    let is_dirty = |page: &u64| block.bitmap().dirty_at((page * PAGE) as usize);
    let dirty: Vec<u64> = (0..PAGES).filter(is_dirty).collect();
    assert_eq!(dirty, [3, 5, 0x41]);
    device.write_obj(7_u64, GuestAddress(start + 6 * PAGE))?;
    let word = |pages: &[u64]| pages.iter().fold(0, |word, page| word | 1 << page);
    let taken = blocks.region.take_dirty_pages(0)?;
    assert_eq!(taken, [word(&[3, 5, 6]), word(&[1])]);
    run(&mut vcpu)?;
    assert_eq!(blocks.region.take_dirty_pages(0)?, [word(&[7]), 0]);
    assert!(blocks.region.take_dirty_pages(1).is_err(), "not plugged");
    drop((all, device));
    blocks.region.unplug(0, Consent::Surprise, None)?;
    Ok(())
}

/// While one thread merges and another takes, no page that the guest has written is in
/// neither: each is taken by the time that both are done.
fn merged_while_taken() -> Outcome {
    const PAGES: u64 = 0x400;
    let machine = Machine::new()?;
    // Writes to each page, then exits, again and again.
    let code = guest!(
        "5: xor r8d, r8d",
        "6: mov rax, r8",
        "shl rax, 12",
        "mov [rdi + rax], r8",
        "inc r8",
        "cmp r8, 0x400",
        "jb 6b",
        "mov [rdi - 0x1000], r8",
        "jmp 5b",
    );
    let mut vcpu = machine.vcpu(0, code)?;
    let memory = Arc::new(Mapping::anonymous(PAGES * PAGE)?.with_dirty_pages());
    let slot = machine.vm.add_slot(MMIO, memory, SlotAccess::Logged)?;
    for round in 0..30 {
        assert!(matches!(vcpu.run()?, Exit::MmioWrite { .. }));
        let taken = std::thread::scope(|s| {
            let merges = s.spawn(|| slot.merge_dirty_pages());
            let first = slot.take_dirty_pages();
            // What has been merged before is there by now, or taken.
            let second = slot.take_dirty_pages();
            merges.join().expect("it only merges")?;
            first.and_then(|first| Ok([first, second?, slot.take_dirty_pages()?]))
        })?;
        let count = |pages: &Vec<u64>| pages.iter().map(|word| word.count_ones()).sum::<u32>();
        let counts = taken.each_ref().map(count);
        assert_eq!(
            counts.iter().sum::<u32>(),
            PAGES as u32,
            "{round}: {counts:?}"
        );
        assert!(
            counts.contains(&(PAGES as u32)),
            "in one: {round}: {counts:?}"
        );
    }
    Ok(())
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
