//! `gracefault ctl` and `gracefault map`: what a user types, and what comes of it.
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use libtest_mimic::Trial;

use crate::command::{Running, gracefault, run};
use crate::stand_in::until;
use crate::steered::{Steered, passed};
use crate::support::{Outcome, kvm_test};

pub(crate) fn trials() -> Vec<Trial> {
    let test = |name: &str, test: fn() -> Outcome| {
        Trial::test(name, move || Ok(test().map_err(|e| e.to_string())?))
    };
    vec![
        test("commands::nobody_there", nobody),
        test("commands::map_goes_on_when_turned_away", turned_away),
        test("commands::a_socket_with_too_few_rights", few_rights),
        kvm_test("commands::each_verb", each_verb),
        kvm_test("commands::resize_tells_the_truth", resize),
        kvm_test("commands::map_watches_to_the_end", map_watch),
    ]
}

fn nobody() -> Outcome {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("missing");
    let path = path.display();
    for words in [
        "ctl --api-socket PATH info",
        "map --api-socket PATH",
        "ctl ping --api-socket PATH",
    ] {
        let ended = run(&words.replace("PATH", &path.to_string()));
        ended
            .expect_status(2)
            .expect_message(&["missing", "--api-socket"]);
    }
    run("ctl info")
        .expect_status(2)
        .expect_message(&["which VM?", "--api-socket PATH"]);
    let ended = run(&format!("ctl --api-socket {path} ping --wait 300ms"));
    ended.expect_status(2).expect_message(&["missing"]);
    for bad in [
        "ctl --api-socket x unplug",
        "ctl --api-socket x unplug a --at 0 --size 1",
        "ctl --api-socket x unplug --at 0x0",
        "ctl --api-socket x plug",
        "ctl --api-socket x plug 1X",
        "ctl --api-socket x resize",
        "ctl --api-socket x plug 1M --at 0xyz",
        "ctl --api-socket x",
        "map",
    ] {
        run(bad).expect_status(2);
    }
    Ok(())
}

/// A connection that is closed unanswered is no VM that has ended.
fn turned_away() -> Outcome {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path)?;
    listener.set_nonblocking(true)?;
    let mut command = gracefault(["map", "--watch", "10ms", "--json", "--api-socket"]);
    command.arg(&path);
    let watch = Running::start(command);
    let answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n[]";
    for is_answered in [true, false, false, false, true, false, true] {
        let mut come = None;
        until("it asks", || {
            come = listener.accept().ok();
            come.is_some()
        });
        let (mut stream, _) = come.expect("a connection");
        stream.set_nonblocking(false)?;
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            request.extend(byte);
        }
        if is_answered {
            stream.write_all(answer)?;
        }
    }
    // Now it has.
    drop(listener);
    let ended = watch.wait();
    ended.expect_status(0);
    assert_eq!(ended.stdout.lines().count(), 3, "{ended}");
    Ok(())
}

/// A umask that leaves its owner too little.
fn few_rights() -> Outcome {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("socket");
    let command = gracefault(["stress", "--no-kvm", "--duration", "1s", "--api-socket"]);
    let mut under = std::process::Command::new("sh");
    under.args(["-c", "umask 0277; exec \"$@\"", "sh"]);
    under.arg(command.get_program()).args(command.get_args());
    under.arg(&path).stdin(Stdio::null());
    let ended = Running::start(under).wait();
    ended
        .expect_status(2)
        .expect_message(&["socket", "0600", "umask"]);
    assert!(!path.exists(), "the socket is still there");
    Ok(())
}

fn each_verb() -> Outcome {
    let vm = Steered::quiet("");
    let says = |words: &str, expected: &[&str]| {
        let ended = vm.ctl(words);
        ended.expect_status(0);
        for word in expected {
            assert!(ended.stdout.contains(word), "{words}: no '{word}': {ended}");
        }
        assert_eq!(ended.stderr, "", "{words}: {ended}");
        let ended = vm.ctl(&format!("{words} --json"));
        let json = serde_json::from_str::<serde_json::Value>(&ended.stdout);
        json.ok().filter(|_| ended.status.success())
    };
    says("ctl ping", &["Gracefault"]);
    says("ctl ping --wait 1s", &["Gracefault"]);
    says("ctl info", &["running", "128 MiB", "0x100000000"]);
    says("ctl counters", &["lookup_success", "bytes_verified"]);
    says("ctl pause", &[]);
    let info = says("ctl info", &["paused"]).expect("an object");
    assert_eq!(info["state"], "paused");
    says("ctl resume", &[]);
    says(
        "ctl plug 4M --at 0x100400000",
        &["plugged 0x100400000-0x100800000", "4 MiB"],
    );
    vm.ctl("ctl unplug --at 0x100400000 --size 4M --deadline 200s")
        .expect_status(0);
    vm.ctl("ctl plug 4M --at 0x100400000 --id dimm1")
        .expect_status(0);
    let map = says(
        "ctl map",
        &["000100400000-000100600000", "(dimm1)", "rwx-b"],
    )
    .expect("it");
    assert!(map.as_array().expect("VMAs").len() > 5, "{map}");
    says(
        "map",
        &["000100400000-000100600000", "(dimm1)", "hotplug", "mmio"],
    );
    let unplugged = vm.ctl("ctl unplug dimm1 --deadline 200s");
    unplugged.expect_status(0);
    assert!(unplugged.stdout.contains("drain"), "{unplugged}");
    vm.ctl("ctl unplug dimm1")
        .expect_status(2)
        .expect_message(&["called dimm1"]);
    // More than 2^64 ms are not a few.
    vm.ctl("ctl unplug dimm1 --deadline 18446744073709552s")
        .expect_status(2)
        .expect_message(&["deadline_ms", "too long"]);
    vm.ctl("ctl plug 3K")
        .expect_status(2)
        .expect_message(&["whole blocks"]);
    says("ctl trace status", &["not recorded"]);
    vm.ctl("ctl trace fetch -o /dev/null")
        .expect_status(2)
        .expect_message(&["regular file"]);
    vm.ctl("ctl trace start --events mmio_* --size 1M --on-full overwrite")
        .expect_status(0);
    vm.ctl("ctl trace start")
        .expect_status(1)
        .expect_message(&["already"]);
    vm.ctl("ctl trace stop").expect_status(0);
    let metrics = vm.ctl("ctl metrics");
    metrics.expect_status(0);
    for word in [
        "gracefault_exit_seconds_bucket{vcpu=\"0\"",
        "gracefault_memory_bytes",
        "# EOF",
    ] {
        assert!(metrics.stdout.contains(word), "{metrics}");
    }
    vm.ctl("ctl shutdown").expect_status(0);
    passed(&vm.wait());
    Ok(())
}

fn resize() -> Outcome {
    let vm = Steered::quiet("");
    let reached = vm.ctl("ctl resize 32M --wait 200s");
    reached.expect_status(0);
    assert!(
        reached
            .stdout
            .starts_with("32 MiB (33554432 bytes) plugged of 32 MiB"),
        "{reached}"
    );
    let status = vm
        .ctl("ctl resize 8M --wait 200s --json")
        .expect_status(0)
        .json();
    assert_eq!(
        (&status["state"], status["plugged"].as_u64()),
        (&"done".into(), Some(8 << 20))
    );
    // A guest that rests gives nothing back, and that is said.
    vm.ctl("ctl pause").expect_status(0);
    let late = vm.ctl("ctl resize 0 --wait 300ms");
    late.expect_status(1);
    assert!(
        late.stdout
            .contains("8 MiB (8388608 bytes) plugged of 0 bytes"),
        "{late}"
    );
    assert!(late.stdout.contains("It goes on."), "{late}");
    let failed = vm.ctl("ctl resize 2M --wait 200s --patience 100ms");
    failed.expect_status(1);
    assert!(failed.stdout.contains("It has ended: "), "{failed}");
    assert!(failed.stdout.contains("has not released block"), "{failed}");
    vm.ctl("ctl resume").expect_status(0);
    vm.ctl("ctl resize 0 --wait 200s --patience 200s")
        .expect_status(0);
    vm.ctl("ctl resize 129M --wait 1s")
        .expect_status(2)
        .expect_message(&["block size"]);
    passed(&vm.shut_down());
    Ok(())
}

fn map_watch() -> Outcome {
    let vm = Steered::quiet("");
    let mut command = gracefault(["map", "--watch", "10ms", "--json", "--api-socket"]);
    command.arg(vm.socket()).stdout(Stdio::piped());
    let mut watch = Running::start_as_is(command);
    let out = watch.child().stdout.take().expect("a pipe");
    let mut lines = BufReader::new(out).lines();
    let mut seen = || {
        let line = lines.next().expect("a line").expect("it can be read");
        serde_json::from_str::<serde_json::Value>(&line).expect("JSON")
    };
    let blocks = |map: serde_json::Value| {
        let vmas = map.as_array().expect("VMAs").clone();
        vmas.iter()
            .filter(|vma| vma["flags"].as_str().is_some_and(|f| f.ends_with('b')))
            .count()
    };
    assert_eq!(blocks(seen()), 0);
    vm.ctl("ctl plug 6M").expect_status(0);
    until("the blocks are seen", || blocks(seen()) == 3);
    passed(&vm.shut_down());
    // Reads what is left.
    for line in lines {
        line?;
    }
    watch.wait().expect_status(0);
    Ok(())
}
