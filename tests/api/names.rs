//! What is plugged by name: whose a name is, and what goes with it.
use std::sync::Barrier;

use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::contract::{ask, put};
use crate::steered::{Steered, passed};
use crate::support::{Outcome, kvm_test};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test("names::go_with_their_blocks", go),
        kvm_test("names::of_what_is_not_whole", not_whole),
        kvm_test("names::are_given_once", once),
        kvm_test("names::of_a_plug_that_failed_are_free", failed),
    ]
}

const LONG: u64 = 240_000;

fn says(failure: &Value, word: &str) {
    let error = failure["error"].as_str().unwrap_or_default();
    assert!(error.contains(word), "no '{word}' in {failure}");
}

/// A block that came again by a resize is not called as the one before, also if nobody
/// has looked while it was gone.
fn go() -> Outcome {
    let vm = Steered::quiet("");
    let block = vm.client.info()?.memory.block_size;
    let plug = json!({"size": block, "id": "dimm"});
    put(vm.socket(), "/vm.plug", plug, 200);
    for requested in [0, block] {
        let resize = json!({"requested": requested, "wait_ms": LONG, "patience_ms": LONG});
        put(vm.socket(), "/vm.resize", resize, 200);
    }
    let failure = put(vm.socket(), "/vm.unplug", json!({"id": "dimm"}), 404);
    says(&failure, "called dimm");
    let map = vm.client.map()?;
    assert!(map.iter().all(|vma| vma.id.is_none()), "{map:?}");
    assert_eq!(vm.client.info()?.memory.plugged, block);
    passed(&vm.shut_down());
    Ok(())
}

/// Somebody took a block out of the middle: what is left is no range, so none is reported.
fn not_whole() -> Outcome {
    let vm = Steered::quiet("");
    let memory = vm.client.info()?.memory;
    let block = memory.block_size;
    let plugged = put(
        vm.socket(),
        "/vm.plug",
        json!({"size": 3 * block, "id": "x"}),
        200,
    );
    let start = plugged["range"]["start"].as_u64().expect("an address");
    let unplug = |start, status| {
        let body = json!({"start": start, "size": block, "deadline_ms": LONG});
        put(vm.socket(), "/vm.unplug", body, status)
    };
    unplug(start + block, 200);
    let failure = put(vm.socket(), "/vm.unplug", json!({"id": "x"}), 409);
    says(&failure, "2 of its 3 blocks");
    says(&failure, "by range");
    // A block of another in the gap changes nothing.
    let other = json!({"start": start + block, "size": block, "id": "y"});
    put(vm.socket(), "/vm.plug", other, 200);
    put(vm.socket(), "/vm.unplug", json!({"id": "x"}), 409);
    assert_eq!(vm.client.info()?.memory.plugged, 3 * block);
    // The name is taken until the last of them is gone.
    let again = json!({"size": block, "id": "x"});
    unplug(start, 200);
    put(vm.socket(), "/vm.plug", again.clone(), 409);
    unplug(start + 2 * block, 200);
    put(vm.socket(), "/vm.unplug", json!({"id": "x"}), 404);
    put(vm.socket(), "/vm.plug", again, 200);
    let all = json!({"id": "x", "deadline_ms": LONG});
    let range = &put(vm.socket(), "/vm.unplug", all, 200)["range"];
    assert_eq!(range["size"], json!(block));
    passed(&vm.shut_down());
    Ok(())
}

/// Of several who plug at once by the same name one has it.
fn once() -> Outcome {
    const CLIENTS: usize = 4;
    let vm = Steered::quiet("");
    let block = vm.client.info()?.memory.block_size;
    for round in 0..30 {
        let body = json!({"size": block, "id": "one"}).to_string();
        let at_once = Barrier::new(CLIENTS);
        let statuses: Vec<u16> = std::thread::scope(|scope| {
            let plug = || {
                at_once.wait();
                ask(vm.socket(), "PUT", "/vm.plug", body.as_bytes()).status
            };
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(plug)).collect();
            let status = clients.into_iter().map(|client| client.join());
            status.map(|status| status.expect("an answer")).collect()
        });
        let had = |wanted| statuses.iter().filter(|status| **status == wanted).count();
        assert_eq!(
            (had(200), had(409)),
            (1, CLIENTS - 1),
            "round {round}: {statuses:?}"
        );
        let unplug = json!({"id": "one", "deadline_ms": LONG});
        put(vm.socket(), "/vm.unplug", unplug, 200);
        assert_eq!(vm.client.info()?.memory.plugged, 0, "round {round}");
    }
    passed(&vm.shut_down());
    Ok(())
}

fn failed() -> Outcome {
    let vm = Steered::quiet("");
    let memory = vm.client.info()?.memory;
    let (start, block) = (memory.start, memory.block_size);
    let plug = |body: Value, status| put(vm.socket(), "/vm.plug", body, status);
    plug(json!({"start": start, "size": block}), 200);
    let there = json!({"start": start, "size": block, "id": "x"});
    says(&plug(there, 409), "is plugged");
    let much = json!({"size": memory.total, "id": "x"});
    says(&plug(much, 409), "no room");
    put(vm.socket(), "/vm.unplug", json!({"id": "x"}), 404);
    plug(json!({"size": block, "id": "x"}), 200);
    passed(&vm.shut_down());
    Ok(())
}
