//! Counting accesses, against KVM's own count.
use gracefault::kvm::{Exit, Vcpu};
use libtest_mimic::Trial;

use crate::support::{MMIO, Machine, Outcome, guest, kvm_test, with_regs};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test("fragments_16_byte_store_and_load", sixteen_bytes),
        kvm_test("fragments_across_a_page", across_a_page),
        kvm_test("fragments_not_in_loops", loops),
        kvm_test("fragments_not_in_read_modify_write", read_modify_write),
        kvm_test("fragments_not_in_strings", strings),
    ]
}

/// Where guests write to when they are done.
const DONE: u64 = MMIO + 0x10_0000;

/// One return: write, gpa - [`MMIO`], len, fragment.
type Return = (bool, u64, usize, bool);

/// Runs until the write to [`DONE`]: each return before it. Checks the count of accesses against KVM's.
fn returns(vcpu: &mut Vcpu) -> Result<Vec<Return>, Box<dyn std::error::Error>> {
    let stats = vcpu.stats().ok();
    let before = stats.as_ref().and_then(|s| s.read("mmio_exits"));
    let mut all = Vec::new();
    loop {
        match vcpu.run()? {
            Exit::MmioWrite { gpa: DONE, .. } => break,
            Exit::MmioRead {
                gpa,
                data,
                fragment,
            } => {
                // A different value each time, so that nothing depends on it.
                data.fill(all.len() as u8);
                all.push((false, gpa - MMIO, data.len(), fragment));
            }
            Exit::MmioWrite {
                gpa,
                data,
                fragment,
            } => {
                all.push((true, gpa - MMIO, data.len(), fragment));
            }
            Exit::Interrupted => {}
            other => panic!("{other:x?}"),
        }
    }
    let accesses = 1 + all.iter().filter(|r| !r.3).count() as u64;
    if let (Some(before), Some(after)) = (before, stats.and_then(|s| s.read("mmio_exits"))) {
        assert_eq!(
            accesses,
            after - before,
            "accesses against KVM's count: {all:x?}"
        );
    }
    Ok(all)
}

fn run(code: &[u8]) -> Result<Vec<Return>, Box<dyn std::error::Error>> {
    let machine = Machine::new()?;
    let mut vcpu = machine.vcpu(0, code)?;
    with_regs(&mut vcpu, |r| r.rbp = DONE)?;
    returns(&mut vcpu)
}

fn sixteen_bytes() -> Outcome {
    let all = run(guest!(
        "movups [rdi + 0x10], xmm0",
        "movups [rdi + 0x20], xmm0",
        "movups xmm1, [rdi + 0x30]",
        "movups xmm1, [rdi + 0x40]",
        "mov [rbp], eax",
    ))?;
    assert_eq!(
        all,
        [
            (true, 0x10, 8, false),
            (true, 0x18, 8, true),
            (true, 0x20, 8, false),
            (true, 0x28, 8, true),
            (false, 0x30, 8, false),
            (false, 0x38, 8, true),
            (false, 0x40, 8, false),
            (false, 0x48, 8, true),
        ]
    );
    Ok(())
}

fn across_a_page() -> Outcome {
    let all = run(guest!(
        "mov [rdi + 0xffc], rax",
        "mov rax, [rdi + 0x1fff]",
        "mov [rdi + 0x2fff], ax",
        "movups [rdi + 0x3ffc], xmm0",
        "movups xmm0, [rdi + 0x4ff4]",
        "mov [rdi + 0x5ff8], rax",
        "mov [rdi + 0x6000], rax",
        "mov [rbp], eax",
    ))?;
    assert_eq!(
        all,
        [
            (true, 0xffc, 4, false),
            (true, 0x1000, 4, true),
            (false, 0x1fff, 1, false),
            (false, 0x2000, 7, true),
            (true, 0x2fff, 1, false),
            (true, 0x3000, 1, true),
            (true, 0x3ffc, 4, false),
            (true, 0x4000, 8, true),
            (true, 0x4008, 4, true),
            (false, 0x4ff4, 8, false),
            (false, 0x4ffc, 4, true),
            (false, 0x5000, 4, true),
            (true, 0x5ff8, 8, false),
            (true, 0x6000, 8, false),
        ]
    );
    Ok(())
}

fn loops() -> Outcome {
    let all = run(guest!(
        "mov ecx, 1024",
        "5: mov [rdi], rax",
        "add rdi, 8",
        "dec ecx",
        "jnz 5b",
        // By the address alone, with nothing counted.
        "6: mov rax, [rdi]",
        "add rdi, 8",
        "test edi, 0x1fff",
        "jnz 6b",
        "7: mov [rdi], rax",
        "add rdi, 4096",
        "test edi, 0x7fff",
        "jnz 7b",
        "mov ecx, 100",
        "8: mov [rdi], rax",
        "dec ecx",
        "jnz 8b",
        "mov [rbp], eax",
    ))?;
    assert!(all.len() > 1024 + 100);
    assert!(all.iter().all(|r| !r.3), "{all:x?}");
    Ok(())
}

fn read_modify_write() -> Outcome {
    let all = run(guest!(
        "add [rdi + 8], rax",
        "lock inc qword ptr [rdi + 0x10]",
        "xchg [rdi + 0x18], rax",
        "add [rdi + 0xffc], rax",
        "mov [rbp], eax",
    ))?;
    let continued: Vec<_> = all.iter().filter(|r| r.3).map(|r| (r.0, r.1)).collect();
    assert_eq!(continued, [(false, 0x1000), (true, 0x1000)], "{all:x?}");
    Ok(())
}

fn strings() -> Outcome {
    let all = run(guest!(
        "mov ecx, 8",
        "rep stosq",
        "mov esi, 0x1000",
        "mov ecx, 8",
        "rep movsq",
        "mov rsi, rdi",
        "mov ecx, 8",
        "rep lodsq",
        "mov rsi, rdi",
        "add rdi, 0x100",
        "mov ecx, 4",
        "rep movsq",
        "mov [rbp], eax",
    ))?;
    assert!(all.len() >= 8 * 3 + 4 * 2, "{all:x?}");
    assert!(all.iter().all(|r| !r.3), "{all:x?}");
    Ok(())
}
