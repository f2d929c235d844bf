//! Each kind of exit, and each error that a guest or its memory can cause.
use gracefault::kvm::{Exit, Kvm, SlotAccess, VcpuError, boot};
use libtest_mimic::Trial;

use crate::support::{MMIO, Machine, Outcome, Ram, guest, kvm_test, with_regs};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test("exit_mmio", mmio),
        kvm_test("exit_pio", pio),
        kvm_test("exit_halt", halt),
        kvm_test("exit_start_state", start_state),
        kvm_test("error_triple_fault", triple_fault),
        kvm_test("error_emulation_names_the_instruction", emulation),
        kvm_test("error_memory_behind_a_slot", memory_behind_a_slot),
        kvm_test("error_vcpu_ids", vcpu_ids),
        kvm_test("stats_names", stats_names),
        kvm_test("capabilities", capabilities),
    ]
}

fn write(exit: Exit<'_>) -> (u64, Vec<u8>) {
    match exit {
        Exit::MmioWrite {
            gpa,
            data,
            fragment: false,
        } => (gpa, data.to_vec()),
        other => panic!("{other:x?}"),
    }
}

fn mmio() -> Outcome {
    let machine = Machine::new()?;
    let mut vcpu = machine.vcpu(
        0,
        guest!(
            "mov rax, [rdi]",
            "mov [rdi + 8], rax",
            "mov [rdi + 3], al",
            "movzx ebx, word ptr [rdi + 6]",
            "mov [rdi], ebx",
            "5: jmp 5b",
        ),
    )?;
    match vcpu.run_with_regs()? {
        (
            Exit::MmioRead {
                gpa: MMIO,
                data,
                fragment: false,
            },
            regs,
        ) => {
            assert_eq!(regs.rip, 0x20_0000, "a read's rip is its instruction's");
            data.copy_from_slice(&0x1122_3344_5566_7788_u64.to_le_bytes());
        }
        other => panic!("{other:x?}"),
    }
    assert_eq!(
        write(vcpu.run()?),
        (MMIO + 8, 0x1122_3344_5566_7788_u64.to_le_bytes().to_vec())
    );
    assert_eq!(write(vcpu.run()?), (MMIO + 3, vec![0x88]));
    match vcpu.run()? {
        Exit::MmioRead { gpa, data, .. } if gpa == MMIO + 6 => data.copy_from_slice(&[1, 2]),
        other => panic!("{other:x?}"),
    }
    assert_eq!(write(vcpu.run()?), (MMIO, vec![1, 2, 0, 0]));
    Ok(())
}

fn pio() -> Outcome {
    let machine = Machine::new()?;
    machine.ram.write(0x1000, b"hello");
    let mut vcpu = machine.vcpu(
        0,
        guest!(
            "mov edx, 0x3f8",
            "in ax, dx",
            "out dx, eax",
            "mov esi, 0x1000",
            "mov ecx, 5",
            "rep outsb",
            "mov edi, 0x1800",
            "mov ecx, 4",
            "rep insb",
            "mov eax, [0x1800]",
            "out 0x10, eax",
            "5: jmp 5b",
        ),
    )?;
    match vcpu.run()? {
        Exit::PioIn {
            port: 0x3f8,
            size: 2,
            data,
        } => data.copy_from_slice(&[0x34, 0x12]),
        other => panic!("{other:x?}"),
    }
    match vcpu.run()? {
        Exit::PioOut {
            port: 0x3f8,
            size: 4,
            data,
        } => assert_eq!(data, [0x34, 0x12, 0, 0]),
        other => panic!("{other:x?}"),
    }
    // KVM may hand a string over whole or in parts.
    let mut sent = Vec::new();
    while sent.len() < 5 {
        match vcpu.run()? {
            Exit::PioOut {
                port: 0x3f8,
                size: 1,
                data,
            } => sent.extend_from_slice(data),
            other => panic!("{other:x?}"),
        }
    }
    assert_eq!(sent, b"hello");
    let mut next = 1;
    loop {
        match vcpu.run()? {
            Exit::PioIn {
                port: 0x3f8,
                size: 1,
                data,
            } => {
                for byte in data {
                    *byte = next;
                    next += 1;
                }
            }
            Exit::PioOut {
                port: 0x10,
                size: 4,
                data,
            } => {
                assert_eq!(data, [1, 2, 3, 4]);
                return Ok(());
            }
            other => panic!("{other:x?}"),
        }
    }
}

/// `hlt` is for CPL 0.
fn halt() -> Outcome {
    let machine = Machine::new()?;
    let mut vcpu = machine.vcpu(0, guest!("hlt", "mov [rdi], eax"))?;
    let mut sregs = vcpu.sregs()?;
    sregs.cs.dpl = 0;
    sregs.cs.selector = 8;
    for data in [
        &mut sregs.ds,
        &mut sregs.es,
        &mut sregs.fs,
        &mut sregs.gs,
        &mut sregs.ss,
    ] {
        data.dpl = 0;
        data.selector = 16;
    }
    vcpu.set_sregs(&sregs)?;
    assert_eq!(vcpu.run()?, Exit::Halt);
    assert_eq!(write(vcpu.run()?).0, MMIO, "and goes on after it");
    Ok(())
}

/// What the ABI promises, seen from inside: as far as a KVM in software, which
/// runs CPL 3 on the host's own selectors, flags and CPUID, lets one see it.
fn start_state() -> Outcome {
    let machine = Machine::new()?;
    let mut vcpu = machine.vcpu(
        3,
        guest!(
            "mov [rdi], rsi",
            "mov [rdi], rsp",
            "mov ax, cs",
            "mov [rdi], ax",
            "mov ax, ss",
            "mov [rdi], ax",
            "mov rax, 0x1234",
            "mov gs:[8], rax",
            "movups xmm0, [0x1000]",
            "mov rax, 0x17fffffff",
            "mov [rax], bl",
            "5: jmp 5b",
        ),
    )?;
    let mut next = || -> Result<u64, VcpuError> {
        let (_, data) = write(vcpu.run()?);
        Ok(data
            .iter()
            .rev()
            .fold(0, |word, byte| word << 8 | u64::from(*byte)))
    };
    assert_eq!(next()?, 3);
    assert_eq!(next()?, 0x38_4000 - 8);
    assert_eq!(next()? & 3, 3, "CPL");
    assert_eq!(next()? & 3, 3, "SS");
    assert_eq!(
        write(vcpu.run()?).0,
        boot_end() - 1,
        "the last byte that is mapped"
    );
    assert_eq!(machine.ram.read_u64(0x30_3008), 0x1234, "gs base");
    Ok(())
}

fn boot_end() -> u64 {
    assert!(boot::table_bytes(crate::support::MAPPED_END) <= boot::TABLES_ROOM);
    crate::support::MAPPED_END
}

fn triple_fault() -> Outcome {
    let machine = Machine::new()?;
    let mut vcpu = machine.vcpu(0, guest!("hlt"))?;
    let error = vcpu.run().unwrap_err();
    assert!(
        matches!(error, VcpuError::Shutdown { vcpu: 0, .. }),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .starts_with("vCPU 0 shut down by a triple fault"),
        "{error}"
    );
    Ok(())
}

fn emulation() -> Outcome {
    let machine = Machine::new()?;
    if !machine.vm.reports_emulation_failures() {
        return Ok(());
    }
    let mut vcpu = machine.vcpu(1, guest!("nop", "movq xmm0, [rdi]", "5: jmp 5b"))?;
    for _ in 0..2 {
        let error = vcpu.run().unwrap_err();
        let VcpuError::Emulation {
            vcpu: 1,
            rip: 0x20_1001,
            bytes,
        } = error
        else {
            panic!("{error}");
        };
        assert_eq!(
            bytes.as_slice().get(..4),
            Some(&[0xf3, 0x0f, 0x7e, 0x07][..]),
            "{error}"
        );
        assert!(error.to_string().contains("f3 0f 7e 07"), "{error}");
    }
    // With memory there it can go on.
    let slot = machine
        .vm
        .add_slot(MMIO, Ram::new(4096), SlotAccess::ReadWrite)?;
    with_regs(&mut vcpu, |r| r.rbx = 7)?;
    let code = guest!("movq xmm0, [rdi]", "mov [rdi + 0x1000], ebx");
    machine.ram.write(0x20_1001, code);
    assert_eq!(write(vcpu.run()?), (MMIO + 0x1000, vec![7, 0, 0, 0]));
    drop(slot);
    Ok(())
}

fn memory_behind_a_slot() -> Outcome {
    let machine = Machine::new()?;
    let ram = Ram::new(1 << 20);
    let _slot = machine
        .vm
        .add_slot(MMIO, ram.clone(), SlotAccess::ReadWrite)?;
    let mut vcpu = machine.vcpu(
        0,
        guest!(
            "mov [rdi], eax",
            "mov [rdi + 0x100000], eax",
            "mov [rdi], eax"
        ),
    )?;
    assert_eq!(write(vcpu.run()?).0, MMIO + (1 << 20), "an exit before");
    ram.protect();
    let error = vcpu.run().unwrap_err();
    match error {
        VcpuError::Fault { vcpu: 0, rip } => assert_eq!(rip, 0x20_0008),
        VcpuError::MemoryFault {
            vcpu: 0, gpa: MMIO, ..
        } => {}
        other => panic!("{other}"),
    }
    assert!(
        error
            .to_string()
            .contains("hole in the mapping behind a memslot"),
        "{error}"
    );
    Ok(())
}

fn vcpu_ids() -> Outcome {
    let machine = Machine::new()?;
    let vcpu = machine.vm.create_vcpu(0)?;
    assert!(matches!(
        machine.vm.create_vcpu(0),
        Err(VcpuError::Exists { vcpu: 0 })
    ));
    drop(vcpu);
    assert!(matches!(
        machine.vm.create_vcpu(0),
        Err(VcpuError::Exists { vcpu: 0 })
    ));
    let text = machine.vm.create_vcpu(u32::MAX).unwrap_err().to_string();
    assert!(text.contains("with ids below"), "{text}");
    assert!(machine.vm.create_vcpu(1)?.tsc_khz()? > 100_000);
    Ok(())
}

fn stats_names() -> Outcome {
    let machine = Machine::new()?;
    let vcpu = machine.vm.create_vcpu(0)?;
    let Ok(stats) = vcpu.stats() else {
        return Ok(());
    };
    assert_eq!(stats.read("mmio_exits"), Some(0));
    assert_eq!(stats.read("no such counter"), None);
    assert!(stats.names().any(|name| name == "exits"));
    Ok(())
}

fn capabilities() -> Outcome {
    let kvm = Kvm::open()?;
    let found = kvm.capabilities();
    assert_eq!(found, Kvm::probe("/dev/kvm".as_ref())?);
    for f in &found {
        eprintln!("  {:28} {:6} {}", f.capability.name, f.answer, f.is_met());
    }
    assert!(kvm.max_slots() > 32 && kvm.max_vcpus() >= 1 && kvm.recommended_vcpus() >= 1);
    eprintln!(
        "  {} bits, {} slots, {} vCPUs",
        kvm.physical_bits(),
        kvm.max_slots(),
        kvm.max_vcpus()
    );
    Ok(())
}
