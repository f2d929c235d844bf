//! What a vCPU's thread is doing at this moment.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::super::ExitKind;
use super::add;

/// What a vCPU's thread is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// It has not run yet.
    Starting,
    /// It is in `KVM_RUN`.
    Guest,
    /// It answers an exit, at this address or port where the kind has one.
    Exit(ExitKind, u64),
    /// It rests between two exits, since the machine is paused.
    Paused,
    /// It has ended.
    Ended,
}

const STARTING: u64 = 0;
const GUEST: u64 = 1;
const PAUSED: u64 = 2;
const ENDED: u64 = 3;
/// The first of the kinds of exits.
const EXIT: u64 = 8;
/// Where the number of the change begins in the word.
const CHANGE: u32 = 8;

/// A look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// What.
    pub doing: Doing,
    /// Since when, in [ticks](crate::clock::ticks); 0 before it has run.
    pub since: u64,
    /// The time in `KVM_RUN` until then, in ticks.
    pub guest: u64,
}

/// The words in which the thread says so.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct Words {
    /// What, and above [`CHANGE`] how many changes there were: so that a reader knows
    /// whether the other words belong to it.
    state: AtomicU64,
    addr: AtomicU64,
    since: AtomicU64,
    guest: AtomicU64,
    tid: AtomicU32,
}

impl Words {
    /// Its thread runs; `at` is now.
    pub(super) fn begin(&self, tid: u32, at: u64) {
        self.tid.store(tid, Ordering::Relaxed);
        self.change(GUEST, 0, at, 0);
    }

    /// `KVM_RUN` has returned, at `at`.
    #[inline(always)]
    pub(super) fn enter(&self, kind: ExitKind, addr: u64, at: u64) {
        let stay = at.saturating_sub(self.since.load(Ordering::Relaxed));
        self.change(EXIT + kind as u64, addr, at, stay);
    }

    /// The exit is answered.
    #[inline(always)]
    pub(super) fn leave(&self, at: u64) {
        self.change(GUEST, 0, at, 0);
    }

    pub(super) fn pause(&self, at: u64) {
        self.change(PAUSED, 0, at, 0);
    }

    pub(super) fn end(&self, at: u64) {
        self.change(ENDED, 0, at, 0);
    }

    /// In this order, with no barrier that costs anything on x86-64: who sees one of the
    /// words that follow the first store finds the state changed when it looks again.
    #[inline(always)]
    fn change(&self, code: u64, addr: u64, at: u64, stay: u64) {
        let before = self.state.load(Ordering::Relaxed) >> CHANGE;
        let word = before.wrapping_add(1) << CHANGE | code;
        self.state.store(word | 1 << 7, Ordering::Relaxed);
        std::sync::atomic::fence(Ordering::Release);
        self.addr.store(addr, Ordering::Relaxed);
        self.since.store(at, Ordering::Relaxed);
        add(&self.guest, stay);
        self.state.store(word, Ordering::Release);
    }

    /// The thread's number; 0 before it runs.
    pub(super) fn tid(&self) -> u32 {
        self.tid.load(Ordering::Relaxed)
    }

    /// What it is doing. Looks again as long as the thread is about to say so, which it
    /// is for a few nanoseconds, or for as long as it gets no processor: after some looks
    /// this sleeps between them, and after a tenth of a second it gives up, with what it
    /// saw last.
    pub(super) fn now(&self) -> Now {
        const SPINS: u32 = 1_000;
        let mut looks = 0;
        loop {
            let state = self.state.load(Ordering::Acquire);
            let (addr, since) = (
                self.addr.load(Ordering::Relaxed),
                self.since.load(Ordering::Relaxed),
            );
            let guest = self.guest.load(Ordering::Relaxed);
            std::sync::atomic::fence(Ordering::Acquire);
            let whole = state & 1 << 7 == 0 && state == self.state.load(Ordering::Relaxed);
            looks += 1;
            if whole || looks > 2 * SPINS {
                let doing = named(state & 0x7f, addr);
                return Now {
                    doing,
                    since,
                    guest,
                };
            }
            match looks < SPINS {
                true => std::hint::spin_loop(),
                false => std::thread::sleep(Duration::from_micros(100)),
            }
        }
    }
}

fn named(code: u64, addr: u64) -> Doing {
    let kind = code.checked_sub(EXIT);
    match kind.and_then(|kind| ExitKind::ALL.get(kind as usize)) {
        Some(kind) => Doing::Exit(*kind, addr),
        None => match code {
            GUEST => Doing::Guest,
            PAUSED => Doing::Paused,
            ENDED => Doing::Ended,
            _ => {
                debug_assert_eq!(code, STARTING);
                Doing::Starting
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_was_said_last() {
        let words = Words::default();
        assert_eq!(words.now().doing, Doing::Starting);
        words.begin(7, 100);
        for (n, kind) in ExitKind::ALL.into_iter().enumerate() {
            let n = n as u64;
            words.enter(kind, n, 200 * (n + 1));
            let now = words.now();
            assert_eq!(now.doing, Doing::Exit(kind, n));
            assert_eq!((now.since, now.guest), (200 * (n + 1), 100 * (n + 1)));
            words.leave(200 * (n + 1) + 100);
            assert_eq!(words.now().doing, Doing::Guest);
        }
        words.pause(1);
        assert_eq!(words.now().doing, Doing::Paused);
        words.end(2);
        assert_eq!((words.now().doing, words.now().since), (Doing::Ended, 2));
        assert_eq!(words.tid(), 7);
    }

    /// An address that belongs to another exit than the kind would be a lie.
    #[test]
    fn is_never_seen_half_changed() {
        let words = Words::default();
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..300_000 {
                    let kind = ExitKind::ALL[n as usize % 2];
                    words.enter(kind, n, n);
                    words.leave(n);
                }
                over.store(true, Ordering::Relaxed);
            });
            while !over.load(Ordering::Relaxed) {
                let now = words.now();
                if let Doing::Exit(kind, addr) = now.doing {
                    assert_eq!((kind, addr), (ExitKind::ALL[addr as usize % 2], now.since));
                }
                // It is in the guest from each number to the next, and nowhere else.
                assert_eq!(now.guest, now.since, "{now:?}");
            }
        });
    }
}
