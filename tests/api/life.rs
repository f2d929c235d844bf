//! From the socket's first moment to its end: pause, resume, signals, the socket itself.
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::time::Instant;

use gracefault::api::model::{
    Doing, ErrorCode, PlugRequest, ResizeRequest, ResizeState, UnplugRequest, VmState,
};
use gracefault::api::{Client, ClientError};
use libtest_mimic::Trial;
use serde_json::json;

use crate::command::{HANG, Running, gracefault};
use crate::contract::put;
use crate::stand_in::until;
use crate::steered::{SOON, Steered, passed};
use crate::support::{Outcome, kvm_test};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test("life::pause_and_resume", pause_and_resume),
        kvm_test("life::a_pause_beside_a_churn", pause_beside_churn),
        kvm_test("life::shutdown_of_a_paused_vm", shutdown_while_paused),
        kvm_test("life::signals", signals),
        kvm_test("life::the_socket", the_socket),
        kvm_test("life::a_guest_that_ends_by_itself", ends_by_itself),
        kvm_test("life::a_duration", duration),
    ]
}

/// Every vCPU is out of the guest, and stays out.
#[track_caller]
fn assert_rests(vm: &Steered) {
    assert_eq!(vm.client.info().unwrap().state, VmState::Paused);
    let vcpus = vm.client.vcpus().unwrap();
    assert!(
        vcpus.iter().all(|vcpu| vcpu.doing == Doing::Paused),
        "{vcpus:?}"
    );
    let held: Vec<_> = vm
        .client
        .map()
        .unwrap()
        .into_iter()
        .flat_map(|vma| vma.holders)
        .collect();
    assert!(
        held.iter().all(|hold| !hold.thread.starts_with("vcpu")),
        "{held:?}"
    );
    let exits = || vm.client.exits(None).unwrap().all.count;
    let (before, rounds) = (exits(), vm.count("guest", "bytes_verified"));
    std::thread::sleep(SOON);
    assert_eq!(
        (exits(), vm.count("guest", "bytes_verified")),
        (before, rounds)
    );
}

fn pause_and_resume() -> Outcome {
    let vm = Steered::quiet("--cpus 3");
    let (client, block) = (&vm.client, vm.client.info()?.memory.block_size);
    for _ in 0..5 {
        client.pause()?;
        assert_rests(&vm);
        // Again is as good.
        client.pause()?;
        client.resume()?;
        client.resume()?;
        assert_eq!(client.info()?.state, VmState::Running);
        vm.verifies();
    }
    // A guest that has a block rests; it can be given no more, but not give it back.
    let plug = |id: &str| PlugRequest {
        size: 2 * block,
        id: Some(id.to_owned()),
        ..Default::default()
    };
    client.plug(&plug("first"))?;
    until("the guest has it", || {
        vm.count("guest", "blocks_taken") >= 2 * 3
    });
    client.pause()?;
    client.plug(&plug("second"))?;
    let unplug = |forced| UnplugRequest {
        id: Some("first".to_owned()),
        deadline_ms: Some(100),
        forced,
        ..Default::default()
    };
    let error = client.unplug(&unplug(false)).unwrap_err();
    let ClientError::Refused { status, failure } = error else {
        panic!("{error}");
    };
    assert_eq!((status, failure.code), (409, ErrorCode::NotReleased));
    assert_eq!(failure.unreleased.expect("who").vcpus, [0, 1, 2]);
    assert_eq!(client.info()?.memory.plugged, 4 * block, "something went");
    let status = client.resize(&ResizeRequest {
        requested: 6 * block,
        wait_ms: Some(HANG.as_millis() as u64),
        ..Default::default()
    })?;
    assert_eq!(
        (status.state, status.plugged),
        (ResizeState::Done, 6 * block)
    );
    assert_rests(&vm);
    client.resume()?;
    vm.verifies();
    // It keeps what was asked back and not taken.
    let report = client.unplug(&UnplugRequest {
        deadline_ms: Some(HANG.as_millis() as u64),
        ..unplug(false)
    })?;
    assert_eq!((report.blocks, report.range.size), (2, 2 * block));
    vm.verifies();
    passed(&vm.shut_down());
    Ok(())
}

/// The run's own hotplug thread waits for a guest that rests, and the run is none the
/// worse for it.
fn pause_beside_churn() -> Outcome {
    let vm = Steered::start("run --json");
    let client = &vm.client;
    for n in 0..20 {
        client.pause()?;
        if n == 10 {
            std::thread::sleep(10 * SOON);
        }
        assert_rests(&vm);
        client.resume()?;
        let before = vm.count("map", "sections");
        until("it goes on", || vm.count("map", "sections") > before);
    }
    // Blocks of its that somebody else takes.
    let (mut tries, mut taken) = (0, 0);
    let start = Instant::now();
    // For longer where the churn is always first.
    while tries < 200 || (taken == 0 && start.elapsed() < HANG) {
        let map = client.map()?;
        let mut blocks = map.iter().filter(|vma| vma.flags.ends_with('b'));
        let unplug = |vma: &gracefault::api::model::MapEntry| UnplugRequest {
            start: Some(vma.start),
            size: Some(vma.size),
            deadline_ms: Some(1000),
            ..Default::default()
        };
        let done = blocks.next_back().map(|vma| client.unplug(&unplug(vma)));
        taken += u32::from(matches!(done, Some(Ok(_))));
        tries += 1;
    }
    assert!(taken > 0, "none could be taken");
    passed(&vm.shut_down());
    Ok(())
}

fn shutdown_while_paused() -> Outcome {
    let vm = Steered::quiet("");
    vm.client.pause()?;
    passed(&vm.shut_down());
    Ok(())
}

fn signals() -> Outcome {
    for (signal, paused) in [(libc::SIGTERM, false), (libc::SIGINT, true)] {
        let mut vm = Steered::quiet("");
        if paused {
            vm.client.pause()?;
        }
        vm.running().signal(signal);
        let ended = vm.wait();
        let report = ended.expect_status(128 + signal).json();
        assert_eq!(report["verdict"], "stopped", "{ended}");
    }
    Ok(())
}

fn the_socket() -> Outcome {
    let mut vm = Steered::quiet("");
    let there = std::fs::symlink_metadata(vm.socket())?;
    assert!(there.file_type().is_socket());
    assert_eq!(there.mode() & 0o777, 0o600, "others may use it");
    let second = vm.ctl("run");
    second
        .expect_status(2)
        .expect_message(&["another process serves there"]);
    vm.client.ping()?;
    // One that is killed leaves it, and the next takes its place.
    let socket = vm.socket().to_owned();
    vm.running().signal(libc::SIGKILL);
    until("it is dead", || {
        Client::new(&socket).unwrap().ping().is_err()
    });
    assert!(socket.exists());
    let mut command = gracefault(["run", "--json", "--api-socket"]);
    command.arg(&socket);
    let next = Running::start(command);
    let client = Client::new(&socket)?;
    until("it is served", || client.ping().is_ok());
    client.shutdown()?;
    passed(&next.wait());
    assert!(!socket.exists());
    let file = socket.with_file_name("file");
    std::fs::write(&file, "precious")?;
    let mut command = gracefault(["run", "--api-socket"]);
    command.arg(&file);
    let refused = Running::start(command).wait();
    refused.expect_status(2).expect_message(&["no socket"]);
    assert_eq!(std::fs::read_to_string(&file)?, "precious");
    Ok(())
}

fn ends_by_itself() -> Outcome {
    let dir = tempfile::tempdir()?;
    let socket = dir.path().join("socket");
    let mut command = gracefault(["run", "--json", "--workload", "hello", "--no-churn"]);
    command.arg("--api-socket").arg(&socket);
    passed(&Running::start(command).wait());
    assert!(!socket.exists());
    Ok(())
}

/// It holds with a socket too, but for the time of a pause.
fn duration() -> Outcome {
    let vm = Steered::start("run --json --no-churn --duration 2s --timeout 120s");
    put(vm.socket(), "/vm.pause", json!({}), 204);
    std::thread::sleep(15 * SOON);
    assert_eq!(vm.get("/vm.info")["state"], "paused");
    put(vm.socket(), "/vm.resume", json!({}), 204);
    passed(&vm.wait());
    Ok(())
}
