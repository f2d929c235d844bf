//! A recording that is started and stopped while the VM runs.
use std::time::Duration;

use gracefault::api::Client;
use gracefault::api::model::{PlugRequest, TraceRequest, TraceState, UnplugRequest};
use gracefault::trace::TraceFile;
use gracefault::trace::event::Event;
use libtest_mimic::Trial;
use serde_json::json;

use crate::command::{Running, gracefault};
use crate::contract::{ask, put};
use crate::stand_in::until;
use crate::steered::{Steered, passed};
use crate::support::{Outcome, kvm_test};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test("recording::started_stopped_and_fetched", fetched),
        kvm_test("recording::belongs_to_who_has_started_it", whose),
        kvm_test("recording::is_bounded", bounded),
    ]
}

fn events(client: &Client) -> u64 {
    client.trace_status().unwrap().events
}

fn fetched() -> Outcome {
    let vm = Steered::quiet("");
    let (client, dir) = (&vm.client, tempfile::tempdir()?);
    let block = client.info()?.memory.block_size;
    for round in 0..3 {
        let started = client.trace_start(&TraceRequest::default())?;
        assert_eq!(started.state, TraceState::Recording);
        assert!(client.info()?.tracing);
        // A write section that it has.
        let plugged = client.plug(&PlugRequest {
            size: block,
            ..Default::default()
        })?;
        until("exits are recorded", || events(client) > 100);
        client.unplug(&UnplugRequest {
            start: Some(plugged.range.start),
            size: Some(block),
            ..Default::default()
        })?;
        let stopped = client.trace_stop()?;
        assert_eq!((stopped.state, stopped.error), (TraceState::Stopped, None));
        assert!(!client.info()?.tracing);
        let path = dir.path().join(format!("{round}.trace"));
        let words = format!("ctl trace fetch -o {}", path.display());
        vm.ctl(&words).expect_status(0);
        assert_eq!(path.metadata()?.len(), stopped.size);
        let trace = TraceFile::open(&path)?;
        assert!(trace.complete);
        let count = |is: fn(&Event) -> bool| trace.events().filter(|(_, event)| is(event)).count();
        assert!(count(|event| matches!(event, Event::Exit(_))) > 50);
        let sections = count(|event| matches!(event, Event::Section(_)));
        assert_eq!(sections, 2, "the plug's and the unplug's");
        let all = trace.events().count() as u64;
        assert_eq!(all, stopped.events);
        // What other commands make of it.
        for words in ["trace report", "trace export --format jsonl"] {
            let mut command = gracefault(words.split(' '));
            command.arg(&path);
            Running::start(command).wait().expect_status(0);
        }
        // The exits go on, unrecorded.
        vm.verifies();
        assert_eq!(events(client), stopped.events);
    }
    passed(&vm.shut_down());
    Ok(())
}

fn whose() -> Outcome {
    let vm = Steered::quiet("");
    let answer = |path, status| put(vm.socket(), path, json!({}), status);
    // Nothing to stop, or to fetch.
    answer("/vm.trace-stop", 409);
    assert_eq!(ask(vm.socket(), "GET", "/vm.trace-data", b"").status, 409);
    answer("/vm.trace-start", 200);
    answer("/vm.trace-start", 409);
    assert_eq!(ask(vm.socket(), "GET", "/vm.trace-data", b"").status, 409);
    answer("/vm.trace-stop", 200);
    answer("/vm.trace-stop", 409);
    // One that is on when the VM ends does not keep it.
    answer("/vm.trace-start", 200);
    passed(&vm.shut_down());

    let file = tempfile::NamedTempFile::new()?;
    let vm = Steered::quiet(&format!("--trace {}", file.path().display()));
    for path in ["/vm.trace-start", "/vm.trace-stop"] {
        put(vm.socket(), path, json!({}), 409);
    }
    assert_eq!(vm.get("/vm.trace")["state"], "command_line");
    let report = passed(&vm.shut_down());
    assert!(report["trace"]["events"].as_u64() > Some(0), "{report}");
    assert!(TraceFile::open(file.path())?.complete);
    Ok(())
}

fn bounded() -> Outcome {
    let vm = Steered::quiet("");
    let client = &vm.client;
    client.trace_start(&TraceRequest {
        size: Some(256 << 10),
        events: Some("mmio_*".to_owned()),
        ..Default::default()
    })?;
    until("it is full", || client.trace_status().unwrap().lost > 0);
    assert!(client.info()?.events_lost > 0);
    std::thread::sleep(Duration::from_millis(100));
    let stopped = client.trace_stop()?;
    assert!(stopped.size < 300 << 10, "{stopped:?}");
    let mut bytes = Vec::new();
    assert_eq!(client.trace_fetch(&mut bytes)?, stopped.size);
    assert!(client.info()?.events_lost >= stopped.lost);
    passed(&vm.shut_down());
    Ok(())
}
