//! The run that a user starts without an argument: it reaches its numbers, all
//! counts agree, and nothing was wrong.
use std::time::Duration;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::command::{Running, gracefault, run};
use crate::report::{assert_passed, mmio_exits, number};
use crate::support::{Outcome, kvm_test};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test("whole::it_reaches_its_numbers", it_reaches_its_numbers),
        kvm_test("whole::tables_show_all_of_it", tables_show_all_of_it),
    ]
}

/// The longest that it is given to reach them: a machine that emulates another
/// takes a hundred times as long for an exit.
const LONGEST: Duration = Duration::from_secs(100);

fn it_reaches_its_numbers() -> Outcome {
    // As a user starts it; on a slow machine, then for longer.
    let mut report = run("--json").expect_status(0).json();
    let mut duration = Duration::from_secs(10);
    while !reached(&report) && duration <= LONGEST {
        let seconds = duration.as_secs();
        let words = format!(
            "--json --duration {seconds}s --timeout {}s",
            seconds * 2 + 30
        );
        report = run(&words).expect_status(0).json();
        duration *= 3;
    }
    assert!(reached(&report), "{report:#}");
    assert_passed(&report, 2);

    // The table of exits has them all, fragments of page-crossing accesses too.
    let rows = report["exits"].as_array().expect("rows");
    let mmio = rows.iter().filter(|row| {
        let key = row["key"].as_str().unwrap_or_default();
        key.ends_with(":R") || key.ends_with(":W")
    });
    let in_table: u64 = mmio.map(|row| number(row, "/count")).sum();
    let fragments: u64 = (0..2)
        .map(|i| number(&report, &format!("/vcpus/{i}/mmio_fragments")))
        .sum();
    assert_eq!(in_table, mmio_exits(&report) + fragments, "{report:#}");
    for row in rows {
        let [p50, p99, max] = ["/p50_ns", "/p99_ns", "/max_ns"].map(|name| number(row, name));
        assert!(0 < p50 && p50 <= p99 && p99 <= max, "{row:#}");
    }

    // What came in went out, and the guest had its share of it.
    let count = |op| number(&report, &format!("/hotplug/{op}/total/count"));
    assert_eq!(
        count("plug"),
        count("unplug") + count("surprise_unplug"),
        "{report:#}"
    );
    let taken = number(&report, "/guest/blocks_taken");
    assert!(taken >= count("unplug") / 2, "{report:#}");
    assert_eq!(taken, number(&report, "/guest/blocks_released"));
    for name in ["rounds", "bytes_verified", "volatile_reads"] {
        assert!(number(&report, &format!("/guest/{name}")) > 0, "{name}");
    }
    assert_eq!(number(&report, "/hotplug/unmap_errors"), 0);
    Ok(())
}

/// At least 10 000 MMIO exits, 100 plugs, 100 unplugs.
fn reached(report: &Value) -> bool {
    let count = |op| number(report, &format!("/hotplug/{op}/total/count"));
    let unplugs = count("unplug") + count("surprise_unplug");
    mmio_exits(report) >= 10_000 && count("plug") >= 100 && unplugs >= 100
}

/// Data on stdout; and nothing on stderr, which is no terminal here.
fn tables_show_all_of_it() -> Outcome {
    let ended = Running::start(gracefault(["--duration", "1s"])).wait();
    ended.expect_status(0);
    assert_eq!(ended.stderr, "", "{ended}");
    for words in [
        "\nExits (",
        "p99",
        ":W ",
        "hotplug",
        "\nLookups\n",
        "waited for a writer",
        "\nHotplug\n",
        "surprise unplug",
        "KVM p50",
        "\nvCPUs: accesses as counted by the guest, the VMM and KVM\n",
        "exited with status 0",
        "The guest verified ",
        "found 0 wrong values.",
        "64 MiB (67108864 bytes)",
        "PASSED: guest, VMM and KVM agree",
    ] {
        assert!(ended.stdout.contains(words), "no '{words}': {ended}");
    }
    Ok(())
}
