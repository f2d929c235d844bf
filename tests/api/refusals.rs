//! What a VM that runs refuses, with a reason, and nothing has changed. And that it
//! answers all else as documented, in each state.
use gracefault::api::model::PlugRequest;
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::contract::{Operation, ask, contract, put};
use crate::steered::{Steered, passed};
use crate::support::{Outcome, kvm_test};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test("refusals::change_nothing", change_nothing),
        kvm_test("refusals::of_a_resize_beside_a_churn", beside_a_churn),
        kvm_test("refusals::answers_in_each_state", each_state),
        kvm_test("refusals::lazy_and_shared_memory_too", other_memory),
    ]
}

/// All that a refused request must leave as it was.
fn state(vm: &Steered) -> Value {
    let map = vm.client.map().unwrap().into_iter();
    let map: Vec<_> = map
        .map(|vma| (vma.start, vma.size, vma.section, vma.slot, vma.id))
        .collect();
    let info = vm.get("/vm.info");
    json!([map, info["state"], info["memory"], info["tracing"]])
}

fn change_nothing() -> Outcome {
    let vm = Steered::quiet("--memory hotplug_size=16M");
    let memory = vm.client.info()?.memory;
    let (start, block, end) = (memory.start, memory.block_size, memory.start + memory.total);
    vm.client.plug(&PlugRequest {
        start: Some(start + block),
        size: 2 * block,
        id: Some("there".to_owned()),
    })?;
    let before = state(&vm);
    let refused = |path: &str, status: u16, body: Value, word: &str| {
        let failure = put(vm.socket(), path, body.clone(), status);
        let error = failure["error"].as_str().unwrap();
        assert!(
            error.contains(word),
            "{path} {body}: no '{word}' in {error}"
        );
        assert_eq!(state(&vm), before, "{path} {body}");
    };
    for (status, body, word) in [
        (
            400,
            json!({"start": start, "size": block + 1}),
            "whole blocks",
        ),
        (
            400,
            json!({"start": start + 4096, "size": block}),
            "whole blocks",
        ),
        (
            400,
            json!({"start": start - block, "size": block}),
            "no range",
        ),
        (
            400,
            json!({"start": end - block, "size": 2 * block}),
            "no range",
        ),
        (
            400,
            json!({"start": u64::MAX, "size": u64::MAX}),
            "no range",
        ),
        (400, json!({"start": 0, "size": block}), "no range"),
        (400, json!({"size": memory.total + block}), "no range"),
        (
            409,
            json!({"start": start + block, "size": block}),
            "is plugged",
        ),
        (
            409,
            json!({"start": start, "size": 2 * block}),
            "is plugged",
        ),
        (
            409,
            json!({"size": memory.total - 2 * block}),
            "no room for 6 blocks",
        ),
        (409, json!({"size": block, "id": "there"}), "there already"),
    ] {
        refused("/vm.plug", status, body, word);
    }
    for (status, body, word) in [
        (404, json!({"id": "nobody"}), "nothing that is plugged"),
        (409, json!({"start": start, "size": block}), "not plugged"),
        (
            409,
            json!({"start": start, "size": 3 * block}),
            "not plugged",
        ),
        (
            409,
            json!({"start": start + 2 * block, "size": 2 * block}),
            "not plugged",
        ),
        (400, json!({"start": start + 1, "size": block}), "no range"),
        (400, json!({"start": end, "size": block}), "no range"),
    ] {
        refused("/vm.unplug", status, body, word);
    }
    for (body, word) in [
        (
            json!({"requested": block + 1}),
            "multiple of the block size",
        ),
        (
            json!({"requested": memory.total + block}),
            "multiple of the block size",
        ),
        (json!({"requested": u64::MAX}), "multiple of the block size"),
    ] {
        refused("/vm.resize", 400, body, word);
    }
    refused(
        "/vm.trace-start",
        400,
        json!({"events": "nonsense"}),
        "mmio_read",
    );
    refused("/vm.trace-start", 400, json!({"size": 1}), "choose from");
    // A name is free again with what it was given to.
    put(
        vm.socket(),
        "/vm.unplug",
        json!({"id": "there", "deadline_ms": 240_000}),
        200,
    );
    put(vm.socket(), "/vm.unplug", json!({"id": "there"}), 404);
    put(
        vm.socket(),
        "/vm.plug",
        json!({"size": block, "id": "there"}),
        200,
    );
    passed(&vm.shut_down());
    Ok(())
}

fn beside_a_churn() -> Outcome {
    let vm = Steered::start("run --json");
    let failure = put(vm.socket(), "/vm.resize", json!({"requested": 0}), 409);
    assert!(
        failure["error"].as_str().unwrap().contains("--no-churn"),
        "{failure}"
    );
    passed(&vm.shut_down());
    Ok(())
}

/// Each `GET` there is, while it runs, rests, is traced and has memory plugged.
fn each_state() -> Outcome {
    let vm = Steered::start("run --json --cpus 3");
    let all = || {
        for Operation { path, method, .. } in contract().operations() {
            if method == "GET" {
                ask(vm.socket(), "GET", &path, b"");
            }
        }
    };
    for _ in 0..5 {
        all();
        put(vm.socket(), "/vm.trace-start", json!({}), 200);
        all();
        put(vm.socket(), "/vm.pause", json!({}), 204);
        all();
        put(vm.socket(), "/vm.trace-stop", json!({}), 200);
        put(vm.socket(), "/vm.resume", json!({}), 204);
    }
    passed(&vm.shut_down());
    Ok(())
}

fn other_memory() -> Outcome {
    for memory in ["lazy=on", "backing=memfd", "backing=memfd,lazy=on"] {
        let vm = Steered::quiet(&format!("--memory {memory},block=64K,hotplug_size=1M"));
        let client = &vm.client;
        for _ in 0..10 {
            for size in [5, 16, 0, 7, 2, 0] {
                let body = json!({
                    "requested": size << 16, "wait_ms": 240_000, "patience_ms": 240_000
                });
                let status = put(vm.socket(), "/vm.resize", body, 200);
                assert_eq!(
                    (&status["state"], &status["plugged"]),
                    (&json!("done"), &json!(size << 16))
                );
            }
            let plug = json!({"size": 3 << 16, "id": "x"});
            put(vm.socket(), "/vm.plug", plug, 200);
            let map = client.map()?;
            let mine = map.iter().filter(|vma| vma.id.as_deref() == Some("x"));
            assert_eq!(mine.count(), 3, "{map:?}");
            put(
                vm.socket(),
                "/vm.unplug",
                json!({"id": "x", "deadline_ms": 240_000}),
                200,
            );
        }
        vm.verifies();
        passed(&vm.shut_down());
    }
    Ok(())
}
