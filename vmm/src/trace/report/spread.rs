//! How durations are spread.

use serde::Serialize;

use super::super::Times;

/// Durations, with all that is shown of them.
#[derive(Clone, Debug, Default)]
pub struct Spread {
    times: Times,
    sum: u128,
    squares: f64,
    min: Option<u64>,
    max: u64,
}

/// The figures of a [`Spread`], in nanoseconds; all 0 when it has none. Percentiles to
/// 1 %, the others exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// How many.
    pub count: u64,
    /// All of them together.
    pub total_ns: u64,
    /// The shortest.
    pub min_ns: u64,
    /// The longest.
    pub max_ns: u64,
    /// The mean.
    pub mean_ns: f64,
    /// The standard error of the mean, as a share of it.
    pub mean_error: f64,
    /// Half of them were not longer.
    pub p50_ns: u64,
    /// 99 % of them were not longer.
    pub p99_ns: u64,
    /// 99.9 % of them were not longer.
    pub p999_ns: u64,
}

impl Spread {
    /// Adds one.
    pub fn add(&mut self, ns: u64) {
        self.times.record_ns(ns);
        self.sum += u128::from(ns);
        self.squares += (ns as f64).powi(2);
        self.min = Some(self.min.map_or(ns, |min| min.min(ns)));
        self.max = self.max.max(ns);
    }

    /// The figures.
    pub fn figures(&self) -> Figures {
        let count = self.times.count();
        let n = count.max(1) as f64;
        let mean = self.sum as f64 / n;
        let variance = (self.squares / n - mean * mean).max(0.0);
        let error = match mean > 0.0 {
            true => (variance / n).sqrt() / mean,
            false => 0.0,
        };
        // A percentile is that of a class of durations, and no longer than the longest.
        let quantile = |q| {
            self.times
                .quantile_ns(q)
                .clamp(self.min.unwrap_or(0), self.max)
        };
        Figures {
            count,
            total_ns: u64::try_from(self.sum).unwrap_or(u64::MAX),
            min_ns: self.min.unwrap_or(0),
            max_ns: self.max,
            mean_ns: mean,
            mean_error: error,
            p50_ns: quantile(0.5),
            p99_ns: quantile(0.99),
            p999_ns: quantile(0.999),
        }
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.times.count()
    }

    /// How many are in each class of durations: its upper end in nanoseconds, and the
    /// count; classes `steps` to a doubling, from the first that has one to the last.
    pub fn classes(&self, steps: u32) -> Vec<(f64, u64)> {
        self.times.classes(steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_what_they_are() {
        assert_eq!(Spread::default().figures(), Figures::default());
        let mut spread = Spread::default();
        (1..=1000).for_each(|n| spread.add(n * 1000));
        let figures = spread.figures();
        assert_eq!((figures.count, figures.min_ns), (1000, 1000));
        assert_eq!((figures.max_ns, figures.total_ns), (1_000_000, 500_500_000));
        assert!((figures.mean_ns - 500_500.0).abs() < 1e-6);
        // The standard deviation of 1..=1000 is 288.67; by the root of 1000.
        assert!((figures.mean_error - 288.67 / 31.6228 / 500.5).abs() < 1e-5);
        let near = |found: u64, expected: f64| (found as f64 / expected - 1.0).abs() < 0.02;
        assert!(near(figures.p50_ns, 500e3) && near(figures.p99_ns, 990e3));
        assert!(near(figures.p999_ns, 999e3));
        let classes = spread.classes(2);
        assert_eq!(classes.iter().map(|(_, n)| n).sum::<u64>(), 1000);
        assert!(classes.is_sorted_by(|a, b| a.0 < b.0));
    }
}
