//! What a vCPU's thread counts, for others to read while it goes on.
//!
//! The thread alone stores, with relaxed stores to cache lines of its own, and takes no
//! lock; whoever reads gets each word as it was at some moment, and delays nobody. So a
//! VM that is watched runs as one that is not.

mod doing;
mod rows;
mod times;
mod vcpu;

pub use doing::{Doing, Now};
pub use times::{LiveTimes, Tally};
pub use vcpu::{LiveVcpu, VcpuCounter};

use std::sync::atomic::{AtomicU64, Ordering};

/// Adds to a word that the calling thread alone stores to.
#[inline(always)]
fn add(word: &AtomicU64, more: u64) {
    let sum = word.load(Ordering::Relaxed).wrapping_add(more);
    word.store(sum, Ordering::Relaxed);
}
