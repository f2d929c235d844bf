//! Guest RAM from each place that `--memory` can name; and what this very host
//! cannot give, refused before anything runs.
use std::error::Error;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use libtest_mimic::{Completion, Trial};

use crate::command::{Ended, Running, gracefault};
use crate::report::{assert_passed, number};
use crate::support::pool::Pool;
use crate::support::required::{self, left_out};
use crate::support::{Outcome, kvm_test, kvm_test_if};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test("backings::memfd", || {
            for more in ["", ",prefault=on", ",lazy=on"] {
                assert_passes(&format!("backing=memfd{more}"));
            }
            Ok(())
        }),
        kvm_test("backings::anon", || {
            assert_passes("hugepages=off");
            assert_passes("prefault=on");
            Ok(())
        }),
        kvm_test_if("backings::huge_pages", || {
            match passes(&["hugepages=thp"]) {
                Some(refusal) => Ok(left_out(required::THP, refusal)?),
                None => Ok(Completion::Completed),
            }
        }),
        kvm_test_if("backings::hugetlb", hugetlb),
        kvm_test_if("backings::guest_memfd", || match passes(&GUEST_MEMFD) {
            Some(refusal) => Ok(Completion::ignored_with(refusal)),
            None => Ok(Completion::Completed),
        }),
        kvm_test("backings::files", files),
        kvm_test_if("backings::images", images),
        kvm_test_if("backings::an_image_without_userfaultfd", no_userfaultfd),
        kvm_test("backings::a_file_of_another_guest_s", || {
            ["file", "private-file"].into_iter().try_for_each(|kind| {
                assert_eq!(used_file(kind)?, None);
                Ok(())
            })
        }),
        kvm_test_if("backings::an_image_of_another_guest_s", || {
            unless_no_userfaultfd(used_file("image")?)
        }),
        kvm_test("backings::refused_by_limits_of_the_process", limits),
        kvm_test("backings::refused_by_the_host", refused_by_the_host),
    ]
}

const GUEST_MEMFD: [&str; 3] = [
    "backing=guest-memfd",
    "backing=guest-memfd,prefault=on",
    "backing=guest-memfd,lazy=on",
];

fn run_with(memory: &str) -> Ended {
    run_for("300ms", memory)
}

fn run_for(duration: &str, memory: &str) -> Ended {
    Running::start(gracefault([
        "run",
        "--json",
        "--duration",
        duration,
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
        let mut ended = run_with(memory);
        // Never killed: either it runs or it says why not.
        if ended.status.code() == Some(2) {
            assert_eq!(ended.stderr.lines().count(), 1, "{ended}");
            return Some(ended.stderr.trim().to_owned());
        }
        let plugs = |ended: &Ended| {
            let report = ended.expect_status(0).json();
            assert_passed(&report, 2);
            let backing = report["backing"].as_str().expect("a word");
            let is_it = !memory.contains("backing=") || memory.contains(backing);
            assert!(is_it, "another backing: {ended}");
            let refused = number(&report, "/hotplug/unmap_errors");
            assert_eq!(refused, 0, "not given back: {ended}");
            number(&report, "/hotplug/plug/total/count")
        };
        // On a busy machine it may come to none in so short a time.
        if plugs(&ended) == 0 {
            ended = run_for("30s", memory);
            assert!(plugs(&ended) > 0, "no block: {ended}");
        }
    }
    None
}

fn hugetlb() -> Result<Completion, Box<dyn Error>> {
    // 64 MiB, and 64 blocks of 2 MiB.
    let _pool = match Pool::grow(96) {
        Ok(pool) => pool,
        Err(reason) => return Ok(left_out(required::HUGETLB, reason)?),
    };
    assert_passes("backing=hugetlb");
    assert_passes("backing=hugetlb,prefault=on,hugepages=2M");
    let ended = run_with("backing=hugetlb,hotplug_size=4G");
    ended
        .expect_status(2)
        .expect_message(&["hugepages-2048kB/nr_hugepages"]);
    Ok(Completion::Completed)
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
    assert!(before == fs::read(&path)?, "it is not written");
    Ok(())
}

fn images() -> Result<Completion, Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("ram");
    let filled = filled();
    fs::write(&path, &filled)?;
    let image = backed("image", &path);
    let refusal = passes(&[&image, &format!("{image},lazy=on")]);
    assert!(filled == fs::read(&path)?, "it is not written");
    unless_no_userfaultfd(refusal)
}

/// The end of a test of images: `refusal` can only be for want of a userfaultfd.
fn unless_no_userfaultfd(refusal: Option<String>) -> Result<Completion, Box<dyn Error>> {
    let Some(refusal) = refusal else {
        return Ok(Completion::Completed);
    };
    assert!(refusal.contains("/dev/userfaultfd"), "{refusal}");
    Ok(left_out(required::UFFD, refusal)?)
}

/// Boot RAM and blocks of which no word is 0.
fn filled() -> Vec<u8> {
    (0..192_u32 << 20).map(|n| (n % 251) as u8).collect()
}

/// Boot RAM that is anything but fresh: reports, tables and the like are there. `Some`
/// is what this host cannot do.
fn used_file(kind: &str) -> Result<Option<String>, Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("ram");
    fs::write(&path, filled())?;
    Ok(passes(&[&backed(kind, &path)]))
}

/// Takes every way to a userfaultfd from a command that root starts: the right to
/// the system call, and the device.
fn without_userfaultfd(command: &mut Command) -> &mut Command {
    const CAP_SYS_PTRACE: u64 = 19;
    let check = |result: i32| match result {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    };
    let hide = move || {
        let null = std::ptr::null();
        // SAFETY: system calls only, which is all that a child may do here; the
        // strings are constants.
        unsafe {
            check(libc::prctl(libc::PR_CAPBSET_DROP, CAP_SYS_PTRACE))?;
            check(libc::unshare(libc::CLONE_NEWNS))?;
            let private = libc::MS_REC | libc::MS_PRIVATE;
            check(libc::mount(null, c"/".as_ptr(), null, private, null.cast()))?;
            let (from, to) = (c"/dev/null".as_ptr(), c"/dev/userfaultfd".as_ptr());
            check(libc::mount(from, to, null, libc::MS_BIND, null.cast()))
        }
    };
    // SAFETY: `hide` allocates nothing and takes no lock.
    unsafe { command.pre_exec(hide) }
}

fn no_userfaultfd() -> Result<Completion, Box<dyn Error>> {
    if let Err(error) = without_userfaultfd(&mut gracefault(["--version"])).output() {
        return Ok(Completion::ignored_with(format!(
            "it cannot be taken away: {error}"
        )));
    }
    let anyone = fs::read_to_string("/proc/sys/vm/unprivileged_userfaultfd");
    if anyone.is_ok_and(|text| text.trim() == "1") {
        return Ok(Completion::ignored_with("vm.unprivileged_userfaultfd is 1"));
    }
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("ram");
    fs::File::create(&path)?.set_len(192 << 20)?;
    let mut command = gracefault(["run", "--memory", &backed("image", &path)]);
    without_userfaultfd(&mut command);
    let ended = Running::start(command).wait();
    ended.expect_status(2).expect_message(&[
        "/dev/userfaultfd",
        "CAP_SYS_PTRACE",
        "vm.unprivileged_userfaultfd=1",
        "private-file",
    ]);
    Ok(Completion::Completed)
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
