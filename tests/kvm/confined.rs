//! vCPU threads under a seccomp filter: what it does not allow ends the process, also
//! while the thread holds what another waits for; what it allows works. Each in a child,
//! which is this program again (see `confined_child`).
use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use crate::confined_child::{ACT, FILTER, OVER};
use crate::support::{Outcome, kvm_test};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test("confined_what_is_outside_ends_the_process", outside),
        kvm_test("confined_what_is_inside_works", inside),
        kvm_test("confined_a_process_ends_by_its_own_faults", own_faults),
        kvm_test(
            "confined_a_wait_goes_on_after_a_stop",
            stopped_and_continued,
        ),
        kvm_test("confined_without_sigsys_there_is_no_message", no_message),
        kvm_test(
            "confined_nobody_waits_for_a_reader_of_stderr",
            stderr_is_full,
        ),
        kvm_test("confined_by_what_was_asked_for", as_asked),
    ]
}

/// What is outside of the filter, and the name that the message gives it.
const OUTSIDE: &[(&str, &str)] = &[
    ("open a socket", "(socket)"),
    ("open a file", "(openat)"),
    ("write to stdout", "(write), arguments 0x1 "),
    ("kill", "(kill)"),
    ("signal a thread", "(tgkill)"),
    ("map to execute", "(mmap), arguments 0x0 0x1000 0x5,"),
    ("map a file", "(mmap), arguments 0x0 0x1000 0x1,"),
    ("protect to execute", "(mprotect), arguments 0x0 0x0 0x4,"),
    ("another ioctl", "(ioctl), arguments 0x2 0x541b "),
    ("an ioctl of KVM", "(ioctl), arguments 0x2 0xae01 "),
    ("a lock with priorities", "(futex), arguments 0x0 0x6 "),
    ("poll and wait", "(poll)"),
    ("catch a signal", "(rt_sigaction)"),
    ("sleep", "(clock_nanosleep)"),
    ("another filter", "(seccomp)"),
];

/// As these, but the C library blocks all signals meanwhile.
const OUTSIDE_UNSEEN: &[&str] = &["start a thread", "a call, with SIGSYS blocked"];

/// Far more than any child takes.
const HANG: Duration = Duration::from_secs(120);

fn start(act: &str, filter: &str, stderr: Stdio) -> Result<Child, Box<dyn Error>> {
    let mut command = Command::new(std::env::current_exe()?);
    command.env(ACT, act).env(FILTER, filter);
    command.env("RUST_BACKTRACE", "1");
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    Ok(command.stderr(stderr).spawn()?)
}

/// Waits for a child, which does not outlive that.
fn wait(mut child: Child, act: &str) -> Result<Output, Box<dyn Error>> {
    let since = Instant::now();
    while child.try_wait()?.is_none() {
        if since.elapsed() > HANG {
            child.kill()?;
            child.wait()?;
            return Err(format!("'{act}' hangs").into());
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(child.wait_with_output()?)
}

fn run(act: &str, filter: &str) -> Result<(Output, String, bool), Box<dyn Error>> {
    let output = wait(start(act, filter, Stdio::piped())?, act)?;
    let stderr = String::from_utf8(output.stderr.clone())?;
    let over = String::from_utf8(output.stdout.clone())?.trim_end() == OVER;
    Ok((output, stderr, over))
}

fn outside() -> Outcome {
    for (act, name) in OUTSIDE {
        let (output, stderr, over) = run(act, "on")?;
        let told = format!("{act}: {output:?}");
        assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{told}");
        assert!(!over && stderr.lines().count() == 1, "{told}");
        for word in ["gracefault: the thread of vCPU 0 (", name, "--seccomp log"] {
            assert!(stderr.contains(word), "no '{word}': {told}");
        }
    }
    Ok(())
}

fn inside() -> Outcome {
    for (act, says) in [
        ("allocate", ""),
        ("log", "a message"),
        ("tell the time", ""),
        ("panic, caught", "on purpose"),
    ] {
        let (output, stderr, over) = run(act, "on")?;
        assert!(output.status.success() && over, "{act}: {output:?}");
        assert!(stderr.contains(says), "{act}: {output:?}");
        assert!(!stderr.contains("stack backtrace"), "{act}: {output:?}");
    }
    Ok(())
}

/// A debugger, or a core dump, is to show what it was.
fn own_faults() -> Outcome {
    for (act, signal) in [
        ("abort", libc::SIGABRT),
        ("touch nothing", libc::SIGSEGV),
        ("touch what a file has lost", libc::SIGBUS),
    ] {
        let (output, stderr, over) = run(act, "on")?;
        assert_eq!(output.status.signal(), Some(signal), "{act}: {output:?}");
        assert!(!over && !stderr.contains("seccomp"), "{act}: {output:?}");
    }
    Ok(())
}

/// The kernel then goes on with the wait by a system call of its own.
fn stopped_and_continued() -> Outcome {
    let act = "lock and wait";
    let mut child = start(act, "on", Stdio::piped())?;
    let mut stderr = BufReader::new(child.stderr.take().expect("it is a pipe"));
    let mut line = String::new();
    stderr.read_line(&mut line)?;
    assert_eq!(line, "waiting\n");
    for _ in 0..5 {
        for signal in [libc::SIGSTOP, libc::SIGCONT] {
            thread::sleep(Duration::from_millis(50));
            // SAFETY: a child that has not been waited for.
            unsafe { libc::kill(child.id() as i32, signal) };
        }
    }
    let output = wait(child, act)?;
    stderr.read_to_string(&mut line)?;
    assert!(output.status.success(), "{output:?} {line}");
    Ok(())
}

fn no_message() -> Outcome {
    for act in OUTSIDE_UNSEEN {
        let (output, stderr, over) = run(act, "on")?;
        let told = format!("{act}: {output:?}");
        assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{told}");
        assert!(!over && stderr.is_empty(), "{told}");
    }
    Ok(())
}

fn stderr_is_full() -> Outcome {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors, which are new and nobody else's.
    let (mut reader, writer) = unsafe {
        assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC), 0);
        (
            std::fs::File::from_raw_fd(ends[0]),
            OwnedFd::from_raw_fd(ends[1]),
        )
    };
    let mut full = std::fs::File::from(writer.try_clone()?);
    let fd = full.as_raw_fd();
    let non_blocking = |on| {
        let flags = if on { libc::O_NONBLOCK } else { 0 };
        // SAFETY: a descriptor of this function's own.
        assert_eq!(unsafe { libc::fcntl(fd, libc::F_SETFL, flags) }, 0);
    };
    non_blocking(true);
    while full.write(&[b'x'; 4096]).is_ok() {}
    non_blocking(false);
    let act = "open a socket";
    let output = wait(start(act, "on", writer.into())?, act)?;
    assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{output:?}");
    drop(full);
    let mut text = String::new();
    reader.read_to_string(&mut text)?;
    assert!(!text.contains("gracefault"), "nothing was written");
    Ok(())
}

fn as_asked() -> Outcome {
    let socket = libc::SYS_socket.to_string();
    for filter in ["off", "log"] {
        let (output, _, over) = run("open a socket", filter)?;
        assert!(output.status.success() && over, "{filter}: {output:?}");
    }
    // A call that is allowed besides is that one, and no other.
    let (output, stderr, _) = run("open a socket", &socket)?;
    assert!(!stderr.contains("(socket)"), "{output:?}");
    assert!(stderr.contains("(bind)"), "{output:?}");
    let sleep = libc::SYS_clock_nanosleep.to_string();
    let (output, _, over) = run("sleep", &sleep)?;
    assert!(output.status.success() && over, "{output:?}");
    Ok(())
}
