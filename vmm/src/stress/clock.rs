//! Time in which this process was let run.
//!
//! A watch that goes by the wall calls a process stuck that was not given a processor for
//! a while: on a busy machine, with a low priority, that may be minutes. So the thread
//! that looks after a storm counts its own looks, and nothing is late before enough of
//! them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// From one look to the next.
pub(super) const TICK: Duration = Duration::from_millis(20);

/// Counts looks. A clone of a moment is a [`Since`].
#[derive(Debug, Default)]
pub(super) struct Clock(AtomicU64);

/// A moment, by a [`Clock`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Since(u64);

impl Clock {
    /// One look more.
    pub(super) fn tick(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn now(&self) -> Since {
        Since(self.0.load(Ordering::Relaxed))
    }

    /// Whether that much time was let run since.
    pub(super) fn is_past(&self, since: Since, time: Duration) -> bool {
        let ticks = self.now().0.saturating_sub(since.0);
        TICK.saturating_mul(u32::try_from(ticks).unwrap_or(u32::MAX)) >= time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_passes_by_looks_only() {
        let clock = Clock::default();
        let since = clock.now();
        assert!(!clock.is_past(since, TICK));
        (0..3).for_each(|_| clock.tick());
        assert!(clock.is_past(since, 3 * TICK));
        assert!(!clock.is_past(since, 4 * TICK));
    }
}
