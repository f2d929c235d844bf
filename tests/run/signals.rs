//! Ctrl-C and SIGTERM in the middle of a run: it ends soon, the results so far
//! are shown, and the exit status tells of the signal.
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use crate::command::{Running, gracefault};
use crate::image::ImageFile;
use crate::report::{assert_kvm_agrees, mmio_exits, sentences};
use crate::support::{Outcome, guest, kvm_test};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test("signals::ctrl_c_shows_json", || {
            json(libc::SIGINT, &["--no-churn"])
        }),
        kvm_test("signals::sigterm_shows_json", || json(libc::SIGTERM, &[])),
        kvm_test("signals::sigterm_shows_tables", tables),
        kvm_test("signals::ctrl_c_ends_a_guest_that_hangs", hanging),
    ]
}

/// How soon a stopped run must have ended, however slow the machine.
const SOON: Duration = Duration::from_secs(20);
/// Longer than any test.
const FOREVER: [&str; 5] = ["run", "--duration", "1h", "--timeout", "2h"];

/// Waits until the process has vCPU threads, and a little longer.
fn until_it_runs(running: &mut Running) {
    let tasks = format!("/proc/{}/task", running.child().id());
    let names = || {
        let tasks = std::fs::read_dir(&tasks).into_iter().flatten().flatten();
        tasks
            .filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok())
            .any(|name| name.starts_with("vcpu 0"))
    };
    let start = Instant::now();
    while !names() {
        assert!(start.elapsed() < SOON, "no vCPU thread yet");
        thread::sleep(Duration::from_millis(5));
    }
    thread::sleep(Duration::from_millis(500));
}

fn json(signal: i32, more: &[&str]) -> Outcome {
    let mut command = gracefault(FOREVER);
    command.arg("--json").args(more);
    let mut running = Running::start(command);
    until_it_runs(&mut running);
    let since = Instant::now();
    running.signal(signal);
    let ended = running.wait();
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
    ended.expect_status(128 + signal);
    assert_eq!(ended.stderr, "", "{ended}");
    let report = ended.json();
    assert_eq!(report["verdict"], "stopped", "{ended}");
    assert_eq!(sentences(&report, "findings"), "");
    // KVM's count is checked all the same; the guest's cannot be, and it says so.
    assert_kvm_agrees(&report, 2);
    assert!(mmio_exits(&report) > 0, "{ended}");
    let unchecked = sentences(&report, "unchecked");
    for vcpu in 0..2 {
        let words = format!("vCPU {vcpu}: the guest's own counts, since it was stopped");
        assert!(unchecked.contains(&words), "{ended}");
        let end = &report["vcpus"][vcpu];
        assert_eq!(end["end"], "was stopped", "{ended}");
        assert!(end["guest_device_accesses"].is_null(), "{ended}");
    }
    Ok(())
}

fn tables() -> Outcome {
    let mut running = Running::start(gracefault(FOREVER));
    until_it_runs(&mut running);
    running.signal(libc::SIGTERM);
    let ended = running.wait();
    ended.expect_status(143);
    assert_eq!(ended.stderr, "", "{ended}");
    for words in [
        "\nExits (",
        "\nLookups\n",
        "\nHotplug\n",
        "\nvCPUs: ",
        "Not checked: vCPU 1: the guest's own counts, since it was stopped.",
        "STOPPED from outside; what could be checked holds",
    ] {
        assert!(ended.stdout.contains(words), "no '{words}': {ended}");
    }
    Ok(())
}

/// A guest that never exits is thrown out of the guest by the kick alone.
fn hanging() -> Outcome {
    let image = ImageFile::of_code(guest!("5: jmp 5b"));
    let mut command = gracefault(FOREVER);
    command.args(["--json", "--kernel"]).arg(&image.path);
    let mut running = Running::start(command);
    until_it_runs(&mut running);
    let since = Instant::now();
    running.signal(libc::SIGINT);
    let ended = running.wait();
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
    ended.expect_status(130);
    let report = ended.json();
    assert_eq!(report["verdict"], "stopped", "{ended}");
    assert_eq!(report["vcpus"][0]["rip"], crate::image::IMAGE, "{ended}");
    Ok(())
}
