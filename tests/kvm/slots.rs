//! Memslots on real KVM.
use std::sync::Arc;

use gracefault::kvm::{Exit, Kvm, SlotAccess, SlotError, SlotZap, Vm};
use libtest_mimic::Trial;

use crate::support::{MMIO, Machine, Outcome, Ram, guest, kvm_test};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test("slots_come_and_go", come_and_go),
        kvm_test("slots_overlap", overlap),
        kvm_test("slots_read_only", read_only),
        kvm_test("slots_log_dirty_pages", log_dirty_pages),
        kvm_test("slots_go_without_the_others", go_without_the_others),
        kvm_test("slots_keep_memory_and_vm", keep_memory_and_vm),
        kvm_test("slots_limit", limit),
        kvm_test("slots_from_many_threads", many_threads),
        kvm_test("slots_that_cannot_be_removed_stay", cannot_be_removed),
    ]
}

fn come_and_go() -> Outcome {
    let machine = Machine::new()?;
    let ram = Ram::new(4096);
    let mut vcpu = machine.vcpu(
        0,
        guest!(
            "5: inc rax",
            "mov [rdi], rax",
            "mov [rdi + 0x2000], rax",
            "jmp 5b",
        ),
    )?;
    let mut gpas = |n: usize| -> Result<Vec<u64>, Box<dyn std::error::Error>> {
        (0..n)
            .map(|_| match vcpu.run()? {
                Exit::MmioWrite { gpa, .. } => Ok(gpa - MMIO),
                other => panic!("{other:x?}"),
            })
            .collect()
    };
    assert_eq!(gpas(4)?, [0, 0x2000, 0, 0x2000]);
    let slot = machine
        .vm
        .add_slot(MMIO, ram.clone(), SlotAccess::ReadWrite)?;
    assert_eq!((slot.id(), slot.gpa(), slot.bytes()), (1, MMIO, 4096));
    assert_eq!(gpas(2)?, [0x2000, 0x2000]);
    assert_eq!(ram.read_u64(0), 4);
    slot.remove().map_err(|(_, e)| e)?;
    assert_eq!(gpas(2)?, [0, 0x2000]);
    assert_eq!(ram.read_u64(0), 4, "no write after the removal");
    let again = machine.vm.add_slot(MMIO, ram, SlotAccess::ReadWrite)?;
    assert_eq!(again.id(), 1, "the id is used again");
    Ok(())
}

fn overlap() -> Outcome {
    let machine = Machine::new()?;
    let ram = Ram::new(0x4000);
    let add = |gpa| machine.vm.add_slot(gpa, ram.clone(), SlotAccess::ReadWrite);
    let slot = add(MMIO)?;
    for gpa in [MMIO - 0x3000, MMIO, MMIO + 0x3000] {
        let error = add(gpa).unwrap_err();
        assert!(
            matches!(error, SlotError::Overlap { len: 0x4000, .. }),
            "{error}"
        );
        assert!(error.to_string().contains(&format!("{gpa:#x}")), "{error}");
    }
    let neighbours = [add(MMIO - 0x4000)?, add(MMIO + 0x4000)?];
    assert_eq!(
        neighbours.map(|s| s.id()),
        [2, 3],
        "a refused slot keeps no id"
    );
    let end = 1 << machine.vm.physical_bits();
    assert!(matches!(add(end), Err(SlotError::PastEnd { .. })));
    add(end - 0x4000)?;
    drop(slot);
    Ok(())
}

fn read_only() -> Outcome {
    let machine = Machine::new()?;
    let rom = Ram::new(4096);
    rom.write(8, &77_u64.to_le_bytes());
    let slot = machine
        .vm
        .add_slot(MMIO, rom.clone(), SlotAccess::ReadOnly)?;
    assert_eq!(slot.access(), SlotAccess::ReadOnly);
    let mut vcpu = machine.vcpu(
        0,
        guest!(
            "mov rax, [rdi + 8]",
            "mov [rdi + 16], rax",
            "mov [rdi + 0x1000], al"
        ),
    )?;
    match vcpu.run()? {
        Exit::MmioWrite { gpa, data, .. } => assert_eq!((gpa, data[0]), (MMIO + 16, 77)),
        other => panic!("{other:x?}"),
    }
    assert!(
        matches!(vcpu.run()?, Exit::MmioWrite { .. }),
        "it goes on after the write"
    );
    assert_eq!(rom.read_u64(16), 0, "nothing was written");
    Ok(())
}

fn log_dirty_pages() -> Outcome {
    let machine = Machine::new()?;
    let code = guest!(
        "mov [rdi + 0x3000], rax",
        "mov rax, [rdi + 0x1000]",
        "mov [rdi + 0x41000], rax",
        "mov [rdi - 0x1000], rax",
        "mov [rdi + 0x5000], rax",
        "mov [rdi - 0x1000], rax",
    );
    let mut vcpu = machine.vcpu(0, code)?;
    let ram = Ram::new(0x42000);
    let slot = machine.vm.add_slot(MMIO, ram, SlotAccess::Logged)?;
    let mut dirty = || -> Result<_, Box<dyn std::error::Error>> {
        assert!(matches!(vcpu.run()?, Exit::MmioWrite { .. }));
        Ok(slot.take_dirty_pages()?)
    };
    assert_eq!(dirty()?[..2], [1 << 3, 1 << 1]);
    assert_eq!(dirty()?[..2], [1 << 5, 0], "only what is new");
    let error = machine.slot.take_dirty_pages().unwrap_err();
    assert!(
        matches!(error, SlotError::DirtyLog { id: 0, .. }),
        "{error}"
    );
    Ok(())
}

/// KVM is told not to drop all mappings, if it can be; and works either way.
fn go_without_the_others() -> Outcome {
    let is_offered = |found: &gracefault::kvm::Found| {
        found.capability.name == "DISABLE_QUIRKS2" && found.is_met()
    };
    let offered = Kvm::open()?.capabilities().iter().any(is_offered);
    let kept = Machine::new_with(SlotZap::Everything)?;
    assert_eq!(kept.vm.slot_zap(), SlotZap::Everything);
    let wanted = match offered {
        true => SlotZap::ThatSlot,
        false => SlotZap::Everything,
    };
    assert_eq!(Machine::new()?.vm.slot_zap(), wanted);
    Ok(())
}

fn keep_memory_and_vm() -> Outcome {
    let kvm = Kvm::open()?;
    let vm = Vm::new(&kvm)?;
    let ram = Ram::new(4096);
    let slot = vm.add_slot(0, ram.clone(), SlotAccess::ReadWrite)?;
    drop((vm, kvm));
    assert_eq!(Arc::strong_count(&ram), 2);
    slot.remove().map_err(|(_, e)| e)?;
    assert_eq!(Arc::strong_count(&ram), 1);
    Ok(())
}

fn limit() -> Outcome {
    let vm = Vm::new(&Kvm::open()?)?;
    let ram = Ram::new(4096);
    let add = |n: u64| vm.add_slot(n * 8192, ram.clone(), SlotAccess::ReadWrite);
    let limit = u64::from(vm.max_slots());
    let mut slots = (0..limit).map(add).collect::<Result<Vec<_>, _>>()?;
    let error = add(limit).unwrap_err();
    assert!(
        matches!(error, SlotError::NoneLeft { limit: n } if u64::from(n) == limit),
        "{error}"
    );
    let freed = slots.swap_remove(limit as usize / 2);
    let id = freed.id();
    drop(freed);
    assert_eq!(add(limit)?.id(), id);
    drop(slots);
    assert_eq!(add(0)?.id(), 0);
    Ok(())
}

fn many_threads() -> Outcome {
    let vm = Vm::new(&Kvm::open()?)?;
    let ram = Ram::new(4096);
    std::thread::scope(|scope| {
        for n in 0..4_u64 {
            let (vm, ram) = (&vm, &ram);
            scope.spawn(move || {
                for round in 0..200 {
                    let own = vm
                        .add_slot(n << 20, ram.clone(), SlotAccess::ReadWrite)
                        .unwrap();
                    assert!(own.id() < 8, "lowest free ids: {own:?}");
                    // All want this one; one at a time has it.
                    match vm.add_slot(1 << 30, ram.clone(), SlotAccess::ReadWrite) {
                        Ok(shared) if round % 2 == 0 => drop(shared),
                        Ok(shared) => shared.remove().map_err(|(_, e)| e).unwrap(),
                        Err(SlotError::Overlap { .. }) => {}
                        Err(e) => panic!("{e}"),
                    }
                }
            });
        }
    });
    assert_eq!(vm.add_slot(0, ram, SlotAccess::ReadWrite)?.id(), 0);
    Ok(())
}

/// KVM refuses a fork of the process that made the VM: the one way to make a
/// removal fail.
fn cannot_be_removed() -> Outcome {
    let vm = Vm::new(&Kvm::open()?)?;
    let ram = Ram::new(4096);
    let slot = vm.add_slot(0, ram.clone(), SlotAccess::ReadWrite)?;
    // SAFETY: this process has one thread here (see `main`), so the child may
    // do anything; it does not return from the block.
    match unsafe { libc::fork() } {
        -1 => return Err(std::io::Error::last_os_error().into()),
        0 => {
            let refused = match slot.remove() {
                Err((slot, SlotError::Kvm { what: "remove", .. })) => {
                    drop(slot);
                    // The one of `ram`, and the one that is kept with the VM.
                    let kept = Arc::strong_count(&ram) == 2;
                    drop(vm);
                    kept && Arc::strong_count(&ram) == 1
                }
                _ => false,
            };
            // SAFETY: ends the child, running nothing else of it.
            unsafe { libc::_exit(i32::from(!refused)) }
        }
        child => {
            let mut status = 0;
            // SAFETY: waits for the child made above; `status` is ours.
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            assert_eq!(
                status, 0,
                "the child saw the refusal, and the memory stayed until the VM went"
            );
        }
    }
    slot.remove().map_err(|(_, e)| e)?;
    assert_eq!(Arc::strong_count(&ram), 1);
    Ok(())
}
