//! Memory that comes and goes by the socket, hundreds of times, while the guest verifies
//! what it has and clients that mean no good are there too. At the end all is released.
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gracefault::api::model::{PlugRequest, ResizeRequest, ResizeState, UnplugRequest};
use libtest_mimic::Trial;

use crate::clients::stalling;
use crate::command::HANG;
use crate::contract::ask;
use crate::http::{connect, request, send_raw};
use crate::stand_in::until;
use crate::steered::{Steered, passed};
use crate::support::{Outcome, kvm_test};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test("cycles::plug_unplug_and_resize_200_times", two_hundred),
        kvm_test("cycles::600_add_and_remove_cycles", six_hundred),
        kvm_test("cycles::several_clients_at_once", several_clients),
    ]
}

const LONG: Option<u64> = Some(HANG.as_millis() as u64);

/// What the process has that blocks take: mappings of the memfd that guest RAM is from,
/// and descriptors.
fn held(pid: u32) -> (usize, usize) {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let of_ram = maps.lines().filter(|line| line.contains("memfd:"));
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    (of_ram.count(), fds)
}

/// Whatever there was besides boot RAM and devices is gone.
#[track_caller]
fn assert_released(vm: &Steered, before: (usize, usize)) {
    let info = vm.client.info().unwrap();
    let map = vm.client.map().unwrap();
    let blocks: Vec<_> = map
        .iter()
        .filter(|vma| vma.start >= info.memory.start)
        .collect();
    assert!(blocks.is_empty(), "{blocks:?}");
    assert_eq!(info.memory.plugged, 0);
    until("mappings and descriptors are given back", || {
        let (maps, fds) = held(info.pid);
        maps <= before.0 && fds <= before.1
    });
    let counters = vm.client.counters().unwrap();
    assert_eq!(counters["guest"]["mismatches"], 0);
}

fn two_hundred() -> Outcome {
    let vm = Steered::quiet("--memory backing=memfd,block=64K,hotplug_size=1M");
    let info = vm.client.info()?;
    let (client, block) = (&vm.client, info.memory.block_size);
    let before = held(info.pid);
    assert!(before.0 > 0, "boot RAM is from a memfd");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _ends = Sets(&over);
        scope.spawn(|| nuisance(&vm, &over));
        let resize = |requested| {
            let status = client.resize(&ResizeRequest {
                requested,
                wait_ms: LONG,
                patience_ms: LONG,
                ..Default::default()
            });
            let status = status.unwrap_or_else(|error| panic!("to {requested}: {error}"));
            let reached = (status.state, status.plugged, status.requested);
            assert_eq!(
                reached,
                (ResizeState::Done, requested, requested),
                "{status:?}"
            );
        };
        let mut random = fastrand::Rng::with_seed(1);
        let mut verified = 0;
        for round in 0..200 {
            let id = Some(format!("round-{round}"));
            // Of 16 blocks 4 at most are plugged by now, so there is a gap for 2.
            let plugged = client.plug(&PlugRequest {
                size: random.u64(1..=2) * block,
                id: id.clone(),
                ..Default::default()
            });
            let plugged = plugged.unwrap_or_else(|error| panic!("round {round}: {error}"));
            resize(random.u64(6..=10) * block);
            let unplugged = client.unplug(&UnplugRequest {
                id,
                deadline_ms: LONG,
                ..Default::default()
            });
            let unplugged = unplugged.unwrap_or_else(|error| panic!("round {round}: {error}"));
            assert_eq!(unplugged.range, plugged.range);
            resize(random.u64(0..=4) * block);
            let now = vm.count("guest", "bytes_verified");
            assert!(now >= verified);
            verified = now;
        }
        resize(0);
    });
    vm.verifies();
    assert_released(&vm, before);
    let report = passed(&vm.shut_down());
    assert!(
        report["guest"]["blocks_taken"].as_u64() > Some(200),
        "{report}"
    );
    Ok(())
}

/// Sets a flag when it is dropped, so also by a test that fails.
struct Sets<'a>(&'a AtomicBool);

impl Drop for Sets<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Clients that stall, flood, send garbage and vanish.
fn nuisance(vm: &Steered, over: &AtomicBool) {
    let socket = vm.socket();
    let mut random = fastrand::Rng::with_seed(2);
    let mut stalled = Vec::new();
    while !over.load(Ordering::Relaxed) {
        stalled = stalling(socket, 20)
            .into_iter()
            .chain(stalled)
            .take(100)
            .collect();
        for _ in 0..4 {
            let garbage: Vec<u8> = (0..random.usize(0..300)).map(|_| random.u8(..)).collect();
            let _ = connect(socket).write_all(&garbage);
            let _ = send_raw(socket, &request("GET", "/vm.live", b""));
            let bad = br#"{"start": 1, "size": 1, "forced": true}"#;
            assert_eq!(ask(socket, "PUT", "/vm.unplug", bad).status, 400);
            // One that waits for what never comes, and goes.
            let body = br#"{"requested": 1, "wait_ms": 600000}"#;
            let _ = connect(socket).write_all(&request("PUT", "/vm.resize", body));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Another VMM hung in such a loop for ever.
fn six_hundred() -> Outcome {
    let vm = Steered::quiet("--memory backing=memfd,block=16K,hotplug_size=1M");
    let info = vm.client.info()?;
    let (client, block) = (&vm.client, info.memory.block_size);
    let before = held(info.pid);
    for cycle in 0..600 {
        let id = Some("again".to_owned());
        let plugged = client.plug(&PlugRequest {
            size: (1 + cycle % 4) * block,
            id: id.clone(),
            ..Default::default()
        });
        plugged.unwrap_or_else(|error| panic!("cycle {cycle}: {error}"));
        let unplugged = client.unplug(&UnplugRequest {
            id,
            deadline_ms: LONG,
            ..Default::default()
        });
        unplugged.unwrap_or_else(|error| panic!("cycle {cycle}: {error}"));
    }
    vm.verifies();
    assert_released(&vm, before);
    passed(&vm.shut_down());
    Ok(())
}

/// Each with blocks of its own; none is kept from them by another.
fn several_clients() -> Outcome {
    let vm = Steered::quiet("--memory backing=memfd,block=64K,hotplug_size=4M");
    let info = vm.client.info()?;
    let before = held(info.pid);
    std::thread::scope(|scope| {
        for n in 0..6_u64 {
            let (socket, block) = (vm.socket(), info.memory.block_size);
            let start = info.memory.start + 8 * n * block;
            scope.spawn(move || {
                let client = gracefault::api::Client::new(socket)
                    .unwrap()
                    .with_patience(HANG);
                for cycle in 0..40 {
                    let size = (1 + cycle % 8) * block;
                    client
                        .plug(&PlugRequest {
                            start: Some(start),
                            size,
                            id: None,
                        })
                        .unwrap();
                    let unplugged = client.unplug(&UnplugRequest {
                        start: Some(start),
                        size: Some(size),
                        deadline_ms: LONG,
                        ..Default::default()
                    });
                    assert_eq!(unplugged.unwrap().range.size, size);
                }
            });
        }
    });
    assert_released(&vm, before);
    let map: BTreeMap<_, _> = vm
        .client
        .map()?
        .into_iter()
        .map(|vma| (vma.start, vma.name))
        .collect();
    assert_eq!(map.len(), 5, "{map:?}");
    passed(&vm.shut_down());
    Ok(())
}
