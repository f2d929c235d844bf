//! `top` in a terminal: what is on the screen, what keys do, and that the terminal is
//! given back as it was, whatever happens.
use libtest_mimic::Trial;

use crate::command::gracefault;
use crate::support::Outcome;
use crate::support::fake_api::{FakeApi, GARBAGE, NEVER, WELL};
use crate::support::tmux::{Script, tmux_test};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        tmux_test("terminal::shows_a_vm_and_obeys_keys", keys),
        tmux_test("terminal::of_another_size", sizes),
        tmux_test("terminal::colours_or_none", colours),
        tmux_test("terminal::is_given_back_after_signals", signals),
        tmux_test("terminal::is_given_back_after_a_panic", panics),
        tmux_test("terminal::is_given_back_when_the_vm_goes", vanishes),
        tmux_test("terminal::is_given_back_while_suspended", suspended),
        tmux_test("terminal::a_vm_that_does_not_answer", no_answer),
    ]
}

/// The command of a `top` of this API.
fn top(api: &FakeApi, more: &str) -> String {
    let program = gracefault(["top"])
        .get_program()
        .to_str()
        .unwrap()
        .to_owned();
    format!(
        "{program} top --api-socket {} -d 200ms {more}",
        api.path().display()
    )
}

fn keys() -> Outcome {
    let api = FakeApi::start();
    let terminal = Script::of(&top(&api, "")).start()?;
    let screen = terminal.wait("the second look", |screen| {
        screen.contains("events lost 17")
    });
    for words in [
        "gracefault run hotplug  RUNNING",
        "vCPU DOING",
        "EXIT             BY",
        "WHO WAITS FOR WHOM: 1 waits now",
        "vCPU 1 waits 1.2ms at 0x100601000",
        "MAP: 27 VMAs",
        "blocks ██·L·█",
        "HISTOGRAM 0x",
        "q quit ? help",
    ] {
        assert!(screen.contains(words), "no '{words}':\n{screen}");
    }
    terminal.press(&["?"]);
    terminal.wait_for("this help");
    terminal.press(&["x"]);
    terminal.wait_for("RUNNING");
    terminal.press(&["o"]);
    terminal.wait_for("EXIT in total");
    terminal.press(&["A", "Home", "Down"]);
    terminal.wait_for("HISTOGRAM 0x3f8:POUT serial");
    terminal.press(&["Tab", "End"]);
    terminal.wait_for("HISTOGRAM vCPU 3");
    terminal.press(&["f"]);
    terminal.press(&["-l", "dma"]);
    terminal.wait_for("only exits that contain: dma_");
    terminal.press(&["Enter"]);
    terminal.wait("one row", |screen| {
        screen.contains("filter: d")
            && screen.contains("0xd0300000:W")
            && !screen.contains("0xd0200048:R ")
    });
    terminal.press(&["Space"]);
    terminal.wait_for("FROZEN");
    terminal.press(&["q"]);
    terminal.assert_given_back(0);
    Ok(())
}

fn sizes() -> Outcome {
    let api = FakeApi::start();
    let command = top(&api, "");
    let terminal = Script {
        width: 200,
        height: 60,
        ..Script::of(&command)
    }
    .start()?;
    // Two columns of tables.
    terminal.wait("both columns", |screen| {
        screen
            .lines()
            .any(|line| line.starts_with("vCPU DOING") && line.contains("WHO WAITS"))
    });
    terminal.resize(80, 24);
    terminal.wait("one column", |screen| {
        screen.lines().any(|line| line.starts_with("WHO WAITS")) && screen.contains("q quit")
    });
    terminal.resize(30, 8);
    terminal.wait_for("too small");
    terminal.resize(100, 30);
    terminal.wait_for("HISTOGRAM");
    terminal.press(&["C-c"]);
    terminal.assert_given_back(0);
    Ok(())
}

/// The numbers in the codes for attributes.
fn attributes(screen: &str) -> Vec<u32> {
    let codes = screen
        .split("\x1b[")
        .skip(1)
        .filter_map(|rest| Some(rest.split_once('m')?.0));
    codes
        .flat_map(|code| code.split([';', ':']).filter_map(|n| n.parse().ok()))
        .collect()
}

fn colours() -> Outcome {
    let api = FakeApi::start();
    // 39 and 49 are the terminal's own.
    let is_colour = |n: &u32| matches!(n, 30..=38 | 40..=48 | 90..=107);
    for (variable, coloured) in [("A=b", true), ("NO_COLOR=1", false), ("TERM=vt100", false)] {
        let command = format!("env {variable} {}", top(&api, ""));
        let terminal = Script::of(&command).start()?;
        terminal.wait_for("events lost 17");
        let found = attributes(&terminal.screen_with_colours());
        assert_eq!(
            found.iter().any(is_colour),
            coloured,
            "{variable}: {found:?}"
        );
        // Sixteen of them have codes of their own.
        let of_more = found.iter().any(|n| matches!(n, 38 | 48));
        assert!(!of_more, "{variable}: {found:?}");
        // What is chosen can be seen without.
        assert!(!found.is_empty(), "{variable}");
        terminal.press(&["q"]);
        terminal.assert_given_back(0);
    }
    Ok(())
}

fn signals() -> Outcome {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
        let api = FakeApi::start();
        let terminal = Script::of(&top(&api, "")).start()?;
        terminal.wait_for("RUNNING");
        // SAFETY: the child of a shell that waits for it, and has not got it back yet.
        assert_eq!(unsafe { libc::kill(terminal.pid(), signal) }, 0);
        terminal.assert_given_back(128 + signal);
    }
    Ok(())
}

fn panics() -> Outcome {
    let api = FakeApi::start();
    let command = top(&api, "--break panic");
    let env = &[("RUST_BACKTRACE", "0")];
    let terminal = Script {
        env,
        ..Script::of(&command)
    }
    .start()?;
    let screen = terminal.assert_given_back(101);
    assert!(
        screen.contains("on purpose"),
        "the message can be read:\n{screen}"
    );
    Ok(())
}

fn vanishes() -> Outcome {
    let api = FakeApi::start();
    let terminal = Script::of(&top(&api, "")).start()?;
    terminal.wait_for("RUNNING");
    api.vanish();
    let screen = terminal.assert_given_back(0);
    assert!(screen.contains("the VM has ended"), "{screen}");
    Ok(())
}

fn suspended() -> Outcome {
    let api = FakeApi::start();
    let command = top(&api, "");
    // The shell goes on when it stops; then it is to go on itself.
    let then = "echo stopped; read line; fg >/dev/null; echo \"again $?\"";
    let terminal = Script {
        then,
        ..Script::of(&command)
    }
    .start()?;
    terminal.wait_for("RUNNING");
    terminal.press(&["C-z"]);
    let screen = terminal.wait_for("stopped");
    assert!(
        screen.contains("the line before") && !screen.contains("RUNNING"),
        "{screen}"
    );
    terminal.press(&["Enter"]);
    terminal.wait_for("RUNNING");
    terminal.press(&["q"]);
    let screen = terminal.assert_given_back(128 + libc::SIGSTOP);
    assert!(screen.contains("again 0"), "{screen}");
    Ok(())
}

/// It says so, and the keys work.
fn no_answer() -> Outcome {
    let api = FakeApi::start();
    let terminal = Script::of(&top(&api, "")).start()?;
    terminal.wait_for("RUNNING");
    api.answer(GARBAGE);
    terminal.wait_for("no answer of this API");
    api.answer(WELL);
    terminal.wait_for("q quit");
    api.answer(NEVER);
    let asked = api.asked();
    while api.asked() == asked {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    terminal.press(&["?"]);
    terminal.wait_for("this help");
    terminal.press(&["x"]);
    terminal.wait_for("no answer within");
    terminal.press(&["q"]);
    terminal.assert_given_back(0);
    Ok(())
}
