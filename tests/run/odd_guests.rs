//! Guests that use the devices as nobody should: the machine lives through it.
use libtest_mimic::Trial;

use crate::failing_guests::{assert_words, failed, run_code};
use crate::report::{assert_kvm_agrees, number};
use crate::support::{Outcome, guest, kvm_test};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test("odd_guests::registers_that_are_none", no_registers),
        kvm_test("odd_guests::one_that_never_gives_back", never_gives_back),
        kvm_test("odd_guests::one_that_boasts", boasts),
        kvm_test("odd_guests::one_that_complains_without_end", complains),
        kvm_test("odd_guests::anything_anywhere", anything),
        kvm_test("odd_guests::what_is_refused_is_told", what_is_refused),
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

/// Its reports say the most that can be said: sums of that are no more than that, also
/// while it runs.
fn boasts() -> Outcome {
    let code = guest!(
        "mov rbx, [rdi + 88]",
        "imul rsi, rsi, 4096",
        "add rbx, rsi",
        "mov rax, -1",
        // From the bytes of the serial port to the mismatches, all but the canary.
        "mov ecx, 48",
        "5: mov [rbx + rcx], rax",
        "6: add ecx, 8",
        "cmp ecx, 112",
        "je 6b",
        "cmp ecx, 120",
        "jbe 5b",
        // For some looks at it.
        "mov rcx, 400000000",
        "7: dec rcx",
        "jnz 7b",
        "mov edi, 0xd0100000",
        "mov r8, [rbx]",
        "shl r8, 6",
        "add rdi, r8",
        "xor eax, eax",
        "mov [rdi], rax",
    );
    let (ended, report, findings) = failed(code, "2", &["--timeout", "100s"]);
    let wrong = format!("found {} wrong values", u64::MAX);
    assert_words(&ended, &findings, &["vCPU 0", "vCPU 1", &wrong]);
    for counted in ["rounds", "bytes_verified", "mismatches"] {
        let at = format!("/guest/{counted}");
        assert_eq!(number(&report, &at), u64::MAX, "{ended}");
    }
    Ok(())
}

/// Whatever it asks of each device that cannot be, again and again: there is a message
/// now and then.
fn complains() -> Outcome {
    let code = guest!(
        "mov ecx, 2000",
        "mov rax, -4",
        // The DMA device: a descriptor past the end. The controller: an event that
        // never was. Where nothing is. A port of nobody.
        "5: mov edi, 0xd0300000",
        "mov [rdi], rax",
        "mov edi, 0xd0200000",
        "mov [rdi + 16], rax",
        "mov edi, 0xc0000000",
        "mov [rdi], rax",
        "mov edx, 0xfff0",
        "out dx, al",
        "dec ecx",
        "jnz 5b",
        "xor eax, eax",
        "mov edi, 0xd0100000",
        "mov [rdi], rax",
    );
    let more = ["--timeout", "200s", "--no-churn", "--log-level", "info"];
    let (ended, report) = run_code(code, "1", &more);
    ended.expect_status(0).expect_words(&["dma: "]);
    let (lines, seconds) = (ended.stderr.lines().count(), &report["seconds"]);
    let most = 10 + 5 * seconds.as_f64().expect("a number") as usize;
    assert!(lines <= most, "{lines} lines in {seconds} s");
    Ok(())
}

/// What finds nobody, or a device that fails: each is counted, and named in the table and
/// in the log, which says so once a second and how often it has not.
fn what_is_refused() -> Outcome {
    let nobody = guest!(
        "mov ecx, 300",
        "mov edi, 0xc0000000",
        "5: mov rax, [rdi]",
        "mov [rdi], rax",
        "dec ecx",
        "jnz 5b",
        "xor eax, eax",
        "mov edi, 0xd0100000",
        "mov [rdi], rax",
    );
    // The hotplug controller has no such register.
    let failing = guest!(
        "mov ecx, 300",
        "mov edi, 0xd0200000",
        "5: mov rax, [rdi + 0xff8]",
        "mov [rdi + 0xff8], rax",
        "dec ecx",
        "jnz 5b",
        "xor eax, eax",
        "mov edi, 0xd0100000",
        "mov [rdi], rax",
    );
    let cases = [
        (
            nobody,
            "unmapped",
            "unmapped",
            "0xc0000000: nothing is there",
        ),
        (
            failing,
            "device_failures",
            "hotplug (failed)",
            "hotplug: 0xd0200ff8: there is no register",
        ),
    ];
    for (code, count, target, message) in cases {
        let more = ["--timeout", "200s", "--no-churn", "--log-level", "info"];
        let (ended, report) = run_code(code, "1", &more);
        ended.expect_status(0);
        for other in ["unmapped", "device_failures", "rom_writes"] {
            let expected = if other == count { 600 } else { 0 };
            assert_eq!(
                number(&report, &format!("/refused/{other}")),
                expected,
                "{ended}"
            );
        }
        let exits = report["exits_by_target"].as_array().expect("a table");
        let counted = exits.iter().filter(|exit| exit["target"] == target);
        let counted: Vec<_> = counted.map(|exit| number(exit, "/count")).collect();
        assert_eq!(counted, [300, 300], "loads and stores: {ended}");
        let lines: Vec<_> = ended
            .stderr
            .lines()
            .filter(|l| l.contains(message))
            .collect();
        let most = 1.0 + report["seconds"].as_f64().expect("seconds");
        assert!(!lines.is_empty() && lines.len() as f64 <= most, "{ended}");
        assert!(
            lines.iter().all(|line| line.contains("held back)")),
            "{ended}"
        );
    }
    Ok(())
}

/// Accesses of any width and value to registers, and to what is none, of every device
/// but the one that ends it.
fn anything() -> Outcome {
    let code = guest!(
        "mov r8, 0x9e3779b97f4a7c15",
        "mov r9d, 6000",
        "5: mov rax, r8",
        "shl rax, 13",
        "xor r8, rax",
        "mov rax, r8",
        "shr rax, 7",
        "xor r8, rax",
        "mov rax, r8",
        "shl rax, 17",
        "xor r8, rax",
        // One of eight instructions, on one of three devices or a port.
        "mov rcx, r8",
        "shr rcx, 50",
        "and ecx, 7",
        "mov rbx, r8",
        "shr rbx, 40",
        "and ebx, 3",
        "cmp ebx, 1",
        "je 6f",
        "shl ebx, 20",
        "add ebx, 0xd0000000",
        "mov eax, r8d",
        "and eax, 0x1fff",
        "add ebx, eax",
        "cmp ecx, 3",
        "ja 7f",
        "je 8f",
        "cmp ecx, 1",
        "jb 9f",
        "je 21f",
        "mov [rbx], r8d",
        "jmp 20f",
        "8: mov [rbx], r8",
        "jmp 20f",
        "9: mov [rbx], r8b",
        "jmp 20f",
        "21: mov [rbx], r8w",
        "jmp 20f",
        "7: cmp ecx, 6",
        "ja 8f",
        "je 9f",
        "cmp ecx, 5",
        "je 21f",
        "mov al, [rbx]",
        "jmp 20f",
        "8: mov rax, [rbx]",
        "jmp 20f",
        "9: mov eax, [rbx]",
        "jmp 20f",
        "21: mov ax, [rbx]",
        "jmp 20f",
        // A port of the console, but not the one that prints, or one after it.
        "6: mov edx, r8d",
        "and edx, 7",
        "test ecx, 1",
        "je 7f",
        "mov edx, r8d",
        "and edx, 0x3ff",
        "7: add edx, 0x3f9",
        "mov eax, r9d",
        "test ecx, 2",
        "je 8f",
        "out dx, al",
        "out dx, eax",
        "jmp 20f",
        "8: in al, dx",
        "in ax, dx",
        "20: dec r9d",
        "jnz 5b",
        "xor eax, eax",
        "mov edi, 0xd0100000",
        "mov [rdi], rax",
    );
    for more in [
        &["--no-churn"][..],
        &["--memory", "hotplug_size=4M,lazy=on"],
    ] {
        let more = [&["--timeout", "200s"], more].concat();
        let (ended, report) = run_code(code, "1", &more);
        ended.expect_status(0);
        assert_eq!(report["verdict"], "passed", "{ended}");
        assert_kvm_agrees(&report, 1);
        assert!(number(&report, "/refused/device_failures") > 500, "{ended}");
    }
    Ok(())
}
