//! Messages that a guest can cause, at a rate it cannot raise.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Lets one message through per interval and counts the others.
#[derive(Debug)]
pub struct LogLimit {
    start: Instant,
    interval: Duration,
    /// Nanoseconds after `start` from which on the next message may pass. Mostly
    /// read: written once per interval.
    next: AtomicU64,
    suppressed: AtomicU64,
}

impl LogLimit {
    /// One message per `interval`, the first at once.
    pub fn new(interval: Duration) -> Self {
        Self {
            start: Instant::now(),
            interval,
            next: AtomicU64::new(0),
            suppressed: AtomicU64::new(0),
        }
    }

    /// Whether a message may pass now; if so, how many have been held back since
    /// the last.
    pub fn pass(&self) -> Option<u64> {
        let now = self.start.elapsed();
        let at = self.next.load(Ordering::Relaxed);
        let is_due = now.as_nanos() as u64 >= at;
        let next = (now + self.interval).as_nanos() as u64;
        // Of several threads that are due, the one that moves `next` passes.
        let moved = is_due
            && self
                .next
                .compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if moved {
            return Some(self.suppressed.swap(0, Ordering::Relaxed));
        }
        self.suppressed.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_passes_and_the_rest_are_counted() {
        let limit = LogLimit::new(Duration::from_secs(3600));
        assert_eq!(limit.pass(), Some(0));
        assert_eq!([limit.pass(), limit.pass()], [None, None]);
        let open = LogLimit::new(Duration::ZERO);
        assert!(open.pass().is_some() && open.pass().is_some());
    }
}
