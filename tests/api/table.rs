//! Every line of `vmm/docs/api.json`: each path, method and status, each field of each
//! request, against a stand-in; and nothing besides.
use std::sync::atomic::Ordering;

use gracefault::api::model::ErrorCode;
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::contract::{Operation, ask, contract, spoiled};
use crate::http::{request, send, send_raw};
use crate::stand_in::{Mood, Served, serve, until};
use crate::support::Outcome;

pub(crate) fn trials() -> Vec<Trial> {
    let test = |name: &str, test: fn() -> Outcome| {
        Trial::test(name, move || Ok(test().map_err(|e| e.to_string())?))
    };
    vec![
        test("table::every_documented_answer", every_documented_answer),
        test("table::no_other_method_or_path", no_other_method_or_path),
        test("table::spoiled_requests_change_nothing", spoiled_requests),
        test("table::a_null_is_as_good_as_nothing", nulls),
        test("table::queries", queries),
        test("table::metrics_are_openmetrics", metrics),
    ]
}

/// Bodies that can be, which together have every field.
fn good(path: &str) -> Vec<Value> {
    match path {
        "/vm.plug" => vec![json!({"start": 0x1_0000_0000_u64, "size": 4096, "id": "a.B_9-"})],
        "/vm.unplug" => vec![
            json!({"start": 4096, "size": 4096, "deadline_ms": 600_000, "forced": true}),
            json!({"id": "dimm0"}),
        ],
        "/vm.resize" => vec![json!({
            "requested": 0, "forced": false, "wait_ms": 600_000, "patience_ms": 0
        })],
        "/vm.trace-start" => vec![json!({
            "events": "mmio_*,section", "size": 262_144, "on_full": "overwrite"
        })],
        _ => vec![],
    }
}

fn body_of(path: &str) -> Vec<u8> {
    match good(path).first() {
        Some(body) => body.to_string().into_bytes(),
        None => Vec::new(),
    }
}

/// In each mood there is, each operation; and besides what moods do not bring about.
fn every_documented_answer() -> Outcome {
    let served = serve();
    let Served { vm, socket, .. } = &served;
    let moods = [
        Mood::Willing,
        Mood::Slow,
        Mood::Refuses(ErrorCode::Conflict),
        Mood::Refuses(ErrorCode::NotSupported),
        Mood::Refuses(ErrorCode::NotReleased),
        Mood::Refuses(ErrorCode::NotFound),
        Mood::Refuses(ErrorCode::Failed),
        Mood::Panics,
    ];
    for operation in contract().operations() {
        let Operation {
            path,
            method,
            value,
        } = &operation;
        let documents = |status: &str| value["responses"][status].is_object();
        for mood in moods {
            let needed = match mood {
                Mood::Refuses(ErrorCode::NotFound) => documents("404"),
                Mood::Refuses(ErrorCode::Failed) | Mood::Panics => documents("500"),
                Mood::Refuses(_) => documents("409"),
                _ => true,
            };
            for is_rich in [false, true].into_iter().filter(|_| needed) {
                vm.is(mood);
                vm.enrich(is_rich);
                let body = if method == "PUT" {
                    body_of(path)
                } else {
                    Vec::new()
                };
                ask(socket, method, path, &body);
            }
        }
        vm.is(Mood::Willing);
        let answer = ask(socket, method, &format!("{path}?nonsense=1"), b"");
        assert_eq!(answer.status, 400, "{path}");
        if documents("413") {
            let long = vec![b' '; (64 << 10) + 1];
            assert_eq!(ask(socket, method, path, &long).status, 413, "{path}");
        }
        if documents("429") {
            too_many(&served, &operation);
        }
    }
    // All at once, since each takes the time that a body may.
    let bodies = contract().operations().into_iter();
    let late: Vec<_> = bodies
        .filter(|one| one.value["responses"]["408"].is_object())
        .collect();
    std::thread::scope(|scope| {
        for one in &late {
            scope.spawn(|| {
                let mut bytes = request(&one.method, &one.path, b"{}");
                bytes.truncate(bytes.len() - 1);
                let answer = send_raw(socket, &bytes).expect("an answer");
                contract().check(&one.method, &one.path, &answer);
                assert_eq!(answer.status, 408, "{}", one.path);
            });
        }
    });
    assert_eq!(contract().unseen(), [""; 0], "documented, but never seen");
    Ok(())
}

/// One more than there are places for, while those that have one wait.
fn too_many(served: &Served, operation: &Operation) {
    let Served { vm, socket, .. } = served;
    let Operation { path, method, .. } = operation;
    vm.is(Mood::Blocks);
    let plug = body_of("/vm.plug");
    std::thread::scope(|scope| {
        let places: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| ask(socket, "PUT", "/vm.plug", &plug).status))
            .collect();
        until("eight wait", || vm.waiting.load(Ordering::Relaxed) == 8);
        assert_eq!(
            ask(socket, method, path, &body_of(path)).status,
            429,
            "{path}"
        );
        // What does not wait is not kept waiting.
        assert_eq!(ask(socket, "GET", "/vm.info", b"").status, 200);
        vm.is(Mood::Willing);
        for place in places {
            assert_eq!(place.join().unwrap(), 200);
        }
    });
    until("their places are free", || {
        ask(socket, method, path, &body_of(path)).status < 300
    });
}

fn no_other_method_or_path() -> Outcome {
    let served = serve();
    let socket = &served.socket;
    let operations = contract().operations();
    for Operation { path, .. } in &operations {
        let here = operations.iter().filter(|one| one.path == *path);
        let allowed: Vec<_> = here.map(|one| &*one.method).collect();
        for method in [
            "GET", "PUT", "POST", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "PROPFIND",
        ] {
            if allowed.contains(&method) {
                continue;
            }
            let answer = send(socket, method, path, b"");
            assert_eq!(answer.status, 405, "{method} {path}");
            let told = answer.header("allow").unwrap_or_default();
            let mut told: Vec<_> = told.split(", ").collect();
            let mut allowed = allowed.clone();
            told.sort_unstable();
            allowed.sort_unstable();
            assert_eq!(told, allowed, "{method} {path}");
        }
        for other in [format!("{path}/"), path.to_uppercase(), format!("/x{path}")] {
            let answer = send(socket, "GET", &other, b"");
            assert_eq!(answer.status, 404, "{other}");
            assert_eq!(answer.json()["code"], "not_found");
        }
    }
    assert_eq!(served.vm.steered.load(Ordering::Relaxed), 0);
    Ok(())
}

fn spoiled_requests() -> Outcome {
    let served = serve();
    let Served { vm, socket, .. } = &served;
    for operation in contract().operations() {
        let Operation { path, method, .. } = &operation;
        let Some(schema) = contract().body_schema(&operation) else {
            // One that needs no body takes none.
            let answer = ask(socket, method, path, b"{\"size\": 1}");
            assert_eq!(answer.status, 400, "{method} {path}");
            continue;
        };
        let properties = schema["properties"].as_object().expect("properties");
        let bodies = good(path);
        for name in properties.keys() {
            let is_there = bodies.iter().any(|body| body.get(name).is_some());
            assert!(is_there, "{path}: no body has {name}");
        }
        for body in &bodies {
            for (what, spoiled) in spoiled(schema, body) {
                let answer = ask(socket, method, path, spoiled.as_bytes());
                assert_eq!(answer.status, 400, "{path}: {what}: {spoiled}");
                let failure = answer.json();
                assert_eq!(failure["code"], "bad_request", "{path}: {what}");
                assert!(failure["error"].as_str().unwrap().len() > 8, "{failure}");
            }
        }
    }
    for body in [
        "{}",
        r#"{"id": "a", "start": 1, "size": 1}"#,
        r#"{"start": 1}"#,
    ] {
        assert_eq!(
            ask(socket, "PUT", "/vm.unplug", body.as_bytes()).status,
            400,
            "{body}"
        );
    }
    assert_eq!(
        vm.steered.load(Ordering::Relaxed),
        0,
        "something got through"
    );
    Ok(())
}

fn nulls() -> Outcome {
    let served = serve();
    for operation in contract().operations() {
        let Operation { path, method, .. } = &operation;
        let Some(schema) = contract().body_schema(&operation) else {
            continue;
        };
        for (name, property) in schema["properties"].as_object().expect("properties") {
            let is_nullable = property["type"].to_string().contains("\"null\"");
            // A range needs both of these, or neither.
            let is_half = path == "/vm.unplug" && name != "deadline_ms";
            for mut body in good(path) {
                if !is_nullable || is_half {
                    continue;
                }
                body[name] = Value::Null;
                let answer = ask(&served.socket, method, path, body.to_string().as_bytes());
                assert_eq!(answer.status, 200, "{path}: {body}");
            }
        }
    }
    // What needs no body may do without.
    for body in ["", "{}", " {} "] {
        let answer = ask(&served.socket, "PUT", "/vm.trace-start", body.as_bytes());
        assert_eq!(answer.status, 200, "{body}");
        let answer = ask(&served.socket, "PUT", "/vm.pause", body.as_bytes());
        assert_eq!(answer.status, 204, "{body}");
    }
    Ok(())
}

fn queries() -> Outcome {
    let served = serve();
    let socket = &served.socket;
    for operation in contract().operations() {
        let Operation {
            path,
            method,
            value,
        } = &operation;
        for parameter in value["parameters"].as_array().into_iter().flatten() {
            let (name, schema) = (parameter["name"].as_str().unwrap(), &parameter["schema"]);
            let status =
                |value: &str| ask(socket, method, &format!("{path}?{name}={value}"), b"").status;
            let most = schema["maximum"].as_u64().unwrap_or(u64::MAX);
            for fine in [0, 1, most] {
                assert_eq!(status(&fine.to_string()), 200, "{path}: {name}={fine}");
            }
            let above = (u128::from(most) + 1).to_string();
            for bad in ["", "x", "-1", "1.0", "0x1", &above, "1&1", "%31"] {
                assert_eq!(status(bad), 400, "{path}: {name}={bad}");
            }
        }
    }
    let rows = |query: &str| {
        let answer = ask(socket, "GET", &format!("/vm.exits{query}"), b"").json();
        answer["rows"].as_array().unwrap().len()
    };
    assert_eq!((rows(""), rows("?limit=2"), rows("?limit=0")), (3, 2, 0));
    Ok(())
}

fn metrics() -> Outcome {
    let served = serve();
    let answer = ask(&served.socket, "GET", "/vm.metrics", b"");
    let text = String::from_utf8(answer.body)?;
    assert!(text.ends_with("\n# EOF\n"), "{text}");
    Ok(())
}
