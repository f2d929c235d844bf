//! A histogram of durations.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Durations, to 1 %. Longer ones than an hour count as an hour. Takes a few
/// kilobytes, more the longer the longest is: 4 KiB for a microsecond, 18 KiB for
/// a second.
#[derive(Clone)]
pub struct Times(Histogram<u64>);

/// An hour.
pub(super) const MAX_NS: u64 = 3600 * 1_000_000_000;

impl Times {
    /// None yet.
    pub fn new() -> Self {
        Self(Histogram::new(2).expect("2 digits are possible"))
    }

    /// Adds one.
    pub fn record(&mut self, time: Duration) {
        self.record_ns(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Adds one, in nanoseconds.
    #[inline]
    pub fn record_ns(&mut self, ns: u64) {
        let ns = ns.min(MAX_NS);
        self.0.record(ns).expect("it grows to an hour");
    }

    /// Adds so many at once, each of so many nanoseconds.
    pub fn record_many_ns(&mut self, ns: u64, count: u64) {
        let ns = ns.min(MAX_NS);
        self.0.record_n(ns, count).expect("it grows to an hour");
    }

    /// Adds all of `other`.
    pub fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("it grows to an hour");
    }

    /// The time that no more than this share of them exceed, in nanoseconds.
    pub fn quantile(&self, share: f64) -> u64 {
        self.0.value_at_quantile(share).min(self.0.max())
    }

    /// Each different time and how many there are, as far as they are told apart.
    pub fn each(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0
            .iter_recorded()
            .map(|at| (at.value_iterated_to(), at.count_at_value()))
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The duration that this share of them is not longer than, in nanoseconds.
    pub fn quantile_ns(&self, share: f64) -> u64 {
        self.0.value_at_quantile(share).min(self.0.max())
    }

    /// How many are in each class of durations, `steps` to a doubling: its upper end
    /// in nanoseconds, and the count; from the first that has one to the last.
    pub fn classes(&self, steps: u32) -> Vec<(f64, u64)> {
        let class = |ns: u64| ((ns.max(1) as f64).log2() * f64::from(steps)).floor() as i32;
        let mut counts = std::collections::BTreeMap::new();
        for value in self.0.iter_recorded() {
            let at = value.value_iterated_to().min(self.0.max());
            *counts.entry(class(at)).or_insert(0) += value.count_at_value();
        }
        let (Some(first), Some(last)) = (counts.keys().min(), counts.keys().max()) else {
            return Vec::new();
        };
        let all = *first..=*last;
        all.map(|class| {
            let end = 2_f64.powf(f64::from(class + 1) / f64::from(steps));
            (end, counts.get(&class).copied().unwrap_or(0))
        })
        .collect()
    }

    /// The figures that are shown.
    pub fn summary(&self) -> Summary {
        let quantile = |q| self.quantile(q);
        Summary {
            count: self.0.len(),
            p50_ns: quantile(0.5),
            p99_ns: quantile(0.99),
            max_ns: self.0.max(),
        }
    }
}

impl Default for Times {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.summary().fmt(f)
    }
}

/// The figures of a histogram that are shown. All times are in nanoseconds; all
/// are 0 when there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// How many durations.
    pub count: u64,
    /// Half of them were not longer.
    pub p50_ns: u64,
    /// 99 % of them were not longer.
    pub p99_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summarises_and_adds() {
        let mut times = Times::new();
        assert_eq!(times.summary(), Summary::default());
        (1..=100).for_each(|n| times.record(Duration::from_nanos(n)));
        let mut all = Times::new();
        all.record(Duration::from_secs(7200));
        all.add(&times);
        let Summary {
            count,
            p50_ns,
            p99_ns,
            max_ns,
        } = all.summary();
        assert_eq!((count, p50_ns), (101, 51));
        assert!((99..=101).contains(&p99_ns), "{p99_ns}");
        assert!(max_ns >= MAX_NS);
    }
}
