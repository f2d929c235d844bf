//! A trace with too little room keeps what it was asked to, and counts the rest
//! everywhere a count is shown.
use libtest_mimic::Trial;

use crate::recorded::{Recorded, trace};
use crate::support::{Outcome, kvm_test};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test("room::the_beginning", || too_little("drop")),
        kvm_test("room::the_end", || too_little("overwrite")),
    ]
}

fn too_little(on_full: &str) -> Outcome {
    let record = format!(" --size 256K --on-full {on_full}");
    // As long as it takes on this machine until it is too little.
    let mut seconds = 2;
    let recorded = loop {
        let options = format!("--workload mmio --duration {seconds}s");
        let recorded = Recorded::new(&record, &options);
        if recorded.trace.lost() > 0 || seconds > 40 {
            break recorded;
        }
        seconds *= 3;
    };
    let rows = recorded.report["exits_by_target"]
        .as_array()
        .ok_or("rows")?;
    let made: u64 = rows.iter().filter_map(|row| row["count"].as_u64()).sum();
    let exits: Vec<_> = (0..2).flat_map(|vcpu| recorded.exits(vcpu)).collect();
    let lost = recorded.trace.lost();
    assert!(lost > 0, "{made} exits fit into 256 KiB");
    let size = recorded.path().metadata()?.len();
    assert!(size < (256 << 10) + (64 << 10), "{size} bytes");
    // All that is there, and all that is said to be lost, is all there was: of vCPUs
    // exactly, if no section was lost.
    let vcpus = recorded
        .trace
        .threads
        .iter()
        .filter(|thread| thread.vcpu.is_some());
    let lost_exits: u64 = vcpus.map(|thread| thread.lost).sum();
    assert_eq!(exits.len() as u64 + lost_exits, made);
    // How much of the run fits differs from machine to machine; which part does not.
    let ends = exits.iter().map(|exit| exit.end);
    let ends = ends.map(|end| recorded.trace.time.since_start(end) as f64 / 1e9);
    let (first, last) = ends.fold((f64::MAX, 0.0_f64), |(first, last), end| {
        (first.min(end), last.max(end))
    });
    let seconds = recorded.report["seconds"].as_f64().ok_or("seconds")?;
    match on_full {
        "drop" => assert!(first < seconds / 2.0, "from {first} s of {seconds} s"),
        _ => assert!(last > seconds / 2.0, "to {last} s of {seconds} s"),
    }
    for view in ["vmexit", "wait", "hotplug"] {
        let table = trace(&format!("report --event {view}"), &recorded.path());
        table.expect_status(0);
        assert!(
            table
                .stdout
                .contains(&format!("{lost} events that were lost")),
            "{table}"
        );
        assert!(table.stderr.contains("events were lost"), "{table}");
        let json = trace(&format!("report --json --event {view}"), &recorded.path()).json();
        assert_eq!(json["missing"]["lost"], lost);
    }
    let metrics = trace("export --format openmetrics", &recorded.path());
    let counted = metrics
        .stdout
        .lines()
        .filter(|line| line.starts_with("gracefault_events_lost_total"));
    let counted = counted.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    assert_eq!(counted.sum::<u64>(), lost);
    Ok(())
}
