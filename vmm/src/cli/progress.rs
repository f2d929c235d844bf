//! The line that shows that something is going on: on a terminal only.

use std::time::Duration;

use gracefault::machine::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::units::about;

pub(crate) struct Line(ProgressBar);

impl Line {
    /// Draws to stderr, and nothing if that is no terminal.
    pub(crate) fn new(duration: Duration) -> Self {
        let bar = ProgressBar::new(duration.as_millis() as u64);
        bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        let style = ProgressStyle::with_template("{bar:20} {msg}").expect("a valid template");
        bar.set_style(style);
        Self(bar)
    }

    pub(crate) fn show(&self, progress: Progress) {
        let Progress {
            elapsed,
            plugged,
            blocks,
            verified,
            mismatches,
        } = progress;
        self.0.set_position(elapsed.as_millis() as u64);
        let wrong = match mismatches {
            0 => String::new(),
            n => format!(", {n} WRONG"),
        };
        let verified = about(verified);
        self.0.set_message(format!(
            "{plugged}/{blocks} blocks plugged, {verified} verified{wrong}"
        ));
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
