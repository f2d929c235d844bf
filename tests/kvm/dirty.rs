//! What the guest has written and what the VMM has, in one bitmap.
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use gracefault::hotplug::{BlockKind, Consent, HotplugRegion};
use gracefault::kvm::{Exit, SlotAccess, Vcpu};
use gracefault::machine::{
    Machine as WholeMachine, MachineConfig, MachineError, MemoryConfig, StopRequest, Verdict,
};
use gracefault::memory::vm_memory::GuestRam;
use gracefault::memory::{Backend, GuestSpace, Mapping, PAGE, RamOptions, RamSizes, RamSource};
use gracefault::mm::AddrRange;
use gracefault_guest::abi::Workload;
use libtest_mimic::{Completion, Trial};
use vm_memory::bitmap::Bitmap;
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemoryBackend, GuestMemoryRegion};

use crate::support::blocks::Blocks;
use crate::support::{MMIO, Machine, Outcome, guest, kvm_test, kvm_test_if};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test("dirty_pages_of_guest_and_vmm", of_guest_and_vmm),
        kvm_test("dirty_pages_merged_while_taken", merged_while_taken),
        kvm_test("dirty_pages_of_a_block", || of_a_block(false)),
        kvm_test("dirty_pages_of_a_lazy_block", || of_a_block(true)),
        kvm_test("dirty_pages_of_boot_ram", of_boot_ram),
        kvm_test_if("dirty_pages_of_guest_memfd", of_guest_memfd),
    ]
}

const BOOT: u64 = 16 << 20;
const BOOT_PAGES: usize = (BOOT / PAGE) as usize;

/// Of a whole machine: whatever differs after its guest has run, by the guest's doing or
/// the VMM's, is a page that was told, in a bitmap that has both.
fn of_boot_ram() -> Outcome {
    let config = MachineConfig {
        workload: Workload::Hello,
        memory: MemoryConfig {
            size: BOOT,
            ..MemoryConfig::default()
        },
        churn: false,
        dirty_log: true,
        timeout: Duration::from_secs(120),
        ..MachineConfig::default()
    };
    let machine = WholeMachine::new(config, Box::new(std::io::sink()))?;
    let slots = machine.boot_slots();
    let [slot] = &slots[..] else {
        panic!("{slots:?}");
    };
    assert_eq!((slot.gpa(), slot.access()), (0, SlotAccess::Logged));
    let ram = GuestRam::new(machine.memory().clone());
    let contents = || -> Result<Vec<u8>, Box<dyn Error>> {
        let mut all = vec![0; BOOT as usize];
        ram.memory().read_slice(&mut all, GuestAddress(0))?;
        Ok(all)
    };
    let differs = |before: &[u8], after: &[u8]| {
        let pages = before
            .chunks(PAGE as usize)
            .zip(after.chunks(PAGE as usize));
        let differs = pages
            .enumerate()
            .filter(|(_, (before, after))| before != after);
        differs.map(|(page, _)| page).collect::<Vec<_>>()
    };
    let taken = || -> Result<Vec<usize>, Box<dyn Error>> {
        let words = slot.take_dirty_pages()?;
        let is_set = |page: &usize| words[page / 64] >> (page % 64) & 1 == 1;
        Ok((0..BOOT_PAGES).filter(is_set).collect())
    };
    let all_are_in = |pages: &[usize], told: &[usize]| pages.iter().all(|p| told.contains(p));

    // What the VMM has written to make it: the image, page tables, parameters.
    let made = contents()?;
    let written = differs(&vec![0; BOOT as usize], &made);
    let told = taken()?;
    assert!(
        !written.is_empty() && all_are_in(&written, &told),
        "{told:?}"
    );
    assert_eq!(taken()?, [0; 0], "all of it was taken");

    let report = machine.run(&StopRequest::new(), &mut |_| ())?;
    assert_eq!(report.verdict, Verdict::Passed, "{report:#?}");
    let run = contents()?;
    let by_the_guest = differs(&made, &run);
    // The VMM's own write, to a page that nobody has written to.
    let free = (0..BOOT_PAGES).rev().find(|page| !written.contains(page));
    let free = free.expect("boot RAM is not full");
    let device = ram.dma().memory();
    device.write_obj(7_u64, GuestAddress(free as u64 * PAGE))?;
    slot.merge_dirty_pages()?;
    let all = ram.memory();
    let region = all.find_region(GuestAddress(0)).expect("boot RAM");
    let is_dirty = |page: &usize| region.bitmap().dirty_at(page * PAGE as usize);
    let merged: Vec<usize> = (0..BOOT_PAGES).filter(is_dirty).collect();
    assert!(!by_the_guest.is_empty(), "it has a stack and a report");
    assert!(all_are_in(&by_the_guest, &merged), "{merged:?}");
    assert!(merged.contains(&free) && merged.len() < BOOT_PAGES / 2);
    assert_eq!(taken()?, merged);
    assert_eq!(taken()?, [0; 0]);
    Ok(())
}

/// What KVM cannot log is refused, with what to do instead.
fn of_guest_memfd() -> Result<Completion, Box<dyn Error>> {
    let config = MachineConfig {
        ram: RamOptions {
            backend: Backend::GuestMemfd,
            ..RamOptions::default()
        },
        dirty_log: true,
        ..MachineConfig::default()
    };
    let error = match WholeMachine::new(config, Box::new(std::io::sink())) {
        Ok(_) => return Ok(Completion::ignored_with("this host's KVM logs it")),
        Err(MachineError::GuestMemfd(missing)) => return Ok(Completion::ignored_with(missing)),
        Err(error) => error,
    };
    let told = error.to_string();
    assert!(told.contains("logs no writes to guest-memfd"), "{told}");
    for lazy in [false, true] {
        let region = |region: HotplugRegion| region.lazy(lazy).with_dirty_log(true);
        let mut blocks = Blocks::with(BOOT, 1, region)?;
        let sizes = RamSizes {
            boot: 0,
            hotplug: BOOT,
            block: BOOT,
        };
        let options = RamOptions {
            backend: Backend::GuestMemfd,
            ..RamOptions::default()
        };
        let vm = blocks.vm.clone();
        let make = |len| -> Result<_, Box<dyn Error>> { Ok(vm.create_guest_memfd(len)?) };
        let ram = Arc::new(RamSource::of_guest_memfd(options, sizes, make)?);
        let region = Arc::into_inner(blocks.region).expect("nobody else has it yet");
        blocks.region = Arc::new(region.with_ram(ram));
        let error = blocks.region.plug(0, BlockKind::Cooperative).unwrap_err();
        let told = error.to_string();
        assert!(told.contains("logs no writes to guest-memfd"), "{told}");
        assert!(blocks.region.plugged().is_empty());
        let range = blocks.region.block_range(0);
        assert!(blocks.space.mm().vmas(range).is_empty(), "nothing was left");
    }
    Ok(Completion::Completed)
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
