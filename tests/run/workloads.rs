//! Each workload on 1, 2 and 4 vCPUs, with blocks that come and go and without.
use libtest_mimic::Trial;

use crate::command::run;
use crate::report::{assert_passed, exit_count, mmio_exits, number};
use crate::support::{Outcome, kvm_test};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test("workloads::hello_prints_a_line_per_vcpu", hello),
        kvm_test("workloads::mmio", || each("mmio")),
        kvm_test("workloads::memory", || each("memory")),
        kvm_test("workloads::hotplug", || each("hotplug")),
        kvm_test("workloads::a_single_block", a_single_block),
        kvm_test("workloads::lazy_blocks", lazy_blocks),
        kvm_test("workloads::no_block_at_all", no_block_at_all),
        kvm_test("workloads::more_than_3_gib", more_than_3_gib),
        kvm_test("workloads::more_than_the_host_has", more_than_the_host_has),
    ]
}

fn hello() -> Outcome {
    for vcpus in [1, 2, 4] {
        for churn in ["", " --no-churn"] {
            let ended = run(&format!(
                "run --json --workload hello --cpus {vcpus}{churn}"
            ));
            assert_passed(&ended.expect_status(0).json(), vcpus);
            // Stdout has the object alone, so the console is on stderr.
            let mut lines: Vec<_> = ended.stderr.lines().collect();
            lines.sort_unstable();
            let expected: Vec<_> = (0..vcpus)
                .map(|vcpu| format!("hello from vCPU {vcpu} of {vcpus}"))
                .collect();
            assert_eq!(lines, expected, "{ended}");
        }
    }
    let ended = run("run --workload hello --cpus 1");
    let first = ended.expect_status(0).stdout.lines().next();
    assert_eq!(first, Some("hello from vCPU 0 of 1"));
    Ok(())
}

fn each(workload: &str) -> Outcome {
    for vcpus in [1, 2, 4] {
        for churn in ["", " --no-churn"] {
            let ended = run(&format!(
                "run --json --duration 300ms --timeout 120s --workload {workload} --cpus {vcpus}{churn}"
            ));
            let report = ended.expect_status(0).json();
            assert_passed(&report, vcpus);
            assert_eq!(ended.stderr, "", "{ended}");
            assert_eq!(report["workload"], workload);
            assert!(number(&report, "/guest/rounds") > 0, "{ended}");
            assert!(
                mmio_exits(&report) > 0 && exit_count(&report) > 0,
                "{ended}"
            );
            let verified = number(&report, "/guest/bytes_verified");
            assert_eq!(verified > 0, workload != "mmio", "{ended}");
            let test = number(&report, "/vcpus/0/device_accesses/test");
            assert_eq!(test > 0, workload != "memory", "{ended}");
            if churn.is_empty() {
                assert!(number(&report, "/hotplug/plug/total/count") > 0, "{ended}");
            } else {
                assert!(report["hotplug"].is_null(), "{ended}");
                assert_eq!(number(&report, "/guest/blocks_taken"), 0);
            }
        }
    }
    Ok(())
}

/// The smallest region: every choice is of the same block.
fn a_single_block() -> Outcome {
    for block in ["4K", "2M"] {
        let ended = run(&format!(
            "run --json --duration 500ms --timeout 120s --memory hotplug_size={block},block={block}"
        ));
        let report = ended.expect_status(0).json();
        assert_passed(&report, 2);
        assert!(number(&report, "/hotplug/plug/total/count") > 0, "{ended}");
    }
    Ok(())
}

/// Each block's slot goes in when the guest first misses it, and all counts agree
/// as ever; memory goes back whole.
fn lazy_blocks() -> Outcome {
    for memory in ["hotplug_size=512K,block=4K", "hotplug_size=64M,block=2M"] {
        let memory = format!("{memory},lazy=on");
        let ended = run(&format!(
            "run --json --duration 1s --timeout 120s --memory {memory}"
        ));
        let report = ended.expect_status(0).json();
        assert_eq!(ended.stderr, "", "{ended}");
        assert_passed(&report, 2);
        assert_eq!(report["memory"]["lazy"], true);
        let plugs = number(&report, "/hotplug/plug/total/count");
        let slots = number(&report, "/lazy_slots");
        assert!(slots > 0 && slots <= plugs, "{slots} of {plugs}: {ended}");
        assert_eq!(number(&report, "/hotplug/unmap_errors"), 0);
    }
    let eager = run("run --json --duration 200ms --timeout 60s")
        .expect_status(0)
        .json();
    assert_eq!(number(&eager, "/lazy_slots"), 0);
    Ok(())
}

/// With nothing to plug, nothing is plugged, and all else is as ever.
fn no_block_at_all() -> Outcome {
    for churn in ["", " --no-churn"] {
        let ended = run(&format!(
            "run --json --duration 200ms --timeout 60s --memory hotplug_size=0{churn}"
        ));
        let report = ended.expect_status(0).json();
        assert_passed(&report, 2);
        assert!(number(&report, "/guest/rounds") > 0, "{ended}");
        if churn.is_empty() {
            assert_eq!(number(&report, "/hotplug/plug/total/count"), 0);
        }
    }
    Ok(())
}

/// Boot RAM on both sides of the devices; no page of it is touched, so a small
/// host has room, unless it forbids to promise more than it has.
fn more_than_3_gib() -> Outcome {
    let ended = run("run --json --workload hello --no-churn --memory size=3076M");
    let refused = ended.stderr.contains("more than this host can give");
    if !(ended.status.code() == Some(2) && refused) {
        assert_passed(&ended.expect_status(0).json(), 2);
    }
    Ok(())
}

/// A file's pages go back to it when memory is short, so there may be more of them
/// than the host has memory; unless the file is itself in memory.
fn more_than_the_host_has() -> Outcome {
    let meminfo = std::fs::read_to_string("/proc/meminfo")?;
    let total = meminfo.split_whitespace().nth(1).ok_or("MemTotal")?;
    let size = total.parse::<u64>()? + (1 << 20);
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("ram");
    let ended = run(&format!(
        "run --json --workload hello --no-churn --memory size={size}K,backing=file:{}",
        file.display()
    ));
    let mounts = std::fs::read_to_string("/proc/mounts")?;
    let kind_of = |at: &str| {
        let here = mounts
            .lines()
            .rev()
            .find(|line| line.split(' ').nth(1) == Some(at))?;
        here.split(' ').nth(2)
    };
    let mounted = dir.path().ancestors().find_map(|at| kind_of(at.to_str()?));
    let is_in_memory = matches!(mounted, Some("tmpfs" | "ramfs" | "rootfs"));
    let no_room = ended.stderr.contains("its file system has room for");
    let no_memory = is_in_memory && ended.stderr.contains("more than this host can give");
    if !(ended.status.code() == Some(2) && (no_room || no_memory)) {
        assert_passed(&ended.expect_status(0).json(), 2);
    }
    Ok(())
}
