//! What a contender has to do, and the loop that lets it.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A map of regions under test: [`start`](super::start)`(i)` to that plus
/// [`LEN`](super::LEN), each with its number.
pub(crate) trait Map: Sync {
    /// What a thread keeps for its lookups.
    type Handle<'a>
    where
        Self: 'a;

    fn name(&self) -> &'static str;

    /// Called by each thread for itself.
    fn handle(&self) -> Self::Handle<'_>;

    /// Looks the address up, read-locks its region, reads its number and unlocks
    /// it again.
    fn lookup(handle: &mut Self::Handle<'_>, addr: u64) -> Option<u64>;

    /// Takes region `index` out and puts it in again, as its users would: in one
    /// step for readers, where it can do that.
    fn replace(&self, index: usize);

    /// Takes region `index` out, and puts it in again, in two steps; returns when
    /// the removal is as complete as this map makes it.
    fn unmap_map(&self, index: usize);

    /// The same for regions `first..first + 64`, in as few steps as it can.
    fn replace_many(&self, first: usize) {
        for index in first..first + 64 {
            self.replace(index);
        }
    }
}

/// A [`Map`] as the benches see it.
pub(crate) trait Contender: Sync {
    fn name(&self) -> &'static str;
    /// Looks addresses up until `stop`. Returns how many, and how long it took.
    fn spin(&self, addresses: &[u64], offset: usize, stop: &AtomicBool) -> (u64, Duration);
    fn replace(&self, index: usize);
    fn unmap_map(&self, index: usize);
    fn replace_many(&self, first: usize);
}

/// Lookups between two looks at the stop flag.
const BATCH: usize = 256;

impl<M: Map> Contender for M {
    fn name(&self) -> &'static str {
        Map::name(self)
    }

    fn spin(&self, addresses: &[u64], offset: usize, stop: &AtomicBool) -> (u64, Duration) {
        let mut handle = self.handle();
        let (mut done, mut at, mut sum) = (0, offset, 0_u64);
        let mut begun = Instant::now();
        let mut warming_up = addresses.len() / BATCH;
        while !stop.load(Ordering::Relaxed) {
            for _ in 0..BATCH {
                at = (at + 1) % addresses.len();
                let found = M::lookup(&mut handle, addresses[at]);
                sum = sum.wrapping_add(found.unwrap_or(u64::MAX));
            }
            done += BATCH as u64;
            // Once round, so that what is measured is not how it begins; unless that
            // is all that it finds the time for.
            if warming_up > 0 {
                warming_up -= 1;
                if warming_up == 0 {
                    (done, begun) = (0, Instant::now());
                }
            }
        }
        black_box(sum);
        (done, begun.elapsed())
    }

    fn replace(&self, index: usize) {
        Map::replace(self, index);
    }

    fn unmap_map(&self, index: usize) {
        Map::unmap_map(self, index);
    }

    fn replace_many(&self, first: usize) {
        Map::replace_many(self, first);
    }
}
