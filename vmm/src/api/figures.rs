//! From what is counted to what is told.

use super::model::Histogram;
use crate::trace::live::{LiveTimes, Tally};

/// Durations that are added up to be told.
#[derive(Debug, Default)]
pub(super) struct Sum {
    tally: Tally,
    total_ns: u64,
}

impl Sum {
    pub(super) fn of<'a>(all: impl IntoIterator<Item = &'a LiveTimes>) -> Self {
        let mut sum = Self::default();
        for times in all {
            sum.tally.add(times);
            sum.total_ns = sum.total_ns.wrapping_add(times.total_ns());
        }
        sum
    }

    pub(super) fn histogram(&self) -> Histogram {
        let count = self.tally.each().map(|(_, _, count)| count).sum();
        let mut histogram = Histogram {
            count,
            total_ns: self.total_ns,
            ..Histogram::default()
        };
        // The places of the durations that half, or 99 %, are not longer than.
        let half = count.div_ceil(2).max(1);
        let most = (count * 99).div_ceil(100).max(1);
        let mut seen = 0;
        for (shortest, longest, count) in self.tally.each() {
            let end = bucket_end(shortest);
            match histogram.buckets.last_mut() {
                Some((last, sum)) if *last == end => *sum += count,
                _ => histogram.buckets.push((end, count)),
            }
            let reaches = |place| seen < place && seen + count >= place;
            if reaches(half) {
                histogram.p50_ns = longest;
            }
            if reaches(most) {
                histogram.p99_ns = longest;
            }
            histogram.max_ns = longest;
            seen += count;
        }
        histogram
    }
}

/// The longest duration in the bucket of this one: four buckets to a doubling, whose ends
/// are ends of buckets of [`Tally`] too, which are finer.
fn bucket_end(ns: u64) -> u64 {
    if ns < 4 {
        return ns;
    }
    let shift = ns.ilog2() - 2;
    (((ns >> shift) + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{ExitKind, LiveVcpu, VcpuCounter};

    #[test]
    fn buckets_are_four_to_a_doubling_and_lose_nothing() {
        let ends = [0, 1, 2, 3, 4, 5, 6, 7, 9, 11, 13, 15, 19, 23, 27, 31, 39];
        for ns in 0..40 {
            let end = ends.into_iter().find(|end| *end >= ns).unwrap();
            assert_eq!(bucket_end(ns), end, "{ns}");
        }
        let mut counter = VcpuCounter::new(LiveVcpu::for_one_of(1).into());
        let all: Vec<u64> = (0..42)
            .flat_map(|n| [1 << n, (1 << n) + (1 << n) / 3])
            .collect();
        all.iter().for_each(|ns| counter.other(ExitKind::Halt, *ns));
        let live = counter.live().clone();
        let histogram = Sum::of(live.exits().map(|(_, times)| times)).histogram();
        assert_eq!(histogram.count, all.len() as u64);
        assert_eq!(
            histogram
                .buckets
                .iter()
                .map(|(_, count)| count)
                .sum::<u64>(),
            histogram.count
        );
        // As the histograms of reports have it.
        let summary = live.trace().exits.iter().next().unwrap().1.summary();
        let told = (histogram.p50_ns, histogram.p99_ns, histogram.max_ns);
        assert_eq!(told, (summary.p50_ns, summary.p99_ns, summary.max_ns));
        assert!(histogram.buckets.is_sorted_by(|a, b| a.0 < b.0));
        for (end, count) in &histogram.buckets {
            let inside = all
                .iter()
                .filter(|ns| bucket_end((**ns).min(3_600_000_000_000)) == *end);
            assert_eq!(inside.count() as u64, *count, "to {end}");
        }
    }
}
