//! `top` on a terminal that goes away, without a signal that would say so.
use std::fs::File;
use std::io::Read;
use std::os::fd::FromRawFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use crate::command::gracefault;
use crate::support::Outcome;
use crate::support::fake_api::FakeApi;

pub(crate) fn trials() -> Vec<Trial> {
    vec![Trial::test("hangup::ends_it", || {
        Ok(ends().map_err(|error| error.to_string())?)
    })]
}

/// Both ends of a new terminal: what a window has, and what the program in it has.
fn terminal() -> std::io::Result<(File, File)> {
    let (mut ours, mut theirs) = (-1, -1);
    let size = libc::winsize {
        ws_row: 24,
        ws_col: 80,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let (name, settings) = (std::ptr::null_mut(), std::ptr::null());
    // SAFETY: writes two descriptors, and reads the size.
    let failed = unsafe {
        libc::openpty(
            &raw mut ours,
            &raw mut theirs,
            name,
            settings,
            &raw const size,
        )
    };
    if failed != 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: just opened, and nobody else's.
    let ends = unsafe { (File::from_raw_fd(ours), File::from_raw_fd(theirs)) };
    // SAFETY: sets a flag of our own descriptor: the program is not to have this end too.
    unsafe { libc::fcntl(ours, libc::F_SETFD, libc::FD_CLOEXEC) };
    Ok(ends)
}

fn ends() -> Outcome {
    let api = FakeApi::start();
    let (mut window, inside) = terminal()?;
    let program = gracefault(["top"]).get_program().to_owned();
    let mut top = Command::new(program)
        .args(["top", "-d", "200ms", "--api-socket"])
        .arg(api.path())
        .env("TERM", "xterm")
        .stdin(inside.try_clone()?)
        .stdout(inside)
        .stderr(Stdio::null())
        .spawn()?;
    // It draws.
    window.read_exact(&mut [0; 256])?;
    drop(window);
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = top.try_wait()? {
            break status;
        }
        if begun.elapsed() > Duration::from_secs(60) {
            top.kill()?;
            top.wait()?;
            return Err("it goes on, with nobody to look at it".into());
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(status.code(), Some(1), "{status}");
    Ok(())
}
