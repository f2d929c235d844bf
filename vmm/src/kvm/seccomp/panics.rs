//! Panics on confined threads.
//!
//! The standard hook may print a backtrace, for which it opens files, and another hook
//! may do anything. A panic of a device's handler is to cost that access and nothing
//! more, so on such a thread it is told in one line.
use std::io::Write;
use std::panic::{PanicHookInfo, set_hook, take_hook};
use std::sync::{Once, OnceLock};
use std::time::Duration;

use super::super::handler::panic_message;
use super::violation::confined_to;
use crate::memory::LogLimit;

/// Sets the hook, once; on other threads it does what the one before did.
pub(super) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| match confined_to() {
            Some(vcpu) => tell(vcpu, panic),
            None => before(panic),
        }));
    });
}

fn tell(vcpu: u32, panic: &PanicHookInfo<'_>) {
    // Should it be the guest that causes them.
    static LIMIT: OnceLock<LogLimit> = OnceLock::new();
    let limit = LIMIT.get_or_init(|| LogLimit::new(Duration::from_millis(100)));
    let Some(more) = limit.pass() else { return };
    let message = panic_message(panic.payload());
    let location = panic.location().map(ToString::to_string);
    let location = location.unwrap_or_default();
    let held_back = match more {
        0 => String::new(),
        more => format!(" ({more} more held back)"),
    };
    // Unlike `eprintln!`, which panics, this does without a stderr that is closed.
    let _ = writeln!(
        std::io::stderr(),
        "thread 'vcpu {vcpu}' panicked at {location}:\n{message}{held_back}\n(no backtrace: its \
         seccomp filter lets it read no file; see --seccomp off)"
    );
}
