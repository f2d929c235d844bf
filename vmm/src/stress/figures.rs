//! Numbers that are gathered by many threads and shown once.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// What more than that is counted as: an hour, in nanoseconds.
const MOST: u64 = 3_600_000_000_000;

/// A histogram of numbers (nanoseconds, or retries), to 1 %.
#[derive(Clone, Debug)]
pub struct Spread(Histogram<u64>);

impl Default for Spread {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, MOST, 2).expect("bounds that are possible"))
    }
}

impl Spread {
    /// Adds one.
    pub fn record(&mut self, value: u64) {
        self.0.saturating_record(value);
    }

    /// Adds a time.
    pub fn record_time(&mut self, time: Duration) {
        self.record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Adds `count` of them.
    pub fn record_many(&mut self, value: u64, count: u64) {
        self.0.saturating_record_n(value, count);
    }

    /// Adds all of `other`.
    pub fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("it grows");
    }

    /// The figures that are shown.
    pub fn figures(&self) -> Figures {
        let quantile = |q| self.0.value_at_quantile(q).min(self.0.max());
        Figures {
            count: self.0.len(),
            p50: quantile(0.5),
            p99: quantile(0.99),
            p999: quantile(0.999),
            max: self.0.max(),
        }
    }

    /// How many there are up to each power of two, from `first` on, as far as any.
    pub fn buckets(&self, first: u64) -> Vec<Bucket> {
        let mut buckets = Vec::new();
        let (mut from, mut to) = (0, first);
        while from <= self.0.max() && !self.0.is_empty() {
            let count = self.0.count_between(from, to - 1);
            buckets.push(Bucket { below: to, count });
            (from, to) = (to, to.saturating_mul(2));
        }
        buckets
    }
}

/// The figures of a histogram. All are 0 when it is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// How many.
    pub count: u64,
    /// Half of them were not more.
    pub p50: u64,
    /// 99 % of them were not more.
    pub p99: u64,
    /// 99.9 % of them were not more.
    pub p999: u64,
    /// The most.
    pub max: u64,
}

/// A bar of a histogram: it begins where the one before ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Bucket {
    /// Its numbers are below this.
    pub below: u64,
    /// How many.
    pub count: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_everything() {
        let mut spread = Spread::default();
        assert_eq!(spread.figures(), Figures::default());
        assert!(spread.buckets(1).is_empty());
        spread.record_many(0, 3);
        (1..=8).for_each(|n| spread.record(n));
        let buckets = spread.buckets(1);
        let counts: Vec<_> = buckets.iter().map(|b| (b.below, b.count)).collect();
        assert_eq!(counts, [(1, 3), (2, 1), (4, 2), (8, 4), (16, 1)]);
        assert_eq!(spread.figures().max, 8);
        let mut all = Spread::default();
        all.add(&spread);
        assert_eq!(all.figures().count, 11);
    }
}
