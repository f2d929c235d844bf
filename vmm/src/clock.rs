//! Time stamps that are cheap enough for every exit.
//!
//! On x86-64 with a time-stamp counter that ticks at one rate whatever the processor
//! does, a stamp is a read of that (11 ns where it was measured, the vDSO's clock 26);
//! elsewhere a tick is a nanosecond of `CLOCK_MONOTONIC`. Ticks are the same for all
//! threads. What they are in nanoseconds is known from two [`Anchor`]s.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// Whether stamps come from the time-stamp counter: 0 not yet known, 1 no, 2 yes.
static COUNTER: AtomicU8 = AtomicU8::new(0);

/// Now. Never 0.
#[inline(always)]
pub fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    if COUNTER.load(Ordering::Relaxed) == 2 {
        // SAFETY: every x86-64 processor has the instruction, and the kernel lets
        // programs use it where it says that the counter is invariant.
        return unsafe { std::arch::x86_64::_rdtsc() };
    }
    slow_ticks()
}

#[cold]
fn slow_ticks() -> u64 {
    if COUNTER.load(Ordering::Relaxed) == 0 {
        let which = if has_counter() { 2 } else { 1 };
        COUNTER.store(which, Ordering::Relaxed);
        if which == 2 {
            return ticks();
        }
    }
    now(libc::CLOCK_MONOTONIC).max(1)
}

/// Whether stamps come from the processor's time-stamp counter.
pub fn is_counter() -> bool {
    ticks();
    COUNTER.load(Ordering::Relaxed) == 2
}

#[cfg(target_arch = "x86_64")]
fn has_counter() -> bool {
    use std::arch::x86_64::__cpuid;
    #[allow(
        unused_unsafe,
        reason = "safe in later versions of Rust than the oldest we take"
    )]
    // SAFETY: every x86-64 processor has the instruction.
    let cpuid = |leaf| unsafe { __cpuid(leaf) };
    // Invariant TSC: constant rate, and never stopped.
    cpuid(0x8000_0000).eax >= 0x8000_0007 && cpuid(0x8000_0007).edx & (1 << 8) != 0
}

#[cfg(not(target_arch = "x86_64"))]
fn has_counter() -> bool {
    false
}

/// Nanoseconds on one of the system's clocks.
fn now(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes a timespec; fails only for a clock that there is not, and then
    // leaves it 0.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// One moment on two clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Anchor {
    /// On [`ticks`].
    pub ticks: u64,
    /// On `CLOCK_BOOTTIME`, nanoseconds.
    pub boot_ns: u64,
}

impl Anchor {
    /// Now: the best of a few tries, since a thread may lose its processor between
    /// the two looks. Takes some 200 ns.
    pub fn now() -> Self {
        let mut best = (u64::MAX, Self::default());
        for _ in 0..4 {
            let before = ticks();
            let boot_ns = now(libc::CLOCK_BOOTTIME);
            let after = ticks();
            let apart = after.wrapping_sub(before);
            if apart < best.0 {
                let ticks = before + apart / 2;
                best = (apart, Self { ticks, boot_ns });
            }
        }
        best.1
    }
}

/// How long a tick is, as nanoseconds in units of 2^-32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(u64);

impl Rate {
    /// As two anchors say; 1 ns if they say nothing (the same moment, or a clock that
    /// went back).
    pub fn between(first: Anchor, last: Anchor) -> Self {
        let ticks = last.ticks.saturating_sub(first.ticks);
        let ns = last.boot_ns.saturating_sub(first.boot_ns);
        if ticks == 0 || ns == 0 {
            return Self(1 << 32);
        }
        let rate = (u128::from(ns) << 32) / u128::from(ticks);
        Self(u64::try_from(rate).unwrap_or(u64::MAX))
    }

    /// This process's, to about 0.01 %. The first call takes two milliseconds.
    pub fn of_this_machine() -> Self {
        static RATE: OnceLock<Rate> = OnceLock::new();
        *RATE.get_or_init(|| {
            if !is_counter() {
                return Self(1 << 32);
            }
            let (first, begun) = (Anchor::now(), Instant::now());
            while begun.elapsed() < Duration::from_millis(2) {
                std::thread::sleep(Duration::from_micros(500));
            }
            Self::between(first, Anchor::now())
        })
    }

    /// So many ticks, in nanoseconds.
    #[inline]
    pub fn ns(self, ticks: u64) -> u64 {
        let ns = (u128::from(ticks) * u128::from(self.0)) >> 32;
        u64::try_from(ns).unwrap_or(u64::MAX)
    }

    /// So many nanoseconds, in ticks.
    pub fn ticks(self, ns: u64) -> u64 {
        let ticks = (u128::from(ns) << 32) / u128::from(self.0.max(1));
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }
}

/// Which clock this machine's stamps come from, at hand: a stamp with nothing to load but
/// this. After the guest has run, each page that need not be looked at counts.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    is_counter: bool,
}

impl Clock {
    /// This machine's.
    pub fn of_this_machine() -> Self {
        let is_counter = is_counter();
        Self { is_counter }
    }

    /// As [`ticks`].
    #[inline(always)]
    pub fn ticks(self) -> u64 {
        #[cfg(target_arch = "x86_64")]
        if self.is_counter {
            // SAFETY: as in `ticks`.
            return unsafe { std::arch::x86_64::_rdtsc() };
        }
        slow_ticks()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_hand_it_is_the_same_clock() {
        let clock = Clock::of_this_machine();
        let (first, at_hand, last) = (ticks(), clock.ticks(), ticks());
        assert!(first <= at_hand && at_hand <= last);
        let slow = Clock { is_counter: false };
        let first = now(libc::CLOCK_MONOTONIC);
        let (at_hand, last) = (slow.ticks(), now(libc::CLOCK_MONOTONIC));
        assert!(first <= at_hand && at_hand <= last);
    }

    #[test]
    fn ticks_do_not_go_back_and_are_what_the_rate_says() {
        let rate = Rate::of_this_machine();
        // Around and within what is slept, however long the thread is away between two.
        let (outer, begun, inner) = (ticks(), Instant::now(), ticks());
        std::thread::sleep(Duration::from_millis(20));
        let (within, slept, around) = (ticks() - inner, begun.elapsed(), ticks() - outer);
        let [within, around] = [within, around].map(|span| rate.ns(span) as f64);
        let slept = slept.as_nanos() as f64;
        assert!(
            within < 1.05 * slept && around > 0.95 * slept,
            "{within} to {around} ns by ticks in {slept} ns"
        );
        let mut last = 0;
        for _ in 0..10_000 {
            let now = ticks();
            assert!(now >= last && now > 0);
            last = now;
        }
    }

    #[test]
    fn rates_of_odd_anchors() {
        let at = |ticks, boot_ns| Anchor { ticks, boot_ns };
        let rate = Rate::between(at(1000, 500), at(5000, 2500));
        assert_eq!((rate.ns(4000), rate.ticks(2000)), (2000, 4000));
        for (first, last) in [
            (at(0, 0), at(0, 0)),
            (at(5, 5), at(1, 1)),
            (at(1, 9), at(7, 3)),
        ] {
            assert_eq!(Rate::between(first, last).ns(77), 77);
        }
        let steep = Rate::between(at(0, 0), at(1, u64::MAX));
        assert_eq!(steep.ns(u64::MAX), u64::MAX);
        assert_eq!(Rate::between(at(0, 0), at(u64::MAX, 1)).ns(5), 0);
        Rate::between(at(0, 0), at(u64::MAX, 1)).ticks(u64::MAX);
    }
}
