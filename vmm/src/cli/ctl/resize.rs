//! `gracefault ctl resize`: asks, waits if asked, and tells the truth.

use std::thread::sleep;
use std::time::{Duration, Instant};

use gracefault::api::Client;
use gracefault::api::model::{ResizeRequest, ResizeState, ResizeStatus};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::super::units::{about, millis, size};
use super::super::{Failure, print_json, print_text};
use super::args::ResizeArgs;
use super::explain;

/// How often to look how far it is.
const LOOK: Duration = Duration::from_millis(50);

pub(super) fn resize(vm: &Client, args: &ResizeArgs, json: bool) -> Result<(), Failure> {
    let request = ResizeRequest {
        requested: args.size,
        forced: args.forced,
        wait_ms: None,
        patience_ms: args.patience.map(millis),
    };
    let begun = Instant::now();
    let before = vm.resize_status().map_err(explain)?.plugged;
    let mut status = vm.resize(&request).map_err(explain)?;
    if let Some(wait) = args.wait {
        let bar = bar(before, &status);
        while status.state == ResizeState::Underway && begun.elapsed() < wait {
            sleep(LOOK.min(wait.saturating_sub(begun.elapsed())));
            status = vm.resize_status().map_err(explain)?;
            show(&bar, before, &status);
            if status.requested != args.size {
                break;
            }
        }
        bar.finish_and_clear();
    }
    let is_reached = status.state == ResizeState::Done
        && status.requested == args.size
        && status.plugged == args.size;
    match json {
        true => print_json(&status)?,
        false => print_text(&sentence(&status, args.size))?,
    }
    match is_reached || args.wait.is_none() && status.state == ResizeState::Underway {
        true => Ok(()),
        // All is said.
        false => Err(Failure::Found),
    }
}

/// How it stands, and why.
fn sentence(status: &ResizeStatus, asked: u64) -> String {
    let reached = format!(
        "{} plugged of {} requested; the total is {}",
        size(status.plugged),
        size(asked),
        size(status.total)
    );
    if status.requested != asked {
        let other = size(status.requested);
        return format!("{reached}\nSomebody else has asked for {other} meanwhile.\n");
    }
    match (status.state, &status.error) {
        (ResizeState::Failed, Some(error)) => format!("{reached}\nIt has ended: {error}\n"),
        (ResizeState::Underway, _) => format!("{reached}\nIt goes on.\n"),
        _ => format!("{reached}\n"),
    }
}

/// On a terminal only, and to stderr.
fn bar(before: u64, status: &ResizeStatus) -> ProgressBar {
    let bar = ProgressBar::new(before.abs_diff(status.requested).max(1));
    bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
    let style = ProgressStyle::with_template("{bar:20} {msg}").expect("a valid template");
    bar.set_style(style);
    bar
}

fn show(bar: &ProgressBar, before: u64, status: &ResizeStatus) {
    bar.set_position(before.abs_diff(status.plugged));
    let (plugged, requested) = (about(status.plugged), about(status.requested));
    bar.set_message(format!("{plugged} of {requested} plugged"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_was_reached_and_why() {
        let status = |state, error: Option<&str>| ResizeStatus {
            block_size: 2 << 20,
            total: 128 << 20,
            requested: 64 << 20,
            plugged: 32 << 20,
            state,
            report: None,
            error: error.map(str::to_owned),
        };
        let said = sentence(&status(ResizeState::Underway, None), 64 << 20);
        assert!(
            said.starts_with("32 MiB (33554432 bytes) plugged of 64 MiB"),
            "{said}"
        );
        assert!(said.ends_with("It goes on.\n"), "{said}");
        let said = sentence(&status(ResizeState::Failed, Some("no memory")), 64 << 20);
        assert!(said.contains("It has ended: no memory"), "{said}");
        let said = sentence(&status(ResizeState::Done, None), 2 << 20);
        assert!(
            said.contains("Somebody else has asked for 64 MiB"),
            "{said}"
        );
    }
}
