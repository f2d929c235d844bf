//! Threads that linger between two steps of the protocol, by a seed.
//!
//! [`mm`](crate::mm) calls [`at`] at each [`Window`] of a space that is told so. What
//! a thread does there grows from the seed it was given and from nothing else.

use std::cell::{Cell, RefCell};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::aim::{Aim, How, When};
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
    /// Where it lingers instead; none for everywhere.
    static AIMS: Cell<&'static [Aim]> = const { Cell::new(&[]) };
    /// At which windows it does anything, as bits.
    static WHERE: Cell<u64> = const { Cell::new(u64::MAX) };
    /// Where it was last, and how often with no other window between.
    static LAST: Cell<(Window, u32)> = const { Cell::new((Window::Entering, 0)) };
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

/// From now on the calling thread lingers at these windows only, if there are any.
pub(super) fn aim(aims: &'static [Aim]) {
    AIMS.set(aims);
    let bit = |aim: &Aim| match aim.when {
        When::OneIn(_) => 1 << aim.at as u64,
        // It has to be seen where it is meanwhile.
        When::Nth(_) => u64::MAX,
    };
    WHERE.set(match aims {
        [] => u64::MAX,
        _ => aims.iter().map(bit).fold(0, |all, bit| all | bit),
    });
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
    // No store at all, where that is: a store buffer that is full has no room for more.
    if WHERE.get() >> window as u64 & 1 == 1 {
        is_at(window);
    }
}

#[inline(never)]
fn is_at(window: Window) {
    let mut state = STATE.get();
    if state == 0 {
        state = seed();
        if state == 0 {
            return;
        }
    }
    let state = next(state);
    STATE.set(state);
    let aims = AIMS.get();
    if !aims.is_empty() {
        return at_aims(window, aims, (state >> 32) as u32);
    }
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

/// A thread that lingers at `aims` only is at `window`.
fn at_aims(window: Window, aims: &[Aim], draw: u32) {
    let times = match LAST.get() {
        (last, times) if last == window => times + 1,
        _ => 1,
    };
    LAST.set((window, times));
    let is_time = |aim: &&Aim| match aim.when {
        When::OneIn(many) => draw & (many - 1) == 0,
        When::Nth(n) => times == n,
    };
    let aims = aims.iter().filter(|aim| aim.at == window);
    for aim in aims.filter(is_time) {
        let part = |time: Duration| time * (draw >> 16) / (1 << 16);
        match aim.how {
            How::Pass(time) => pass(part(time)),
            // No more than that: what counts is at once a fence.
            How::Fill => return store_across_pages(draw),
        }
        LINGERED[window as usize].fetch_add(1, Ordering::Relaxed);
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

/// A few stores, each to two pages that are in no cache: the next one is on its way for
/// a microsecond, and nearly all of the store buffer is left for those that come after.
fn store_across_pages(draw: u32) {
    const PAGE: usize = 4096;
    const PAGES: usize = 1 << 14;
    thread_local! {
        static COLD: RefCell<Vec<u8>> = RefCell::new(vec![1; (PAGES + 1) * PAGE]);
    }
    COLD.with_borrow_mut(|cold| {
        for i in 0..4 {
            let page = draw.wrapping_mul(0x9e37_79b1).wrapping_mul(2 * i + 1) as usize >> 16;
            let at = (page % PAGES + 1) * PAGE - 8;
            // One instruction.
            cold[at..at + 16].copy_from_slice(&[draw as u8; 16]);
        }
    });
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

/// Does nothing for that long; if that is long, others may have the processor.
pub(super) fn pass(time: Duration) {
    match time < Duration::from_micros(10) {
        true => spin(time),
        false => std::thread::sleep(time),
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
