//! Storms that find nothing, and what is printed of them.
use std::thread;
use std::time::Duration;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::command::{Running, gracefault, run};
use crate::support::{Outcome, kvm_test};

pub(crate) fn trials() -> Vec<Trial> {
    let trial = |name: &str, test: fn()| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    };
    vec![
        trial("storms::everything_is_exercised", everything),
        trial("storms::every_preset", presets),
        trial("storms::every_strategy", strategies),
        trial("storms::many_threads_and_many_regions", many),
        trial("storms::the_same_seed_decides_the_same", same_seed),
        trial("storms::a_signal_ends_it_with_results", signal),
        trial("storms::the_command_repeats_it", repeats),
        kvm_test("storms::beside_a_guest", guest),
        kvm_test("storms::every_preset_beside_a_guest", guest_presets),
        kvm_test(
            "storms::the_same_seed_decides_the_same_beside_a_guest",
            || {
                same_seed_of("stress --preset churn --vcpus 1 --writers 1 --ops 60 --json");
                Ok(())
            },
        ),
    ]
}

/// The result of a storm in which no rule was broken. On a machine that is busy enough
/// a short one may have missed something: then it is invalid.
#[track_caller]
fn unharmed(words: &str) -> Value {
    let ended = run(&format!("{words} --json"));
    let report = ended.json();
    let verdict = report["verdict"].as_str().unwrap().to_owned();
    assert!(report["violation"].is_null(), "{ended}");
    match verdict.as_str() {
        "passed" => ended.expect_status(0),
        "invalid" => ended
            .expect_status(1)
            .expect_words(&["INVALID", "repeat with"]),
        _ => panic!("{verdict}: {ended}"),
    };
    report
}

fn everything() {
    // A busy machine may need longer to come to all of it.
    let tries = ["3s", "10s", "30s", "100s"].into_iter();
    let report = tries
        .map(|time| unharmed(&format!("stress --no-kvm --duration {time}")))
        .find(|report| report["verdict"] == "passed")
        .expect("in more than two minutes everything is exercised");
    for covered in report["coverage"].as_array().unwrap() {
        let (count, least) = (&covered["count"], &covered["least"]);
        assert!(count.as_u64() >= least.as_u64(), "{covered}");
    }
    assert!(report["lookups"]["wait_ns"]["count"].as_u64() > Some(0));
    assert!(
        report["lingered"].as_object().unwrap().len() > 15,
        "{report:#}"
    );
    assert!(report["machine"].is_null());
}

fn presets() {
    for preset in ["boundary", "same-vma", "churn", "nested", "pins"] {
        let report = unharmed(&format!("stress --no-kvm --preset {preset} --duration 1s"));
        assert_eq!(report["preset"], preset);
        assert!(
            report["operations"]["count"].as_u64() > Some(10),
            "{report:#}"
        );
    }
}

fn strategies() {
    for strategy in ["retry", "pin", "refcount", "rwlock"] {
        for preset in ["smoke", "same-vma"] {
            let words =
                format!("stress --no-kvm --preset {preset} --duration 1s --lookup {strategy}");
            assert_eq!(unharmed(&words)["strategy"], strategy);
        }
    }
}

fn many() {
    let storm = "stress --no-kvm --duration 1s --vcpus 200 --writers 56";
    unharmed(&format!("{storm} --regions 1024"));
    unharmed("stress --no-kvm --preset huge --regions 100000 --duration 1s");
}

#[track_caller]
fn same_seed_of(words: &str) {
    let sequence = |seed: u64| {
        let report = run(&format!("{words} --seed {seed}")).json();
        assert!(report["violation"].is_null(), "{report:#}");
        report["operations"]["sequence"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let first = sequence(3);
    assert_eq!(first, sequence(3));
    assert_ne!(first, sequence(4));
}

fn same_seed() {
    same_seed_of("stress --no-kvm --ops 3000 --writers 1 --json");
    // Each writer has regions of its own, so several decide the same as well.
    same_seed_of("stress --no-kvm --ops 3000 --writers 3 --json");
}

fn signal() {
    let storm = Running::start(gracefault([
        "stress",
        "--no-kvm",
        "--duration",
        "1h",
        "--json",
    ]));
    thread::sleep(Duration::from_millis(500));
    storm.signal(libc::SIGINT);
    let ended = storm.wait();
    ended.expect_status(130);
    assert_eq!(ended.json()["verdict"], "stopped");
}

fn repeats() {
    let words = "stress --preset churn --vcpus 1 --writers 1 --regions 4 --ops 500 --seed 9 \
                 --mix plug=1,unplug=2 --lookup pin --delays off --no-kvm";
    let report = run(&format!("{} --json", words.replace("  ", ""))).json();
    let repeat = report["repeat"].as_str().unwrap().to_owned();
    let again = run(&format!(
        "{} --json",
        repeat.trim_start_matches("gracefault ")
    ))
    .json();
    assert_eq!(
        report["operations"]["sequence"],
        again["operations"]["sequence"]
    );
    assert_eq!(repeat, again["repeat"].as_str().unwrap());
}

fn guest() -> Outcome {
    let report = unharmed("stress --duration 3s");
    let machine = &report["machine"];
    assert_eq!(machine["verdict"], "passed", "{report:#}");
    assert_eq!(machine["guest"]["mismatches"], 0);
    assert!(report["operations"]["by_kind"]["split"].as_u64() > Some(0));
    Ok(())
}

fn guest_presets() -> Outcome {
    for preset in ["same-vma", "churn", "nested"] {
        unharmed(&format!("stress --preset {preset} --duration 1s"));
    }
    unharmed("stress --preset huge --regions 2000 --duration 1s");
    unharmed("stress --lookup refcount --duration 1s");
    Ok(())
}
