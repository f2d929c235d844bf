//! A run's JSON, and what must hold in every one of them.
use serde_json::Value;

/// A number at a path like `/hotplug/plug/total/count`.
#[track_caller]
pub(crate) fn number(report: &Value, path: &str) -> u64 {
    report
        .pointer(path)
        .and_then(Value::as_u64)
        .unwrap_or_else(|| panic!("no number at {path}: {report:#}"))
}

/// The sentences of a list like `findings`, one a line.
#[track_caller]
pub(crate) fn sentences(report: &Value, list: &str) -> String {
    let list = report[list].as_array().expect("a list of sentences");
    let lines = list
        .iter()
        .map(|s| s.as_str().expect("a sentence").to_owned());
    lines.collect::<Vec<_>>().join("\n")
}

/// The vCPUs, of which there must be `count`.
#[track_caller]
pub(crate) fn vcpus(report: &Value, count: usize) -> &[Value] {
    let vcpus = report["vcpus"].as_array().expect("a list of vCPUs");
    assert_eq!(vcpus.len(), count, "{report:#}");
    vcpus
}

/// MMIO exits of all vCPUs.
pub(crate) fn mmio_exits(report: &Value) -> u64 {
    let vcpus = report["vcpus"].as_array().expect("a list of vCPUs");
    vcpus.iter().map(|vcpu| number(vcpu, "/mmio_exits")).sum()
}

/// That our MMIO exits are KVM's, vCPU by vCPU.
#[track_caller]
pub(crate) fn assert_kvm_agrees(report: &Value, count: usize) {
    for vcpu in vcpus(report, count) {
        let (ours, kvms) = (number(vcpu, "/mmio_exits"), number(vcpu, "/kvm_mmio_exits"));
        assert_eq!(ours, kvms, "{report:#}");
    }
}

/// That a run passed, with everything checked, and that what it says it checked is
/// so in its own figures.
#[track_caller]
pub(crate) fn assert_passed(report: &Value, count: usize) {
    assert_eq!(report["verdict"], "passed", "{report:#}");
    assert_eq!(sentences(report, "findings"), "");
    assert_eq!(sentences(report, "unchecked"), "");
    assert_kvm_agrees(report, count);
    for vcpu in vcpus(report, count) {
        assert_eq!(vcpu["end"], "exited with status 0", "{report:#}");
        let ours = vcpu["device_accesses"]
            .as_object()
            .expect("counts by device");
        assert_eq!(vcpu["device_accesses"], vcpu["guest_device_accesses"]);
        assert_eq!(
            ours.keys().collect::<Vec<_>>(),
            ["dma", "exit", "hotplug", "test"],
            "{report:#}"
        );
        // The last word of a vCPU is a write to the exit device.
        assert_eq!(number(vcpu, "/device_accesses/exit"), 1, "{report:#}");
    }
    assert_eq!(number(report, "/guest/reported"), count as u64);
    assert_eq!(number(report, "/guest/mismatches"), 0);
    let fast = number(report, "/lookups/fast");
    let waited = number(report, "/lookups/waited/count");
    // Each exit to a device or to memory took a lookup; those that found nothing
    // are told apart, whether they had waited or not.
    let exits = exit_count(report);
    let none = number(report, "/lookups/none");
    assert!(fast + waited + none >= exits && none <= exits, "{report:#}");
}

/// Exits of all kinds with an address, fragments included.
pub(crate) fn exit_count(report: &Value) -> u64 {
    let rows = report["exits"].as_array().expect("a table of exits");
    let addressed = rows
        .iter()
        .filter(|row| row["key"].as_str().is_some_and(|key| key.starts_with("0x")));
    addressed.map(|row| number(row, "/count")).sum()
}
