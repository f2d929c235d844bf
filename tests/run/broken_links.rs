//! Each link of the chain from guest to verdict, broken: the run must see it, and
//! name it.
use gracefault_guest::abi;
use libtest_mimic::Trial;
use serde_json::Value;

use crate::command::{Ended, run};
use crate::report::{number, sentences, vcpus};
use crate::support::{Outcome, kvm_test};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test("broken_links::a_flipped_byte", a_flipped_byte),
        kvm_test("broken_links::a_wrong_mmio_value", a_wrong_mmio_value),
        kvm_test("broken_links::an_uncounted_exit", an_uncounted_exit),
    ]
}

/// Runs with a link broken, for longer on a slow machine, until the guest has had
/// the time to come by.
fn broken(link: &str) -> (Ended, Value) {
    for seconds in [1, 5, 40] {
        let ended = run(&format!(
            "run --json --duration {seconds}s --timeout 200s --break {link}"
        ));
        if ended.status.code() == Some(0) && seconds < 40 {
            continue;
        }
        let report = ended.expect_status(1).json();
        assert_eq!(report["verdict"], "failed", "{ended}");
        // What is found is told on stderr, too.
        for finding in sentences(&report, "findings").lines() {
            assert!(ended.stderr.contains(finding), "{ended}");
        }
        return (ended, report);
    }
    unreachable!("the last one returns")
}

/// The first address in `text` that follows "at ".
fn address(text: &str) -> u64 {
    let (_, rest) = text.split_once(" at 0x").expect("an address");
    let digits = rest.split(' ').next().unwrap_or_default();
    u64::from_str_radix(digits, 16).expect("a number")
}

fn a_flipped_byte() -> Outcome {
    let (ended, report) = broken("flip-byte");
    let findings = sentences(&report, "findings");
    assert_eq!(findings.lines().count(), 1, "{ended}");
    assert!(findings.starts_with("vCPU 0 found "), "{ended}");
    // The canary page: in boot RAM, above the image. Its pattern names its
    // address, and the bit that was flipped is the only one wrong.
    let gpa = address(&findings);
    assert!(gpa > abi::IMAGE_GPA && gpa < 64 << 20, "{ended}");
    let expected = abi::pattern(gpa, abi::CANARY_ROUND);
    let told = format!(
        "{:#x} at {gpa:#x} in place of {expected:#x} ",
        expected ^ 0x10
    );
    assert!(findings.contains(&told), "no '{told}': {ended}");
    assert!(number(&report, "/guest/mismatches") > 0);
    Ok(())
}

fn a_wrong_mmio_value() -> Outcome {
    let (ended, report) = broken("mmio-value");
    let findings = sentences(&report, "findings");
    // Both vCPUs may meet it; nothing else is wrong.
    for finding in findings.lines() {
        assert!(finding.contains(" wrong values: "), "{ended}");
        assert_eq!(address(finding), abi::TEST_GPA, "{ended}");
    }
    Ok(())
}

fn an_uncounted_exit() -> Outcome {
    let (ended, report) = broken("uncounted-exit");
    let vcpu = &vcpus(&report, 2)[0];
    let (ours, kvms) = (number(vcpu, "/mmio_exits"), number(vcpu, "/kvm_mmio_exits"));
    assert_eq!(ours + 1, kvms, "{ended}");
    let findings = sentences(&report, "findings");
    let by_kvm = format!("MMIO exits of vCPU 0: the VMM counted {ours}, KVM {kvms}");
    assert!(findings.contains(&by_kvm), "{ended}");
    let by_guest = "accesses of vCPU 0 to the test device: the VMM counted ";
    assert!(findings.contains(by_guest), "{ended}");
    assert_eq!(findings.lines().count(), 2, "{ended}");
    Ok(())
}
