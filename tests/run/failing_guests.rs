//! Guests that hang, crash or give up: exit status 1, and a finding that says
//! what happened to which vCPU, and where.
use libtest_mimic::Trial;
use serde_json::Value;

use crate::command::{Ended, Running, gracefault};
use crate::image::{IMAGE, ImageFile};
use crate::report::{assert_kvm_agrees, number, sentences};
use crate::support::{Outcome, guest, kvm_test};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test("failing_guests::one_that_hangs", hangs),
        kvm_test("failing_guests::one_that_hangs_in_mmio", hangs_in_mmio),
        kvm_test("failing_guests::an_invalid_instruction", invalid),
        kvm_test("failing_guests::hlt", hlt),
        kvm_test("failing_guests::what_kvm_cannot_emulate", not_emulated),
        kvm_test("failing_guests::a_jump_to_nowhere", jump_to_nowhere),
        kvm_test("failing_guests::a_status_that_is_not_0", a_status),
        kvm_test("failing_guests::one_of_two", one_of_two),
        kvm_test("failing_guests::a_crash_it_tells_of", a_crash),
    ]
}

/// Runs `code` on `cpus` vCPUs.
#[track_caller]
pub(crate) fn run_code(code: &[u8], cpus: &str, more: &[&str]) -> (Ended, Value) {
    let image = ImageFile::of_code(code);
    let mut command = gracefault(["run", "--json", "--cpus", cpus]);
    command.args(more).arg("--kernel").arg(&image.path);
    let ended = Running::start(command).wait();
    let report = ended.json();
    (ended, report)
}

/// As `run_code`, for a guest that fails; the findings.
#[track_caller]
pub(crate) fn failed(code: &[u8], cpus: &str, more: &[&str]) -> (Ended, Value, String) {
    let (ended, report) = run_code(code, cpus, more);
    ended.expect_status(1);
    assert_eq!(report["verdict"], "failed", "{ended}");
    let findings = sentences(&report, "findings");
    ended.expect_words(&findings.lines().collect::<Vec<_>>());
    // The one check that needs no word from the guest.
    assert_kvm_agrees(&report, cpus.parse().expect("a number"));
    (ended, report, findings)
}

#[track_caller]
pub(crate) fn assert_words(ended: &Ended, findings: &str, words: &[&str]) {
    for word in words {
        assert!(findings.contains(word), "no '{word}': {ended}");
    }
}

fn hangs() -> Outcome {
    let (ended, _, findings) = failed(guest!("nop", "5: jmp 5b"), "2", &["--timeout", "1s"]);
    let at = IMAGE + 1;
    let both = format!("rip {at:#x} (vCPUs 0, 1)");
    let words = ["did not end within 1s", &both, "--timeout"];
    assert_words(&ended, &findings, &words);
    Ok(())
}

fn hangs_in_mmio() -> Outcome {
    // Reads the test device for ever.
    let code = guest!("mov edi, 0xd0000000", "5: mov al, [rdi]", "jmp 5b");
    let (ended, report, findings) = failed(code, "1", &["--timeout", "1s"]);
    // The instruction that reads, or the one after.
    let rip = number(&report, "/vcpus/0/rip");
    assert!((IMAGE + 5..IMAGE + 9).contains(&rip), "{rip:#x}: {ended}");
    let told = format!("rip {rip:#x} (vCPU 0)");
    assert_words(&ended, &findings, &["did not end within 1s", &told]);
    assert!(
        number(&report, "/vcpus/0/device_accesses/test") > 0,
        "{ended}"
    );
    Ok(())
}

fn invalid() -> Outcome {
    // The IDT is all zeros, so a fault has nowhere to go.
    let (ended, _, findings) = failed(guest!("ud2"), "1", &["--timeout", "60s"]);
    let words = ["vCPU 0 failed: ", "triple fault", "rip 0x", "IDT"];
    assert_words(&ended, &findings, &words);
    Ok(())
}

fn hlt() -> Outcome {
    // A fault at CPL 3, as `ud2`.
    let (ended, _, findings) = failed(guest!("hlt"), "1", &["--timeout", "60s"]);
    assert_words(
        &ended,
        &findings,
        &["vCPU 0 failed: ", "triple fault", "rip 0x"],
    );
    Ok(())
}

fn not_emulated() -> Outcome {
    let code = guest!("mov edi, 0xd0000000", "movq xmm0, [rdi]", "5: jmp 5b");
    // Whether or not the slot of some block might have been what it missed.
    for memory in ["lazy=off", "lazy=on"] {
        let (ended, report, findings) =
            failed(code, "1", &["--timeout", "60s", "--memory", memory]);
        let at = format!("rip {:#x}", IMAGE + 5);
        let words = ["vCPU 0 failed: ", "cannot emulate", &at, "plain moves"];
        assert_words(&ended, &findings, &words);
        assert_eq!(number(&report, "/vcpus/0/rip"), IMAGE + 5, "{ended}");
    }
    Ok(())
}

fn jump_to_nowhere() -> Outcome {
    // Below the end of the identity map, where no memory is.
    let code = guest!("mov eax, 0xc0001000", "jmp rax");
    let (ended, _, findings) = failed(code, "1", &["--timeout", "60s"]);
    assert_words(&ended, &findings, &["vCPU 0 failed: ", "rip 0xc0001000"]);
    Ok(())
}

/// What nothing is mapped at reads as all ones.
fn a_status() -> Outcome {
    let code = guest!(
        "mov edi, 0xc0000000",
        "movzx eax, word ptr [rdi]",
        "sub eax, 0xfff8",
        "mov edi, 0xd0100000",
        "mov [rdi], rax",
    );
    let (ended, report, findings) = failed(code, "1", &["--timeout", "60s"]);
    assert_words(&ended, &findings, &["vCPU 0 exited with status 7"]);
    assert_eq!(number(&report, "/lookups/none"), 1, "{ended}");
    assert_eq!(number(&report, "/vcpus/0/mmio_exits"), 2, "{ended}");
    // A guest that keeps no counts has none that could be compared.
    assert_words(&ended, &sentences(&report, "unchecked"), &["own counts"]);
    Ok(())
}

/// vCPU 1 faults; vCPU 0, which would go on for ever, is stopped.
fn one_of_two() -> Outcome {
    let code = guest!("test esi, esi", "jne 6f", "5: jmp 5b", "6: ud2");
    let (ended, report, findings) = failed(code, "2", &["--timeout", "200s"]);
    assert_words(&ended, &findings, &["vCPU 1 failed: ", "triple fault"]);
    assert_eq!(findings.lines().count(), 1, "{ended}");
    assert_eq!(report["vcpus"][0]["end"], "was stopped", "{ended}");
    let unchecked = sentences(&report, "unchecked");
    assert_words(
        &ended,
        &unchecked,
        &["vCPU 0: stopped, since another failed"],
    );
    Ok(())
}

/// As the guest library's handlers report it.
fn a_crash() -> Outcome {
    let code = guest!(
        "mov edi, 0xd0100000",
        "mov eax, 14",
        "mov [rdi + 8], rax",
        "mov eax, 2",
        "mov [rdi + 16], rax",
        "mov eax, 0x1234",
        "mov [rdi + 32], rax",
        "5: jmp 5b",
    );
    let (ended, _, findings) = failed(code, "1", &["--timeout", "60s"]);
    let words = [
        "vCPU 0 crashed: page fault (vector 14)",
        "error code 0x2",
        "rip 0x1234",
    ];
    assert_words(&ended, &findings, &words);
    Ok(())
}
