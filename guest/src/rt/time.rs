//! Time, by the time-stamp counter and the rate that the VMM named.

use core::arch::x86_64::_rdtsc;

use crate::rt::Guest;

/// A moment in time that may have come.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    start: u64,
    ticks: u64,
}

impl Deadline {
    /// The moment `us` microseconds from now.
    pub fn after_us(guest: &Guest, us: u64) -> Self {
        Self {
            start: now(),
            ticks: us.saturating_mul(guest.params().tsc_khz) / 1000,
        }
    }

    /// Whether it has come.
    pub fn passed(&self) -> bool {
        now().wrapping_sub(self.start) >= self.ticks
    }
}

impl Guest {
    /// Does nothing for `us` microseconds, or until the VMM wants an end.
    pub fn pause(&self, us: u64) {
        let end = Deadline::after_us(self, us);
        while !end.passed() && !self.stop() {
            core::hint::spin_loop();
        }
    }
}

fn now() -> u64 {
    // SAFETY: every x86-64 has the instruction, and nothing here sets CR4.TSD,
    // which would make it fault at CPL 3.
    unsafe { _rdtsc() }
}
