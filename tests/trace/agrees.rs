//! The trace, the VMM's own counts, the guest and KVM agree exactly; and so does perf,
//! where it may run.
use std::collections::BTreeMap;
use std::process::Command;

use gracefault::trace::ExitKind;
use gracefault::trace::event::Event;
use libtest_mimic::{Completion, Trial};
use serde_json::Value;

use crate::command::gracefault;
use crate::recorded::{Recorded, trace};
use crate::support::{Outcome, kvm_test, kvm_test_if};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test("agrees::with_guest_vmm_and_kvm", with_guest_vmm_and_kvm),
        kvm_test(
            "agrees::with_the_reports_of_the_run",
            with_the_reports_of_the_run,
        ),
        kvm_test("agrees::sections_are_the_plugs_and_unplugs", sections),
        kvm_test("agrees::one_event_alone", one_event_alone),
        kvm_test_if("agrees::with_perf", with_perf),
    ]
}

fn with_guest_vmm_and_kvm() -> Outcome {
    for options in [
        "--workload mmio --cpus 1 --duration 300ms",
        "--workload hotplug --cpus 2 --duration 1s",
        "--workload hotplug --cpus 2 --duration 500ms --memory lazy=on",
        "--workload hello --cpus 3",
    ] {
        let recorded = Recorded::new("", options);
        assert!(recorded.trace.complete && recorded.trace.lost() == 0);
        let vcpus = recorded.report["vcpus"].as_array().ok_or("vcpus")?;
        for (vcpu, told) in (0..).zip(vcpus) {
            let exits = || recorded.exits(vcpu);
            let mmio = exits().filter(|exit| exit.is_mmio_exit()).count() as u64;
            assert_eq!(told["mmio_exits"], mmio, "{options}");
            assert_eq!(told["kvm_mmio_exits"], mmio, "{options}");
            let fragments = exits().filter(|exit| exit.fragment).count() as u64;
            assert_eq!(told["mmio_fragments"], fragments);
            // By the name of the device, whole accesses.
            let mut devices: BTreeMap<&str, u64> = BTreeMap::new();
            for exit in exits().filter(|exit| exit.is_mmio_exit()) {
                let start = exit.vma.unwrap_or(u64::MAX);
                let named = recorded.trace.meta.machine.devices.iter();
                let device = named
                    .filter(|d| d.space == "memory")
                    .find(|d| d.start == start);
                if let Some(device) = device {
                    *devices.entry(&device.name).or_default() += 1;
                }
            }
            for (name, count) in told["guest_device_accesses"]
                .as_object()
                .ok_or("no final report")?
            {
                let ours = devices.get(&**name).copied().unwrap_or(0);
                assert_eq!(*count, ours, "{name}, {options}");
            }
            let outcome = recorded.trace.outcome.as_ref().ok_or("no outcome")?;
            assert_eq!(outcome.vcpus[vcpu as usize].kvm_mmio_exits, Some(mmio));
        }
        assert_eq!(recorded.report["trace"]["lost"], 0);
    }
    Ok(())
}

/// The tables made of the trace count what the tables of the run count.
fn with_the_reports_of_the_run() -> Outcome {
    let recorded = Recorded::new("", "--duration 500ms");
    let view = trace("report --json", &recorded.path())
        .expect_status(0)
        .json();
    let all = view["all"]["count"].as_u64().ok_or("a count")?;
    let rows = recorded.report["exits_by_target"]
        .as_array()
        .ok_or("rows")?;
    let sum: u64 = rows.iter().filter_map(|row| row["count"].as_u64()).sum();
    assert_eq!(all, sum);
    let sum = |value: &Value| -> u64 {
        let rows = value["rows"].as_array().expect("rows");
        rows.iter().filter_map(|row| row["count"].as_u64()).sum()
    };
    assert_eq!(sum(&view), all);
    let mmio = trace("report --event mmio --json", &recorded.path()).json();
    let ports = trace("report --event ioport --json", &recorded.path()).json();
    assert_eq!(sum(&mmio) + sum(&ports), all);
    let waits = trace("report --event wait --json", &recorded.path()).json();
    let waited = recorded.report["lookups"]["waited"]["count"].clone();
    assert_eq!(waits["all"]["count"], waited);
    // The same row in both, by address: the most frequent one of a device. (The run's
    // table has what is not mapped by 2 MiB, the trace's by address.)
    let rows = recorded.report["exits"].as_array().ok_or("rows")?;
    let row = rows.iter().find(|row| row["target"] == "test");
    let key = &row.ok_or("no exit of the test device")?["key"];
    let count = |rows: &Value| {
        let rows = rows.as_array().expect("rows").iter();
        let same = rows.filter(|row| row["key"] == *key);
        same.filter_map(|row| row["count"].as_u64()).sum::<u64>()
    };
    let found = count(&mmio["rows"]) + count(&ports["rows"]);
    assert_eq!(found, count(&recorded.report["exits"]));
    assert!(found > 0);
    Ok(())
}

fn sections() -> Outcome {
    let recorded = Recorded::new("", "--duration 3s");
    let groups = trace("report --event hotplug --json", &recorded.path()).json();
    let count = |what: &str| {
        let groups = groups["groups"].as_array().expect("groups").iter();
        groups
            .filter(|group| group["what"] == what)
            .filter_map(|group| group["count"].as_u64())
            .sum::<u64>()
    };
    let plugs = recorded.number("/hotplug/plug/total/count");
    let unplugs = recorded.number("/hotplug/unplug/total/count")
        + recorded.number("/hotplug/surprise_unplug/total/count");
    assert!(plugs > 0);
    assert_eq!((count("map"), count("unmap")), (plugs, unplugs));
    for (thread, event) in recorded.trace.events() {
        if let Event::Section(section) = event {
            assert_eq!(thread.name, "hotplug");
            let times = [
                section.opened,
                section.planned,
                section.drained,
                section.applied,
                section.ended,
            ];
            assert!(times.is_sorted() && section.opened > 0, "{section:?}");
        }
    }
    Ok(())
}

fn one_event_alone() -> Outcome {
    let recorded = Recorded::new(" --events mmio_w*", "--duration 200ms");
    for (_, event) in recorded.trace.events() {
        let Event::Exit(exit) = event else {
            panic!("{event:?}");
        };
        assert_eq!(exit.kind, ExitKind::MmioWrite);
    }
    let writes = recorded.trace.events().count() as u64;
    let rows = recorded.report["exits_by_target"]
        .as_array()
        .ok_or("rows")?;
    let told: u64 = rows
        .iter()
        .filter(|row| row["kind"] == "mmio_write")
        .filter_map(|row| row["count"].as_u64())
        .sum();
    assert_eq!(writes, told);
    Ok(())
}

/// perf's own count of the returns of each vCPU's thread to user space, from the kernel's
/// tracepoints, against ours.
fn with_perf() -> Result<Completion, Box<dyn std::error::Error>> {
    const EVENTS: &str = "kvm:kvm_userspace_exit,kvm:kvm_mmio,kvm:kvm_pio";
    let dir = tempfile::tempdir()?;
    let (data, file) = (dir.path().join("perf.data"), dir.path().join("run.trace"));
    let try_out = Command::new("perf")
        .args(["record", "-q", "-c", "1", "-e", EVENTS, "-o"])
        .arg(&data)
        .args(["--", "true"])
        .output();
    match try_out {
        Err(error) => return Ok(Completion::ignored_with(format!("perf: {error}"))),
        Ok(tried) if !tried.status.success() => {
            let why = String::from_utf8_lossy(&tried.stderr);
            let why = why
                .lines()
                .find(|line| !line.trim().is_empty())
                .unwrap_or("it fails");
            return Ok(Completion::ignored_with(format!(
                "perf cannot record {EVENTS}: {why}"
            )));
        }
        Ok(_) => {}
    }
    let binary = gracefault([""; 0]);
    let recorded = Command::new("perf")
        .args(["record", "-q", "-c", "1", "-m", "4M", "-e", EVENTS, "-o"])
        .arg(&data)
        .arg("--")
        .arg(binary.get_program())
        .args([
            "run",
            "--json",
            "--duration",
            "300ms",
            "--timeout",
            "120s",
            "--trace",
        ])
        .arg(&file)
        .output()?;
    assert!(
        recorded.status.success(),
        "{}",
        String::from_utf8_lossy(&recorded.stderr)
    );
    let script = Command::new("perf")
        .args(["script", "-F", "tid,event,trace", "-i"])
        .arg(&data)
        .output()?;
    let text = String::from_utf8_lossy(&script.stdout);
    if String::from_utf8_lossy(&script.stderr).contains("LOST") || text.contains("LOST") {
        return Ok(Completion::ignored_with("perf itself lost events"));
    }
    // By thread: all returns, those for MMIO, and those by a signal.
    let mut perf: BTreeMap<u32, (u64, u64, u64)> = BTreeMap::new();
    for line in text
        .lines()
        .filter(|line| line.contains("kvm:kvm_userspace_exit"))
    {
        let tid = line
            .split_whitespace()
            .next()
            .and_then(|tid| tid.parse().ok());
        let counts = perf
            .entry(tid.ok_or_else(|| format!("no thread: {line}"))?)
            .or_default();
        counts.0 += 1;
        counts.1 += u64::from(line.contains("KVM_EXIT_MMIO"));
        counts.2 += u64::from(line.contains("KVM_EXIT_INTR"));
    }
    let ours = gracefault::trace::TraceFile::open(&file)?;
    assert_eq!(ours.lost(), 0);
    let mut compared = 0;
    for thread in ours.threads.iter().filter(|thread| thread.vcpu.is_some()) {
        let exits = thread.events.iter().filter_map(|event| match event {
            Event::Exit(exit) => Some(exit),
            _ => None,
        });
        let exits: Vec<_> = exits.collect();
        let mmio = |kind| matches!(kind, ExitKind::MmioRead | ExitKind::MmioWrite);
        let mmio = exits.iter().filter(|exit| mmio(exit.kind)).count() as u64;
        let signals = exits
            .iter()
            .filter(|exit| exit.kind == ExitKind::Interrupted);
        let signals = signals.count() as u64;
        let (all, by_mmio, by_signal) = perf.get(&thread.tid).copied().unwrap_or_default();
        assert_eq!(mmio, by_mmio, "MMIO exits of {}", thread.name);
        // A signal may come as an error, which the tracepoint names otherwise.
        assert_eq!(
            exits.len() as u64 - signals,
            all - by_signal,
            "exits of {}",
            thread.name
        );
        compared += mmio;
    }
    assert!(compared > 100, "{compared} exits");
    Ok(Completion::Completed)
}
