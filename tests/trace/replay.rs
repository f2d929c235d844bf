//! A recorded stream, sent again: it goes as it went; and if it does not, that is said.
use libtest_mimic::Trial;
use serde_json::Value;

use crate::command::run;
use crate::recorded::{Recorded, trace};
use crate::support::{Outcome, kvm_test};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test("replay::what_was_just_recorded", what_was_just_recorded),
        kvm_test("replay::a_device_that_lied", a_device_that_lied),
        Trial::test("replay::streams_of_the_built_in_workloads", || {
            Ok(kept_streams()?)
        }),
        Trial::test("replay::in_the_recorded_time", || {
            Ok(in_the_recorded_time()?)
        }),
    ]
}

fn number(report: &Value, key: &str) -> u64 {
    report[key]
        .as_u64()
        .unwrap_or_else(|| panic!("no {key} in {report}"))
}

fn what_was_just_recorded() -> Outcome {
    for options in [
        "--duration 1s --cpus 2",
        "--duration 300ms --workload mmio --cpus 1",
    ] {
        let recorded = Recorded::new("", options);
        let replayed = trace("replay --json", &recorded.path());
        let report = replayed.expect_status(0).json();
        let rows = recorded.report["exits_by_target"]
            .as_array()
            .ok_or("rows")?;
        let accesses = rows
            .iter()
            .filter(|row| !row["target"].as_str().unwrap_or("").is_empty());
        let accesses: u64 = accesses.filter_map(|row| row["count"].as_u64()).sum();
        assert_eq!(number(&report, "exits"), accesses, "{options}");
        assert!(number(&report, "values") > 0);
        assert_eq!(number(&report, "differences"), 0, "{replayed}");
    }
    Ok(())
}

fn a_device_that_lied() -> Outcome {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("run.trace");
    // It lies about one byte, which a guest on a slow machine may not come to at once.
    let caught = [1, 5, 40].into_iter().any(|seconds| {
        let broken = format!("run --json --break mmio-value --timeout 200s --duration {seconds}s");
        let ended = run(&format!("{broken} --trace {}", file.display()));
        ended.status.code() == Some(1)
    });
    assert!(caught, "the guest has read no wrong value");
    let replayed = trace("replay --json", &file);
    let report = replayed.expect_status(1).json();
    let differences = number(&report, "differences");
    assert!(
        differences > 0 && differences < number(&report, "values"),
        "{replayed}"
    );
    assert!(
        report["first"][0]["recorded"]
            .as_str()
            .is_some_and(|text| text.contains("test"))
    );
    Ok(())
}

const KEPT: [&str; 4] = ["hello", "mmio", "memory", "hotplug"];

fn kept(name: &str) -> std::path::PathBuf {
    let tests = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data");
    std::path::Path::new(tests).join(format!("{name}.trace"))
}

/// They are in the repository, so this needs no KVM.
fn kept_streams() -> Outcome {
    for name in KEPT {
        let replayed = trace("replay --json", &kept(name));
        let report = replayed.expect_status(0).json();
        assert!(number(&report, "exits") > 0, "{name}");
        assert_eq!(
            number(&report, "differences") + number(&report, "lost"),
            0,
            "{name}"
        );
        assert_eq!(number(&report, "sections") > 0, name == "hotplug");
        assert_eq!(
            number(&report, "values") > 0,
            matches!(name, "mmio" | "hotplug")
        );
        for view in ["vmexit", "mmio", "ioport", "wait", "hotplug"] {
            trace(&format!("report --event {view}"), &kept(name)).expect_status(0);
        }
    }
    Ok(())
}

fn in_the_recorded_time() -> Outcome {
    let fast = trace("replay --json", &kept("mmio")).json();
    let paced = trace("replay --json --pace recorded", &kept("mmio"));
    let paced = paced.expect_status(0).json();
    let file = gracefault::trace::TraceFile::open(&kept("mmio"))?;
    let at = |event: &gracefault::trace::event::Event| file.time.since_start(event.at());
    let times = || file.events().map(|(_, event)| at(event));
    let span = times().max().ok_or("no event")? - times().min().ok_or("no event")?;
    let took = |report: &Value| report["seconds"].as_f64().expect("seconds");
    // It cannot be faster; how much slower depends on the machine.
    assert!(took(&paced) >= span as f64 / 1e9 * 0.99, "{paced}");
    assert_eq!(number(&fast, "exits"), number(&paced, "exits"));
    Ok(())
}
