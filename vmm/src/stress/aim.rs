//! Threads that linger at a few windows, and often, instead of everywhere now and then:
//! for orders that take three threads a few instructions apart.

use std::time::Duration;

use crate::mm::Window;

/// A window, and what a thread does there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Aim {
    pub(super) at: Window,
    pub(super) when: When,
    pub(super) how: How,
}

/// At which times that a thread is at a window.
#[derive(Clone, Copy, Debug)]
pub(super) enum When {
    /// One in this many; a power of two.
    OneIn(u32),
    /// Each time that it is there for the n-th time with no other window between: a
    /// scan has looked at n - 1 entries.
    Nth(u32),
}

/// What a thread does at a window.
#[derive(Clone, Copy, Debug)]
pub(super) enum How {
    /// Nothing, for up to that long.
    Pass(Duration),
    /// Fills the store buffer, so that the next store is on its way for long.
    Fill,
}

impl Aim {
    /// Whether threads with `aims` have to run at the same moment.
    pub(super) fn is_any_fill(aims: &[Self]) -> bool {
        aims.iter().any(|aim| matches!(aim.how, How::Fill))
    }

    /// Lingers at `at`, one time in `one_in`, for up to `micros`.
    pub(super) const fn one_in(one_in: u32, at: Window, micros: u64) -> Self {
        let how = How::Pass(Duration::from_micros(micros));
        let when = When::OneIn(one_in);
        Self { at, when, how }
    }

    /// Lingers at `at`, the `n`-th time.
    pub(super) const fn nth(n: u32, at: Window, micros: u64) -> Self {
        let how = How::Pass(Duration::from_micros(micros));
        let when = When::Nth(n);
        Self { at, when, how }
    }

    /// Fills the store buffer at `at`, each time.
    pub(super) const fn fill(at: Window) -> Self {
        let (when, how) = (When::OneIn(1), How::Fill);
        Self { at, when, how }
    }
}
