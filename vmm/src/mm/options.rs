//! How to lock a write set.

use std::fmt;
use std::time::{Duration, Instant};

use super::DrainReport;

/// What to do while readers hold the write set. The default is to wait for as long
/// as they take.
#[derive(Debug, Default)]
pub struct LockOptions<'f> {
    /// When to give up.
    pub deadline: Option<Instant>,
    /// Whom to tell that it lasts.
    pub on_slow: Option<OnSlow<'f>>,
}

/// Who is told that a drain lasts, and when: after that time, and again after
/// twice as long each time, for as long as it lasts.
pub struct OnSlow<'f> {
    /// How long a drain may take that nobody need know of.
    pub after: Duration,
    /// Called with the time waited so far and the readers that are there now. The
    /// map lock is taken by this thread, and no VMA is locked: whoever waits for
    /// the section is let in first, so that no reader waits for what is done here.
    /// Lookups are allowed, but their guards are to be dropped before it returns.
    /// If it panics, the section is given up.
    pub call: &'f mut dyn FnMut(&DrainReport),
}

impl fmt::Debug for OnSlow<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnSlow")
            .field("after", &self.after)
            .finish_non_exhaustive()
    }
}
