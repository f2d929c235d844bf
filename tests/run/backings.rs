//! Guest RAM from each place that `--memory` can name; and what this very host
//! cannot give, refused before anything runs.
use std::fs;
use std::path::Path;
use std::process::Command;

use libtest_mimic::{Completion, Trial};

use crate::command::{Ended, Running, gracefault};
use crate::report::{assert_passed, number};
use crate::support::{Outcome, kvm_test, kvm_test_if};

pub(crate) fn trials() -> Vec<Trial> {
    let each = |name, words: &'static [&'static str]| {
        kvm_test_if(name, move || match passes(words) {
            Some(refusal) => Ok(Completion::ignored_with(refusal)),
            None => Ok(Completion::Completed),
        })
    };
    vec![
        each(
            "backings::memfd",
            &["backing=memfd", "backing=memfd,prefault=on"],
        ),
        each("backings::anon", &["hugepages=off", "prefault=on"]),
        each("backings::huge_pages", &["hugepages=thp"]),
        each("backings::hugetlb", &["backing=hugetlb"]),
        each(
            "backings::guest_memfd",
            &["backing=guest-memfd", "backing=guest-memfd,prefault=on"],
        ),
        kvm_test("backings::files", files),
        kvm_test("backings::a_file_of_another_guest_s", used_file),
        kvm_test("backings::refused_by_limits_of_the_process", limits),
        kvm_test("backings::refused_by_the_host", refused_by_the_host),
    ]
}

fn run_with(memory: &str) -> Ended {
    Running::start(gracefault([
        "run",
        "--json",
        "--duration",
        "300ms",
        "--timeout",
        "120s",
        "--memory",
        memory,
    ]))
    .wait()
}

/// Runs with each; `Some` is what this host cannot do.
fn passes(memory: &[&str]) -> Option<String> {
    for memory in memory {
        let ended = run_with(memory);
        // Never killed: either it runs or it says why not.
        if ended.status.code() == Some(2) {
            assert_eq!(ended.stderr.lines().count(), 1, "{ended}");
            return Some(ended.stderr.trim().to_owned());
        }
        let report = ended.expect_status(0).json();
        assert_passed(&report, 2);
        let backing = report["backing"].as_str().expect("a word");
        assert!(
            !memory.contains("backing=") || memory.contains(backing),
            "{ended}"
        );
        assert!(number(&report, "/hotplug/plug/total/count") > 0, "{ended}");
        assert_eq!(number(&report, "/hotplug/unmap_errors"), 0, "{ended}");
    }
    None
}

fn backed(kind: &str, path: &Path) -> String {
    format!("backing={kind}:{}", path.display())
}

#[track_caller]
fn assert_passes(memory: &str) {
    assert_eq!(passes(&[memory]), None, "{memory}");
}

fn files() -> Outcome {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("ram");
    assert_passes(&backed("file", &path));
    assert_eq!(fs::metadata(&path)?.len(), 192 << 20);
    assert_passes(&format!("{},discard=on", backed("file", &path)));
    let before = fs::read(&path)?;
    assert_passes(&backed("private-file", &path));
    assert!(before == fs::read(&path)?, "a private file is not written");
    Ok(())
}

/// Boot RAM that is anything but fresh: reports, tables and the like are there.
fn used_file() -> Outcome {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("ram");
    let filled: Vec<u8> = (0..192_u32 << 20).map(|n| (n % 251) as u8).collect();
    for kind in ["file", "private-file"] {
        fs::write(&path, &filled)?;
        assert_passes(&backed(kind, &path));
    }
    Ok(())
}

/// Runs under a limit of the shell's `ulimit`.
fn limited(ulimit: &str, memory: &str) -> Ended {
    let gracefault = gracefault(["run"]);
    let mut shell = Command::new("sh");
    let script = format!("ulimit {ulimit} && exec \"$0\" run --memory {memory}");
    shell.args(["-c", &script]).arg(gracefault.get_program());
    Running::start(shell).wait()
}

fn limits() -> Outcome {
    let ended = limited("-v 2000000", "size=64M,hotplug_size=4G");
    ended
        .expect_status(2)
        .expect_message(&["RLIMIT_AS", "ulimit -v", "hotplug_size="]);
    let ended = limited("-d 1000000", "size=64M,hotplug_size=4G");
    ended
        .expect_status(2)
        .expect_message(&["RLIMIT_DATA", "ulimit -d"]);
    // The kernel's own answer to this one would be a signal.
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("ram");
    for memory in ["backing=memfd", &backed("file", &path)] {
        let ended = limited("-f 1000", memory);
        ended
            .expect_status(2)
            .expect_message(&["RLIMIT_FSIZE", "ulimit -f"]);
    }
    Ok(())
}

fn refused_by_the_host() -> Outcome {
    let ended = run_with("backing=hugetlb,hugepages=1G,size=1G,hotplug_size=0,block=1G");
    if ended.status.code() != Some(0) {
        ended
            .expect_status(2)
            .expect_message(&["huge pages of 1073741824 bytes"]);
    }
    let missing = run_with("backing=private-file:/nonexistent/ram");
    missing
        .expect_status(2)
        .expect_message(&["/nonexistent/ram", "cannot be opened"]);
    let device = run_with("backing=file:/dev/null");
    device
        .expect_status(2)
        .expect_message(&["/dev/null", "no regular file"]);
    let discard = run_with("discard=on");
    discard
        .expect_status(2)
        .expect_message(&["discard=on", "backing=file:PATH"]);
    Ok(())
}
