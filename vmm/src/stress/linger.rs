//! Threads that linger between two steps of the protocol, by a seed.
//!
//! [`mm`](crate::mm) calls [`at`] at each [`Window`] of a space that is told so. What
//! a thread does there grows from the seed it was given and from nothing else.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::mm::{AtWindow, Window};

/// What a storm's space is made with.
pub(super) const AT_WINDOW: AtWindow = AtWindow(at);

/// Of the windows on a lookup's usual way, one in this many is lingered at; of the
/// others one in [`RARE`].
const USUAL: u32 = 1 << 12;
const RARE: u32 = 1 << 6;

thread_local! {
    /// 0: this thread does not linger.
    static STATE: Cell<u64> = const { Cell::new(0) };
    /// One in how many [`USUAL`] windows it lingers at.
    static ONE_IN: Cell<u32> = const { Cell::new(USUAL) };
    /// One in how many steps of a scan it lingers at.
    static SCANNING: Cell<u32> = const { Cell::new(RARE) };
}

/// What threads without a seed take theirs from; 0: they do not linger.
static ALL: AtomicU64 = AtomicU64::new(0);

/// From now on the calling thread lingers at many a step of its scans: what is about
/// holds that move shows there.
pub(super) fn scan_slowly() {
    SCANNING.set(16);
}

static LINGERED: [AtomicU64; Window::ALL.len()] = [const { AtomicU64::new(0) }; Window::ALL.len()];

/// From now on the calling thread lingers, by this seed.
pub(super) fn start(seed: u64) {
    STATE.set(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
}

/// From now on every thread that was given no seed takes one of its own from this one.
pub(super) fn start_all(seed: u64) {
    ALL.store(
        seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        Ordering::Relaxed,
    );
}

#[cold]
fn seed() -> u64 {
    match ALL.load(Ordering::Relaxed) {
        0 => 0,
        // vCPUs, which look up a hundred times less often.
        _ => {
            ONE_IN.set(RARE);
            next(ALL.fetch_add(2, Ordering::Relaxed)) | 1
        }
    }
}

/// How often threads of this process have lingered at each window.
pub(super) fn counts() -> Vec<(Window, u64)> {
    let count = |window: &Window| LINGERED[*window as usize].load(Ordering::Relaxed);
    Window::ALL.iter().map(|w| (*w, count(w))).collect()
}

fn next(state: u64) -> u64 {
    let mut x = state;
    x ^= x << 13;
    x ^= x >> 7;
    x ^ x << 17
}

fn at(window: Window) {
    let mut state = STATE.get();
    if state == 0 {
        state = seed();
        if state == 0 {
            return;
        }
    }
    let state = next(state);
    STATE.set(state);
    let one_in = match window {
        Window::Entering
        | Window::Walking
        | Window::Looked
        | Window::Rooted
        | Window::Found
        | Window::Leaving
        | Window::Left => ONE_IN.get(),
        // What few sections, or few lookups, come to.
        Window::Trying | Window::Tried => 4,
        Window::Moving => 16,
        Window::Scanning => SCANNING.get(),
        _ => RARE,
    };
    let draw = (state >> 32) as u32;
    if before_a_fence(window) && (window != Window::Entering || draw & 0xf000 == 0) {
        fill_store_buffer(draw);
    }
    if draw & (one_in - 1) == 0 {
        linger(window, draw / one_in);
    }
}

/// Whether what comes next is a store that a fence has to make visible.
fn before_a_fence(window: Window) -> bool {
    use Window::{Drained, Entering, Marking, Planned};
    matches!(window, Entering | Planned | Marking | Drained)
}

/// Stores to memory that is in no cache, so that the next store waits behind them: that
/// is when it matters whether a fence waits for it. Costs the thread itself next to
/// nothing.
fn fill_store_buffer(draw: u32) {
    const LINES: usize = 1 << 20;
    #[repr(align(64))]
    struct Line(AtomicU64);
    static COLD: OnceLock<Box<[Line]>> = OnceLock::new();
    let cold = COLD.get_or_init(|| (0..LINES).map(|_| Line(AtomicU64::new(0))).collect());
    for i in 0..12 {
        let at = draw.wrapping_mul(0x9e37_79b1).wrapping_mul(2 * i + 1) as usize;
        cold[(at >> 4) % LINES]
            .0
            .store(draw.into(), Ordering::Relaxed);
    }
}

#[cold]
fn linger(window: Window, draw: u32) {
    LINGERED[window as usize].fetch_add(1, Ordering::Relaxed);
    let more = u64::from(draw >> 5);
    match draw % 32 {
        // Long enough for another processor to go on a few steps.
        0..18 => spin(Duration::from_nanos(more % 2_000)),
        // Whoever else is here goes on.
        18..24 => std::thread::yield_now(),
        // A whole section, or some.
        24..31 => spin(Duration::from_nanos(more % 20_000)),
        _ => std::thread::sleep(Duration::from_micros(more % 100)),
    }
}

/// Keeps the processor for that long.
pub(super) fn spin(time: Duration) {
    let since = Instant::now();
    while since.elapsed() < time {
        std::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_window_has_its_count() {
        for (i, window) in Window::ALL.iter().enumerate() {
            assert_eq!(*window as usize, i);
        }
    }

    #[test]
    fn a_thread_that_was_given_no_seed_does_not_linger() {
        std::thread::spawn(|| {
            (0..10_000).for_each(|_| at(Window::Marking));
            assert_eq!(STATE.get(), 0);
        })
        .join()
        .unwrap();
        start(7);
        (0..10_000).for_each(|_| at(Window::Marking));
        assert!(LINGERED[Window::Marking as usize].load(Ordering::Relaxed) > 50);
        STATE.set(0);
    }
}
