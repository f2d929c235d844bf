//! `top -1`, and what it refuses: no terminal is needed.
use libtest_mimic::Trial;

use crate::command::{Ended, Running, gracefault};
use crate::support::Outcome;
use crate::support::fake_api::{CLEARING, FakeApi, GARBAGE, nowhere};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test("once::prints_text", || ended(text)),
        Trial::test("once::prints_json", || ended(json)),
        Trial::test("once::spells_control_characters_out", || ended(clearing)),
        Trial::test("once::says_what_is_wrong", || ended(wrong)),
        Trial::test("once::without_it_a_terminal_is_needed", || {
            ended(no_terminal)
        }),
    ]
}

fn ended(test: fn() -> Outcome) -> Result<(), libtest_mimic::Failed> {
    Ok(test().map_err(|error| error.to_string())?)
}

fn top(socket: &std::path::Path, more: &[&str]) -> Ended {
    let mut command = gracefault(["top", "--api-socket"]);
    command.arg(socket).args(more);
    command.env("LC_ALL", "C.UTF-8").env("TERM", "xterm");
    Running::start(command).wait()
}

fn text() -> Outcome {
    let api = FakeApi::start();
    let ended = top(&api.path(), &["-1", "-d", "100ms"]);
    ended.expect_status(0);
    // As the test of the layout has it, whatever the width.
    for words in [
        "gracefault run hotplug  RUNNING",
        "RAM 64M + 44M of 128M  exits 7818/s  events lost 17",
        "waits for hotplug #1099: MMIO",
        "0xd0000000:W",
        "vCPU 1 waits 1.2ms at 0x100601000 for hotplug (4713) #1099",
        "MAP: 27 VMAs",
        "#1097 hotplug unmaps 0x101a00000+2M",
    ] {
        assert!(ended.stdout.contains(words), "no '{words}': {ended}");
    }
    assert!(!ended.stdout.contains('\x1b'), "no codes: {ended}");
    assert_eq!(ended.stderr, "", "{ended}");
    Ok(())
}

fn json() -> Outcome {
    let api = FakeApi::start();
    let ended = top(&api.path(), &["-1", "--json"]);
    ended.expect_status(0);
    assert_eq!(ended.json()["info"]["pid"], 4711, "{ended}");
    assert_eq!(api.asked(), 1);
    top(&api.path(), &["--json"])
        .expect_status(2)
        .expect_words(&["--once"]);
    Ok(())
}

fn clearing() -> Outcome {
    let api = FakeApi::start();
    api.answer(CLEARING);
    let ended = top(&api.path(), &["-1", "-d", "100ms"]);
    ended.expect_status(0);
    assert!(!ended.stdout.contains('\x1b'), "{ended}");
    assert!(ended.stdout.contains("run \\u001b[2J  RUNNING"), "{ended}");
    Ok(())
}

fn wrong() -> Outcome {
    let api = FakeApi::start();
    let not_a_socket = std::env::current_exe()?;
    let hint = "is a VM running with --api-socket";
    top(nowhere(), &["-1"]).expect_status(2).expect_message(&[
        "/nonexistent/api",
        "No such file",
        hint,
    ]);
    top(&not_a_socket, &["-1"])
        .expect_status(2)
        .expect_message(&[not_a_socket.to_str().unwrap(), hint]);
    top(&api.path(), &["-1", "-d", "5ms"])
        .expect_status(2)
        .expect_words(&["--delay", "100ms"]);
    top(&api.path(), &["-1", "-d", "soon"])
        .expect_status(2)
        .expect_words(&["--delay", "500ms"]);
    let ended = Running::start(gracefault(["top"])).wait();
    ended.expect_status(2).expect_words(&["--api-socket"]);
    api.answer(GARBAGE);
    top(&api.path(), &["-1"])
        .expect_status(2)
        .expect_message(&["no answer of this API"]);
    Ok(())
}

fn no_terminal() -> Outcome {
    let api = FakeApi::start();
    let ended = top(&api.path(), &[]);
    ended
        .expect_status(2)
        .expect_message(&["no terminal", "top -1"]);
    assert_eq!(ended.stdout, "", "{ended}");
    Ok(())
}
