//! What happened between two looks at a VM, or since it began: numbers for rows. Pure.

use gracefault::api::model::Histogram;

/// Durations of an interval, or of all time.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Figures {
    /// How many.
    pub(super) count: u64,
    /// All of them together.
    pub(super) total_ns: u64,
    pub(super) p50_ns: u64,
    pub(super) p99_ns: u64,
    pub(super) max_ns: u64,
    /// `[at most so many ns, how many]`, those with none left out.
    pub(super) buckets: Vec<(u64, u64)>,
}

impl Figures {
    /// All that there has been.
    pub(super) fn total(all: &Histogram) -> Self {
        Self {
            count: all.count,
            total_ns: all.total_ns,
            p50_ns: all.p50_ns,
            p99_ns: all.p99_ns,
            max_ns: all.max_ns,
            buckets: all.buckets.clone(),
        }
    }

    /// What `now` has that `before` had not. Quantiles are the ends of buckets, and no
    /// longer than the longest there ever was.
    pub(super) fn between(before: &Histogram, now: &Histogram) -> Self {
        let mut buckets = Vec::new();
        let mut old = before.buckets.iter().peekable();
        for &(end, count) in &now.buckets {
            while old.next_if(|(at, _)| *at < end).is_some() {}
            let had = old.next_if(|(at, _)| *at == end).map_or(0, |(_, had)| *had);
            if count > had {
                buckets.push((end, count - had));
            }
        }
        let counts = buckets.iter().map(|(_, count)| *count);
        // Of a VM it does not overflow.
        let count = counts.fold(0, u64::saturating_add);
        let quantile = |share| quantile(&buckets, count, share).min(now.max_ns);
        Self {
            count,
            total_ns: now.total_ns.saturating_sub(before.total_ns),
            p50_ns: quantile(0.5),
            p99_ns: quantile(0.99),
            max_ns: quantile(1.0),
            buckets,
        }
    }
}

/// The end of the bucket that this share of all is not longer than; 0 if there is none.
fn quantile(buckets: &[(u64, u64)], count: u64, share: f64) -> u64 {
    let wanted = ((count as f64 * share).ceil() as u64).clamp(1, count.max(1));
    let mut so_far = 0_u64;
    for (end, count) in buckets {
        so_far = so_far.saturating_add(*count);
        if so_far >= wanted {
            return *end;
        }
    }
    0
}

/// So many a second.
pub(super) fn per_second(count: u64, ns: u64) -> f64 {
    match ns {
        0 => 0.0,
        ns => count as f64 * 1e9 / ns as f64,
    }
}

/// A share of `all`, from 0 to 1.
pub(super) fn share(part: u64, all: u64) -> f64 {
    match all {
        0 => 0.0,
        all => (part as f64 / all as f64).min(1.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(buckets: &[(u64, u64)], max_ns: u64) -> Histogram {
        Histogram {
            count: buckets.iter().map(|(_, count)| count).sum(),
            total_ns: buckets.iter().map(|(end, count)| end * count).sum(),
            p50_ns: 7,
            p99_ns: 8,
            max_ns,
            buckets: buckets.to_vec(),
        }
    }

    #[test]
    fn a_difference_has_what_is_new() {
        let before = histogram(&[(100, 5), (400, 1)], 390);
        let now = histogram(&[(50, 1), (100, 5), (200, 98), (400, 2), (800, 1)], 750);
        let new = Figures::between(&before, &now);
        assert_eq!(new.buckets, [(50, 1), (200, 98), (400, 1), (800, 1)]);
        assert_eq!(new.count, 101);
        assert_eq!((new.p50_ns, new.p99_ns, new.max_ns), (200, 400, 750));
        assert_eq!(new.total_ns, now.total_ns - before.total_ns);
        // Nothing new, and a VM that was replaced by another.
        assert_eq!(
            Figures::between(&now, &now),
            Figures {
                total_ns: 0,
                ..Figures::default()
            }
        );
        let smaller = Figures::between(&now, &before);
        assert_eq!((smaller.count, smaller.total_ns, smaller.p99_ns), (0, 0, 0));
    }

    #[test]
    fn all_of_it_is_as_told() {
        let all = Figures::total(&histogram(&[(100, 5)], 90));
        assert_eq!(
            (all.count, all.p50_ns, all.p99_ns, all.max_ns),
            (5, 7, 8, 90)
        );
    }

    #[test]
    fn nothing_divides_by_nothing() {
        assert_eq!((per_second(5, 0), share(5, 0)), (0.0, 0.0));
        assert_eq!((per_second(5, 500_000_000), share(1, 4)), (10.0, 0.25));
        assert_eq!(share(5, 4), 1.0);
    }
}
