//! Clients that stall, flood, send garbage or vanish: they hurt nobody but themselves.
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::Ordering;

use libtest_mimic::Trial;

use crate::contract::ask;
use crate::http::{connect, request, send_raw};
use crate::stand_in::{Mood, Served, serve, until};
use crate::support::Outcome;

pub(crate) fn trials() -> Vec<Trial> {
    let test = |name: &str, test: fn() -> Outcome| {
        Trial::test(name, move || Ok(test().map_err(|e| e.to_string())?))
    };
    vec![
        test("clients::that_stall", that_stall),
        test("clients::that_all_stall_in_their_bodies", that_all_stall),
        test("clients::that_do_not_read", that_do_not_read),
        test("clients::that_send_garbage", that_send_garbage),
        test("clients::that_flood", that_flood),
        test("clients::that_vanish", that_vanish),
        test("clients::that_vanish_after_more", that_vanish_after_more),
        test("clients::one_connection_for_many_requests", one_connection),
        test("clients::a_large_file_comes_whole", large_file),
        test("clients::the_end_of_the_server", the_end),
    ]
}

/// A client that does as it should is answered.
#[track_caller]
fn assert_serves(socket: &Path) {
    assert_eq!(ask(socket, "GET", "/vm.info", b"").status, 200);
    let body = br#"{"size": 4096}"#;
    assert_eq!(ask(socket, "PUT", "/vm.plug", body).status, 200);
}

fn fds() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// More than there is room for, each with a part of a request.
pub(crate) fn stalling(socket: &Path, how_many: usize) -> Vec<UnixStream> {
    let parts: [&[u8]; 5] = [
        b"",
        b"GET /api/v1/vm.info HTTP/1.1\r\nHost: ",
        b"G",
        b"PUT /api/v1/vm.plug HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{",
        b"PUT /api/v1/vm.plug HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
    ];
    let one = |n: usize| {
        let mut stream = connect(socket);
        // One that was closed for another takes nothing any more.
        let _ = stream.write_all(parts[n % parts.len()]);
        stream
    };
    (0..how_many).map(one).collect()
}

fn that_stall() -> Outcome {
    let served = serve();
    let before = fds();
    let mut stalled = stalling(&served.socket, 40);
    assert_serves(&served.socket);
    stalled.extend(stalling(&served.socket, 400));
    assert_serves(&served.socket);
    // Both ends are ours.
    let mine = stalled.len();
    until("what stalls is bounded", || fds() <= before + mine + 64 + 8);
    drop(stalled);
    until("all is closed", || fds() <= before + 8);
    Ok(())
}

/// As many as there is room for, and each has had its head read: the one that has sent
/// nothing for longest makes room.
fn that_all_stall() -> Outcome {
    let served = serve();
    let head = b"PUT /api/v1/vm.plug HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\
                 Content-Length: 99\r\n\r\n";
    let mut stalled = Vec::new();
    for n in 0..64 {
        let mut stream = connect(&served.socket);
        stream.write_all(head)?;
        // What says that its body is waited for.
        let mut go_on = [0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
        stream.read_exact(&mut go_on)?;
        assert!(go_on.starts_with(b"HTTP/1.1 100"), "{n}: {go_on:?}");
        stream.write_all(b"{")?;
        stalled.push(stream);
    }
    for (method, path) in [("GET", "/vm.info"), ("PUT", "/vm.shutdown")] {
        let answer = send_raw(&served.socket, &request(method, path, b""));
        let answer = answer.unwrap_or_else(|| panic!("{path}: no answer"));
        assert!(matches!(answer.status, 200 | 204), "{path}: {answer:?}");
    }
    drop(stalled);
    Ok(())
}

fn that_do_not_read() -> Outcome {
    let served = serve();
    let mut deaf: Vec<_> = (0..70).map(|_| connect(&served.socket)).collect();
    let request = b"GET /api/v1/vm.trace-data HTTP/1.1\r\nHost: x\r\n\r\n";
    for stream in &mut deaf {
        let _ = stream.write_all(&request.repeat(20));
    }
    assert_serves(&served.socket);
    drop(deaf);
    assert_serves(&served.socket);
    Ok(())
}

fn that_send_garbage() -> Outcome {
    let served = serve();
    let Served { vm, socket, .. } = &served;
    let head = |fields: &str| format!("GET /api/v1/vm.info HTTP/1.1\r\n{fields}\r\n");
    let put = |fields: &str, body: &str| {
        format!("PUT /api/v1/vm.plug HTTP/1.1\r\nHost: x\r\n{fields}\r\n{body}")
    };
    let mut random = fastrand::Rng::with_seed(7);
    let mut garbage: Vec<Vec<u8>> = (0..200)
        .map(|n| (0..n * 7).map(|_| random.u8(..)).collect())
        .collect();
    garbage.extend(
        [
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
            "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0".to_owned(),
            "GET\r\n\r\n".to_owned(),
            "GET /api/v1/vm.info\r\n\r\n".to_owned(),
            "GET /api/v1/vm.info HTTP/9.9\r\n\r\n".to_owned(),
            format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(1 << 20)),
            head(&format!("X: {}\r\n", "x".repeat(1 << 20))),
            head(&"X: y\r\n".repeat(1000)),
            head("X y\r\n"),
            head("\0: \0\r\n"),
            put("Content-Length: -1\r\n", "x"),
            put("Content-Length: 99999999999999999999999\r\n", "x"),
            put("Content-Length: 18446744073709551615\r\n", "x"),
            put("Content-Length: 2\r\nContent-Length: 3\r\n", "{}x"),
            put("Transfer-Encoding: chunked\r\n", "zz\r\n{}\r\n0\r\n\r\n"),
            put("Transfer-Encoding: chunked\r\n", "ffffffffffffffff\r\n{}"),
            put("Transfer-Encoding: nonsense\r\n", "{}"),
            put(
                "Transfer-Encoding: chunked\r\n",
                &"1\r\nx\r\n".repeat(70_000),
            ),
            put("Expect: 100-continue\r\nContent-Length: 1\r\n", "x"),
            put("Upgrade: websocket\r\nConnection: Upgrade\r\n", ""),
            "CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        ]
        .map(String::into_bytes),
    );
    for bytes in &garbage {
        // Ends, so that the server does not wait for more of it.
        let mut stream = connect(socket);
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        if let Some(answer) = crate::http::parse(&answer) {
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]);
            // 100 to one who asks before it sends more.
            let is_refused = (400..500).contains(&answer.status) || answer.status == 100;
            assert!(is_refused, "{text}: {answer:?}");
        }
    }
    assert_eq!(
        vm.steered.load(Ordering::Relaxed),
        0,
        "something got through"
    );
    let long = head(&format!("X: {}\r\n", "x".repeat(100_000)));
    let answer = send_raw(socket, long.as_bytes());
    assert!(
        answer.is_none_or(|answer| answer.status == 431),
        "a head without end"
    );
    assert_serves(socket);
    Ok(())
}

fn that_flood() -> Outcome {
    let served = serve();
    let socket = &served.socket;
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for n in 0..150 {
                    let bytes = match n % 3 {
                        0 => request("GET", "/vm.live", b""),
                        1 => request("PUT", "/vm.plug", br#"{"size": 1}"#),
                        _ => request("DELETE", "/vm.map", b""),
                    };
                    let answer = send_raw(socket, &bytes).expect("an answer");
                    assert!(matches!(answer.status, 200 | 405 | 429), "{answer:?}");
                }
            });
        }
        for _ in 0..50 {
            assert_eq!(ask(socket, "GET", "/vm.info", b"").status, 200);
        }
    });
    assert_serves(socket);
    Ok(())
}

fn that_vanish() -> Outcome {
    let served = serve();
    let Served { vm, socket, .. } = &served;
    vm.is(Mood::Blocks);
    let body = br#"{"id": "a", "deadline_ms": 600000}"#;
    // Three times as many as there are places.
    for gone in 1..=24 {
        let mut stream = connect(socket);
        stream.write_all(&request("PUT", "/vm.unplug", body))?;
        until("it waits", || vm.waiting.load(Ordering::Relaxed) == 1);
        drop(stream);
        until("it is given up", || {
            vm.cancelled.load(Ordering::Relaxed) == gone
        });
    }
    vm.is(Mood::Willing);
    assert_serves(socket);
    // In the middle of anything.
    let whole = request("PUT", "/vm.plug", br#"{"size": 4096}"#);
    for len in 0..=whole.len() {
        connect(socket).write_all(&whole[..len])?;
    }
    assert_serves(socket);
    Ok(())
}

/// With the begin of another request behind the one that waits, in one piece with it and
/// after it: nobody reads that, nor the end behind it.
fn that_vanish_after_more() -> Outcome {
    let served = serve();
    let Served { vm, socket, .. } = &served;
    vm.is(Mood::Blocks);
    let body = br#"{"id": "a", "deadline_ms": 600000}"#;
    let mut whole = request("PUT", "/vm.unplug", body);
    let (mut gone, waiting) = (0, || vm.waiting.load(Ordering::Relaxed));
    for (at_once, later) in [("G", ""), ("", "G"), ("GET /", "x"), ("", "")] {
        let len = whole.len();
        whole.extend(at_once.as_bytes());
        let mut streams: Vec<_> = (0..8).map(|_| connect(socket)).collect();
        for stream in &mut streams {
            stream.write_all(&whole)?;
        }
        until("they wait", || waiting() == 8);
        for stream in &mut streams {
            stream.write_all(later.as_bytes())?;
        }
        whole.truncate(len);
        // Nobody is given up that is still there.
        assert_eq!(ask(socket, "PUT", "/vm.pause", b"").status, 429);
        assert_eq!(vm.cancelled.load(Ordering::Relaxed), gone);
        drop(streams);
        gone += 8;
        until("they are given up", || {
            vm.cancelled.load(Ordering::Relaxed) == gone
        });
    }
    vm.is(Mood::Willing);
    assert_serves(socket);
    Ok(())
}

fn one_connection() -> Outcome {
    let served = serve();
    let mut stream = connect(&served.socket);
    for _ in 0..100 {
        stream.write_all(b"GET /api/v1/vmm.ping HTTP/1.1\r\nHost: x\r\n\r\n")?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"}") {
            let mut some = [0; 1024];
            let read = stream.read(&mut some)?;
            assert!(read > 0, "closed: {answer:?}");
            answer.extend(&some[..read]);
        }
    }
    Ok(())
}

fn large_file() -> Outcome {
    let served = serve();
    let answer = ask(&served.socket, "GET", "/vm.trace-data", b"");
    assert_eq!(answer.body, [7; 300_000]);
    let client = gracefault::api::Client::new(&served.socket)?;
    let mut bytes = Vec::new();
    assert_eq!(client.trace_fetch(&mut bytes)?, 300_000);
    assert_eq!(bytes, [7; 300_000]);
    Ok(())
}

/// Whatever its clients are at.
fn the_end() -> Outcome {
    let served = serve();
    let socket = served.socket.clone();
    let vm = served.vm.clone();
    let stalled = stalling(&socket, 20);
    vm.is(Mood::Blocks);
    let mut waiting = connect(&socket);
    waiting.write_all(&request("PUT", "/vm.plug", br#"{"size": 1}"#))?;
    until("it waits", || vm.waiting.load(Ordering::Relaxed) == 1);
    drop(served);
    assert!(!socket.exists(), "the socket is still there");
    until("it is given up", || vm.waiting.load(Ordering::Relaxed) == 0);
    assert!(UnixStream::connect(&socket).is_err());
    drop(stalled);
    Ok(())
}
