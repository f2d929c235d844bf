//! A storm at the socket: what is documented holds for it too, without KVM.
use libtest_mimic::Trial;
use serde_json::json;

use crate::contract::{Operation, ask, contract, put};
use crate::stand_in::until;
use crate::steered::Steered;
use crate::support::{Outcome, kvm_test};

pub(crate) fn trials() -> Vec<Trial> {
    let without = || Ok(without_kvm().map_err(|e| e.to_string())?);
    vec![
        Trial::test("storm::without_kvm", without),
        kvm_test("storm::with_kvm", with_kvm),
    ]
}

/// Bodies of requests that a VM of another kind would carry out.
const STEERING: [(&str, &str); 7] = [
    ("/vm.pause", ""),
    ("/vm.resume", ""),
    ("/vm.resize", r#"{"requested": 0}"#),
    ("/vm.plug", r#"{"size": 4096}"#),
    ("/vm.unplug", r#"{"id": "x"}"#),
    ("/vm.trace-start", ""),
    ("/vm.trace-stop", ""),
];

fn without_kvm() -> Outcome {
    let vm = Steered::start("stress --no-kvm --json --duration 300s --regions 64 --vcpus 9");
    for _ in 0..20 {
        for Operation { path, method, .. } in contract().operations() {
            if method == "GET" {
                let answer = ask(vm.socket(), "GET", &path, b"");
                assert!(
                    matches!(answer.status, 200 | 409),
                    "{path}: {}",
                    answer.status
                );
            }
        }
    }
    for (path, body) in STEERING {
        let answer = ask(vm.socket(), "PUT", path, body.as_bytes());
        assert_eq!(answer.status, 409, "{path}");
        assert_eq!(answer.json()["code"], "not_supported", "{path}");
    }
    let info = vm.get("/vm.info");
    assert_eq!(
        (&info["kind"], &info["state"]),
        (&json!("stress"), &json!("running"))
    );
    // Nobody can miss it for long: readers wait for writers, and it is seen.
    until("sections are seen", || {
        let sections = vm.client.sections().unwrap();
        sections.published > 0 && !sections.last.is_empty()
    });
    until("somebody is seen waiting", || {
        let waits = vm.client.waits().unwrap();
        let writer = |name: &str| name.starts_with("writer");
        waits
            .iter()
            .any(|wait| wait.writer.as_ref().is_some_and(|w| writer(&w.name)))
    });
    // Pages of the map are all of it, as far as it stays.
    let all = vm.client.map()?;
    let part = vm.get("/vm.map?limit=3&from=4294967296");
    assert_eq!(part.as_array().expect("VMAs").len(), 3);
    assert!(
        all.windows(2)
            .all(|two| two[0].start + two[0].size <= two[1].start)
    );
    let before = vm.count("stress", "lookups");
    until("it goes on", || vm.count("stress", "lookups") > before);
    let ended = vm.shut_down();
    let report = ended.expect_status(0).json();
    assert_eq!(report["verdict"], "stopped", "{ended}");
    Ok(())
}

fn with_kvm() -> Outcome {
    let vm = Steered::start("stress --json --duration 300s");
    for _ in 0..5 {
        for Operation { path, method, .. } in contract().operations() {
            if method == "GET" {
                ask(vm.socket(), "GET", &path, b"");
            }
        }
    }
    // Its writers are the only ones that plug and unplug; but it rests if it is asked to.
    put(vm.socket(), "/vm.plug", json!({"size": 2 << 20}), 409);
    for _ in 0..3 {
        put(vm.socket(), "/vm.pause", json!({}), 204);
        assert_eq!(vm.get("/vm.info")["state"], "paused");
        put(vm.socket(), "/vm.resume", json!({}), 204);
        let before = vm.count("stress", "operations");
        until("it goes on", || {
            vm.count("stress", "operations") > before + 10
        });
    }
    let ended = vm.shut_down();
    let report = ended.expect_status(0).json();
    assert_eq!(report["verdict"], "stopped", "{ended}");
    Ok(())
}
