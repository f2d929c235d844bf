//! The line that shows that something is going on: on a terminal only.

use std::fs::File;
use std::io::{self, Write};
use std::time::Duration;

use gracefault::machine::Progress;
use gracefault::stress::StressProgress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::units::about;

pub(crate) struct Line(ProgressBar);

impl Line {
    /// Draws to stderr, and nothing if that is no terminal.
    pub(crate) fn new(duration: Duration) -> Self {
        let (bar, template) = match duration {
            Duration::MAX => (ProgressBar::new_spinner(), "{spinner} {msg}"),
            _ => (
                ProgressBar::new(duration.as_millis() as u64),
                "{bar:20} {msg}",
            ),
        };
        bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        let style = ProgressStyle::with_template(template).expect("a valid template");
        bar.set_style(style);
        Self(bar)
    }

    /// `out`, with the line out of the way while something is written.
    pub(crate) fn beside(&self, out: File) -> Box<dyn Write + Send> {
        Box::new(Beside(self.0.clone(), out))
    }

    /// Shows how far a storm is.
    pub(crate) fn show_storm(&self, progress: StressProgress) {
        let StressProgress {
            elapsed,
            lookups,
            ops,
        } = progress;
        self.0.set_position(elapsed.as_millis() as u64);
        self.0
            .set_message(format!("{lookups} lookups, {ops} operations"));
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

struct Beside(ProgressBar, File);

impl Write for Beside {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let Self(line, out) = self;
        match line.is_hidden() {
            true => out.write(data),
            false => line.suspend(|| out.write(data)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.1.flush()
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
