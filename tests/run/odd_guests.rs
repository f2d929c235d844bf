//! Guests that use the devices as nobody should: the machine lives through it.
use libtest_mimic::Trial;

use crate::failing_guests::{assert_words, failed, run_code};
use crate::report::{assert_kvm_agrees, number};
use crate::support::{Outcome, guest, kvm_test};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test("odd_guests::registers_that_are_none", no_registers),
        kvm_test("odd_guests::one_that_never_gives_back", never_gives_back),
        kvm_test("odd_guests::sse_is_the_first_to_touch_a_block", sse_first),
    ]
}

/// Registers that a device does not have, other vCPUs' banks, odd widths, ports of
/// nobody: none of it is more than an exit, and the guest goes on.
fn no_registers() -> Outcome {
    let code = guest!(
        "mov edi, 0xd0100000",
        "mov rax, [rdi]",
        "mov [rdi + 0x30], rax",
        "mov byte ptr [rdi + 1], 1",
        "mov [rdi + 0xffc], rax",
        "mov edi, 0xd0200000",
        "mov rax, -1",
        "mov [rdi + 0x10], rax",
        "mov [rdi + 0x38], rax",
        "mov eax, [rdi + 9]",
        "mov edi, 0xd0000000",
        "mov [rdi], rax",
        "mov rax, [rdi + 0xffc]",
        "mov dx, 0x3f9",
        "in eax, dx",
        "mov dx, 0xfff0",
        "out dx, eax",
        "in eax, dx",
        "xor eax, eax",
        "mov edi, 0xd0100000",
        "mov [rdi], rax",
    );
    let (ended, report) = run_code(code, "1", &["--timeout", "60s"]);
    ended.expect_status(0);
    assert_eq!(report["verdict"], "passed", "{ended}");
    assert_kvm_agrees(&report, 1);
    Ok(())
}

/// It joins, takes what it is offered, and then asks for nothing more: the hotplug
/// thread gives up in the end, with an error, and does not wait for ever.
fn never_gives_back() -> Outcome {
    let code = guest!(
        "mov edi, 0xd0200000",
        "mov eax, 1",
        "mov [rdi], rax",
        // Acknowledges offers, until there are enough.
        "xor ecx, ecx",
        "5: mov rax, [rdi + 8]",
        "test rax, rax",
        "je 5b",
        "mov [rdi + 16], rax",
        "inc ecx",
        "cmp ecx, 3",
        "jb 5b",
        "6: pause",
        "jmp 6b",
    );
    let (ended, _, findings) = failed(code, "1", &["--timeout", "3s", "--duration", "1s"]);
    let at = "did not end within 3s; it was at rip 0x2000";
    assert_words(&ended, &findings, &[at]);
    Ok(())
}

/// An instruction that KVM cannot emulate touches a block that has no slot yet: all
/// of them get theirs, and it runs.
fn sse_first() -> Outcome {
    let code = guest!(
        // Where the blocks are, in the parameter page.
        "mov rbx, [rdi + 64]",
        "mov edi, 0xd0200000",
        "mov eax, 1",
        "mov [rdi], rax",
        // Until a block is there that is not asked for unheard.
        "5: mov rax, [rdi + 8]",
        "test rax, rax",
        "je 5b",
        "mov [rdi + 16], rax",
        "shr rax, 32",
        "cmp eax, 1",
        "jne 5b",
        "movq xmm0, [rbx]",
        "movq rax, xmm0",
        "mov edi, 0xd0100000",
        "mov [rdi], rax",
    );
    for (lazy, slots) in [("on", 1), ("off", 0)] {
        let memory = format!("hotplug_size=2M,block=2M,lazy={lazy}");
        let more = ["--timeout", "60s", "--memory", &memory];
        let (ended, report) = run_code(code, "1", &more);
        ended.expect_status(0);
        assert_eq!(report["verdict"], "passed", "{ended}");
        assert_eq!(number(&report, "/lazy_slots"), slots, "{ended}");
    }
    Ok(())
}
