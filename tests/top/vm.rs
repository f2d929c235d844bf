//! `top` and `map` of a VM that runs, in a terminal.
use std::error::Error;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::{Completion, Trial};
use tempfile::TempDir;

use crate::command::{HANG, Running, gracefault};
use crate::support::required::{self, left_out};
use crate::support::tmux::{Script, missing};
use crate::support::{Outcome, kvm_test_if};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("vm::top_follows_it", follows),
        trial("vm::map_in_a_terminal", map),
    ]
}

/// Needs KVM, and tmux.
fn trial(name: &str, test: fn() -> Outcome) -> Trial {
    kvm_test_if(name, move || match missing() {
        Some(reason) => Ok(left_out(required::TMUX, reason)?),
        None => test().map(|()| Completion::Completed),
    })
}

/// A VM that runs until it is told to end.
struct Vm {
    running: Running,
    socket: PathBuf,
    _dir: TempDir,
}

impl Vm {
    fn start() -> Result<Self, Box<dyn Error>> {
        let dir = TempDir::new()?;
        let socket = dir.path().join("api");
        let mut command = gracefault(["run", "--duration", "1h", "--timeout", "2h"]);
        command.args(["--memory", "hotplug_size=16M"]);
        command.arg("--api-socket").arg(&socket);
        let running = Running::start(command);
        let since = Instant::now();
        while !socket.exists() {
            assert!(since.elapsed() < HANG, "there is no socket");
            thread::sleep(Duration::from_millis(10));
        }
        Ok(Self {
            running,
            socket,
            _dir: dir,
        })
    }

    fn command(&self, name: &str, more: &str) -> String {
        let program = gracefault([""])
            .get_program()
            .to_str()
            .expect("UTF-8")
            .to_owned();
        format!(
            "{program} {name} --api-socket {} {more}",
            self.socket.display()
        )
    }

    fn ctl(&self, what: &str) {
        let mut command = gracefault(["ctl", "--api-socket"]);
        command.arg(&self.socket).arg(what);
        Running::start(command).wait().expect_status(0);
    }

    /// Ends it, and sees that it has ended well.
    fn shut_down(self) {
        self.ctl("shutdown");
        self.passed();
    }

    fn passed(self) {
        let ended = self.running.wait();
        ended.expect_status(0);
        assert!(ended.stdout.contains("PASSED"), "{ended}");
    }
}

/// The exits a second that a screen tells, if it does yet.
fn rate(screen: &str) -> Option<&str> {
    let rate = screen.split_once("exits ")?.1.split_once("/s")?.0;
    (rate != "-" && rate != "0").then_some(rate)
}

fn follows() -> Outcome {
    let vm = Vm::start()?;
    let terminal = Script::of(&vm.command("top", "-d 200ms")).start()?;
    let screen = terminal.wait("exits", |screen| {
        let devices = [" test ", " hotplug ", " dma "];
        let one_of_them = devices.iter().any(|device| screen.contains(device));
        screen.contains("RUNNING") && rate(screen).is_some() && one_of_them
    });
    for words in ["2 vCPUs  RAM 64M", "of 16M", "devices dddd", "hotplug "] {
        assert!(screen.contains(words), "no '{words}':\n{screen}");
    }
    // Blocks come and go.
    let strip = |screen: &str| {
        let line = screen.lines().find(|line| line.contains("devices dddd"));
        line.map(str::to_owned)
    };
    let first = strip(&screen);
    terminal.wait("another map", |screen| strip(screen) != first);
    vm.ctl("pause");
    terminal.wait("a VM that is paused", |screen| {
        screen.contains("PAUSED") && screen.matches("paused").count() == 2
    });
    vm.ctl("resume");
    terminal.wait("a VM that runs again", |screen| {
        screen.contains("RUNNING") && rate(screen).is_some()
    });
    vm.ctl("shutdown");
    let screen = terminal.assert_given_back(0);
    assert!(screen.contains("the VM has ended"), "{screen}");
    vm.passed();
    Ok(())
}

fn map() -> Outcome {
    let vm = Vm::start()?;
    let terminal = Script::of(&vm.command("map", "--watch 200ms")).start()?;
    let screen = terminal.wait("a block", |screen| screen.contains(" rwx-b "));
    for words in [
        "000000000000-000004000000",
        "0000d0200000-",
        "mmio",
        " hotplug",
        " dma",
    ] {
        assert!(screen.contains(words), "no '{words}':\n{screen}");
    }
    terminal.wait("another map", |other| {
        other.contains(" rwx-b ") && other != screen
    });
    terminal.press(&["C-c"]);
    terminal.wait_for("status 130");
    vm.shut_down();
    Ok(())
}
