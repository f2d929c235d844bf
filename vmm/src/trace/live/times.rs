//! A histogram of durations that one thread adds to and others read.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::Times;
use super::super::histogram::MAX_NS;
use super::add;

/// Buckets of an octave, and the bits of a duration that tell them apart: those of
/// [`Times`], so that nothing is lost on the way there.
const BUCKETS: usize = 128;
const BITS: u32 = BUCKETS.ilog2();
/// Octaves: the first two have buckets one nanosecond wide, each other one buckets
/// twice as wide as the one before. The last one holds an hour.
const OCTAVES: usize = (MAX_NS.ilog2() - BITS) as usize + 2;

/// What is counted in an octave.
pub(super) struct Octave {
    total_ns: AtomicU64,
    /// Bucket by bucket.
    counts: [AtomicU64; BUCKETS],
}

impl Octave {
    fn new() -> Self {
        Self {
            total_ns: AtomicU64::new(0),
            counts: [const { AtomicU64::new(0) }; BUCKETS],
        }
    }

    /// Adds a duration that belongs in this bucket of it. For one thread alone.
    #[inline(always)]
    pub(super) fn add(&self, bucket: usize, ns: u64) {
        add(&self.counts[bucket], 1);
        add(&self.total_ns, ns);
    }
}

/// Where a duration is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) octave: usize,
    /// Of the octave's.
    pub(super) bucket: usize,
}

/// Durations, to 1 %, as [`Times`] has them. An octave takes its kilobyte when the first
/// duration comes that is in it.
pub struct LiveTimes {
    octaves: [OnceLock<Box<Octave>>; OCTAVES],
}

impl LiveTimes {
    /// Adds one, in nanoseconds. For one thread alone.
    pub(super) fn record_ns(&self, ns: u64) {
        let ns = ns.min(MAX_NS);
        let place = place(ns);
        self.octave(place.octave).add(place.bucket, ns);
    }

    /// An octave, which stays where it is.
    pub(super) fn octave(&self, n: usize) -> &Octave {
        self.octaves[n].get_or_init(|| Box::new(Octave::new()))
    }

    /// How many there are. Adds up the buckets.
    pub fn count(&self) -> u64 {
        self.each().map(|(_, count)| count).sum()
    }

    /// All of them together, in nanoseconds.
    pub fn total_ns(&self) -> u64 {
        let octaves = self.octaves.iter().filter_map(OnceLock::get);
        octaves
            .map(|octave| octave.total_ns.load(Ordering::Relaxed))
            .fold(0, u64::wrapping_add)
    }

    /// The same, at rest.
    pub fn times(&self) -> Times {
        let mut times = Times::new();
        self.add_to(&mut times);
        times
    }

    /// Adds them to `times`.
    pub fn add_to(&self, times: &mut Times) {
        for (ns, count) in self.each() {
            times.record_many_ns(ns, count);
        }
    }

    /// The shortest duration of each bucket that has some, and how many.
    pub(crate) fn each(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let octaves = self.octaves.iter().enumerate();
        let there = octaves.filter_map(|(n, octave)| Some((n, octave.get()?)));
        there.flat_map(|(n, octave)| {
            let counts = octave
                .counts
                .iter()
                .map(|count| count.load(Ordering::Relaxed));
            let counts = counts.enumerate().filter(|(_, count)| *count > 0);
            counts.map(move |(bucket, count)| (shortest(n, bucket), count))
        })
    }
}

/// The shortest duration in a bucket.
fn shortest(octave: usize, bucket: usize) -> u64 {
    match octave {
        0 => bucket as u64,
        _ => ((BUCKETS + bucket) as u64) << (octave - 1),
    }
}

/// Several [`LiveTimes`], added up: quickly, since there are many of them in a look.
#[derive(Debug, Default)]
pub struct Tally {
    /// Bucket by bucket, up to the last octave that has some.
    counts: Vec<u64>,
}

impl Tally {
    /// Adds these.
    pub fn add(&mut self, times: &LiveTimes) {
        for (n, octave) in times.octaves.iter().enumerate() {
            let Some(octave) = octave.get() else {
                continue;
            };
            let (start, end) = (n * BUCKETS, (n + 1) * BUCKETS);
            if self.counts.len() < end {
                self.counts.resize(end, 0);
            }
            let sums = &mut self.counts[start..end];
            for (sum, count) in sums.iter_mut().zip(&octave.counts) {
                *sum += count.load(Ordering::Relaxed);
            }
        }
    }

    /// The shortest and the longest duration, in nanoseconds, of each bucket that has
    /// some, in order, and how many.
    pub fn each(&self) -> impl Iterator<Item = (u64, u64, u64)> {
        let counts = self.counts.iter().enumerate();
        let counts = counts.filter(|(_, count)| **count > 0);
        counts.map(|(at, count)| {
            let (octave, bucket) = (at / BUCKETS, at % BUCKETS);
            let width = 1 << octave.saturating_sub(1);
            let shortest = shortest(octave, bucket);
            (shortest, shortest + width - 1, *count)
        })
    }
}

/// Where a duration of at most [`MAX_NS`] belongs.
#[inline(always)]
pub(super) fn place(ns: u64) -> Place {
    // Below 128 ns a bucket is one nanosecond wide, as in the octave that follows.
    let shift = (ns | BUCKETS as u64).ilog2() - BITS;
    let bucket = (ns >> shift) as usize % BUCKETS;
    let octave = shift as usize + usize::from(ns >= BUCKETS as u64);
    Place { octave, bucket }
}

impl Default for LiveTimes {
    fn default() -> Self {
        Self {
            octaves: [const { OnceLock::new() }; OCTAVES],
        }
    }
}

impl fmt::Debug for LiveTimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.times().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each border between two buckets, and its neighbours.
    #[test]
    fn has_the_buckets_of_times() {
        let (live, mut at_rest) = (LiveTimes::default(), Times::new());
        let borders =
            (0..52).flat_map(|bits| [0, 1, 2, 3, 127].map(|n| (1 << bits) + (n << bits) / 128));
        let mut total = 0;
        let all: Vec<u64> = borders.chain([0, u64::MAX, MAX_NS]).collect();
        for &ns in &all {
            for ns in [ns.saturating_sub(1), ns] {
                live.record_ns(ns);
                at_rest.record_ns(ns);
                total += ns.min(MAX_NS);
            }
        }
        assert_eq!(live.count(), 2 * all.len() as u64);
        assert_eq!(live.total_ns(), total);
        let times = live.times();
        assert_eq!(times.summary(), at_rest.summary());
        assert!(times.each().eq(at_rest.each()));
    }

    #[test]
    fn may_be_read_while_it_grows() {
        let live = LiveTimes::default();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut last = 0;
                while last < 100_000 {
                    let now = live.count();
                    assert!(now >= last);
                    last = now;
                }
            });
            (0..100_000).for_each(|n| live.record_ns(n));
            reader.join().unwrap();
        });
    }
}
