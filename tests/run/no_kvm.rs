//! A host where KVM cannot be used: one clear message, exit status 2, nothing
//! else; and what `gracefault check` says there, and on a good one.
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::command::{Running, gracefault, run};
use crate::support::{Outcome, kvm_test};

pub(crate) fn trials() -> Vec<Trial> {
    let plain = |name, test: fn()| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    };
    vec![
        plain("no_kvm::no_device", no_device),
        plain("no_kvm::another_device", another_device),
        plain("no_kvm::no_device_but_a_directory", a_directory),
        plain("no_kvm::no_permission", no_permission),
        plain(
            "no_kvm::check_says_what_is_missing",
            check_says_what_is_missing,
        ),
        kvm_test("no_kvm::check_is_content_with_this_host", check_is_content),
    ]
}

/// Both ways to start a run refuse `device` with one message that has `words`.
fn refused(device: &str, words: &[&str]) {
    for how in ["", "run ", "--json ", "run --workload hello --json "] {
        let ended = run(&format!("{how}--kvm-device {device}"));
        ended.expect_status(2).expect_message(words);
        ended.expect_message(&["see `gracefault check`"]);
        assert_eq!(ended.stdout, "", "{ended}");
    }
}

fn no_device() {
    refused("/nonexistent", &["/nonexistent does not exist", "modprobe"]);
}

fn another_device() {
    refused("/dev/null", &["/dev/null is not a KVM device", "/dev/kvm"]);
}

fn a_directory() {
    refused("/", &["/ cannot be opened", "directory"]);
}

/// Root may open everything, so it is given up for this.
fn no_permission() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("its owner may");
    let file = dir.path().join("kvm");
    fs::write(&file, "").expect("a file can be written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).expect("its owner may");
    let mut command = gracefault(["run", "--kvm-device"]);
    command.arg(&file);
    if is_root() {
        // Where the build is readable by root alone nothing can be seen.
        let nobody = 65534;
        command.uid(nobody).gid(nobody);
        let mut probe = gracefault(["--version"]);
        if probe.uid(nobody).gid(nobody).output().is_err() {
            eprintln!("not tried: only root can execute the binary");
            return;
        }
    }
    let ended = Running::start(command).wait();
    ended.expect_status(2);
    ended.expect_message(&["permission", "group", "`gracefault check`"]);
    assert_eq!(ended.stdout, "", "{ended}");
}

fn is_root() -> bool {
    // SAFETY: no argument, no memory.
    unsafe { libc::geteuid() == 0 }
}

fn check_says_what_is_missing() {
    for device in ["/nonexistent", "/dev/null"] {
        let ended = run(&format!("check --kvm-device {device}"));
        ended.expect_status(2).expect_message(&[device]);
        for words in [
            "\nHost\n",
            "userfaultfd",
            "memory",
            "Guests cannot be run here.",
        ] {
            assert!(ended.stdout.contains(words), "no '{words}': {ended}");
        }
        let ended = run(&format!("check --json --kvm-device {device}"));
        let check = ended.expect_status(2).json();
        assert_eq!(check["usable"], false, "{ended}");
        assert_eq!(check["kvm"], Value::Array(Vec::new()), "{ended}");
    }
}

fn check_is_content() -> Outcome {
    let ended = run("check");
    ended.expect_status(0);
    assert_eq!(ended.stderr, "", "{ended}");
    for words in [
        "\nKVM\n",
        "KVM_CAP_NR_MEMSLOTS",
        "\nHost\n",
        "Guests can be run here.",
    ] {
        assert!(ended.stdout.contains(words), "no '{words}': {ended}");
    }
    let check = run("check --json").expect_status(0).json();
    assert_eq!(check["usable"], true);
    let rows = ["kvm", "host"].map(|part| check[part].as_array().expect("rows"));
    for row in rows.into_iter().flatten() {
        let verdict = row["verdict"].as_str().expect("a verdict");
        assert!(["ok", "limited", "missing"].contains(&verdict), "{row:#}");
        let fix = row["fix"].as_str().expect("what to do");
        assert!(verdict == "ok" || !fix.is_empty(), "no fix: {row:#}");
    }
    let required = ["KVM_CAP_IMMEDIATE_EXIT", "KVM_CAP_NR_MEMSLOTS"];
    for name in required {
        let row = rows[0].iter().find(|row| row["what"] == name);
        assert_eq!(row.expect(name)["verdict"], "ok");
    }
    Ok(())
}
