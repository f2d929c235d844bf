//! The rows of the tables, from two looks at a VM. Pure.

use gracefault::api::model::{self, Doing, ExitKind, Histogram, Live, VcpuInfo};

use super::figures::{Figures, per_second, share};

/// Of which time the figures are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Span {
    /// From the last look to this one.
    #[default]
    Interval,
    /// Since the VM began, or the counts were cleared.
    Total,
}

/// Looks at a VM: this one, the last, and the one since which is counted, if not from
/// the beginning.
#[derive(Clone, Copy, Debug)]
pub(super) struct Looks<'a> {
    pub(super) now: &'a Live,
    pub(super) before: Option<&'a Live>,
    pub(super) since: Option<&'a Live>,
    pub(super) span: Span,
}

/// A vCPU.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct VcpuRow {
    pub(super) index: u32,
    /// What it is doing, in words.
    pub(super) doing: String,
    pub(super) kind: Doing,
    /// Exits a second, of the interval; none after the first look.
    pub(super) exits_per_second: Option<f64>,
    /// The share of the interval that it was in the guest.
    pub(super) in_guest: Option<f64>,
    pub(super) figures: Figures,
    pub(super) waits: Figures,
}

/// The exits of a kind at an address.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ExitRow {
    pub(super) key: String,
    pub(super) device: String,
    pub(super) addr: Option<u64>,
    /// In the span.
    pub(super) figures: Figures,
    /// A second, of the interval.
    pub(super) per_second: Option<f64>,
    /// Of all exits in the span.
    pub(super) share: f64,
    /// Of the time that all exits took in the span.
    pub(super) time_share: f64,
}

impl<'a> Looks<'a> {
    /// What the figures of the span begin with: nothing, if with the beginning.
    fn base(&self) -> Option<&'a Live> {
        match self.span {
            Span::Interval => self.before,
            Span::Total => self.since,
        }
    }

    /// Between the last look and this one.
    fn interval_ns(&self) -> Option<u64> {
        let before = self.before?;
        Some(self.now.now_ns.saturating_sub(before.now_ns))
    }

    fn figures(&self, now: &Histogram, base: Option<&Histogram>) -> Figures {
        match (base, self.base()) {
            (Some(base), _) => Figures::between(base, now),
            // It has come since.
            (None, Some(_)) => Figures::between(&Histogram::default(), now),
            (None, None) => Figures::total(now),
        }
    }

    /// Exits a second, of all vCPUs.
    pub(super) fn exits_per_second(&self) -> Option<f64> {
        let (before, ns) = (self.before?, self.interval_ns()?);
        let count = self
            .now
            .exits
            .all
            .count
            .saturating_sub(before.exits.all.count);
        Some(per_second(count, ns))
    }

    /// The vCPUs, by number.
    pub(super) fn vcpus(&self) -> Vec<VcpuRow> {
        self.now.vcpus.iter().map(|vcpu| self.vcpu(vcpu)).collect()
    }

    fn vcpu(&self, now: &VcpuInfo) -> VcpuRow {
        let of = |live: Option<&'a Live>| live.and_then(|live| vcpu_of(live, now.index));
        let (before, base) = (of(self.before), of(self.base()));
        let interval = before.zip(self.interval_ns());
        VcpuRow {
            index: now.index,
            doing: doing(now),
            kind: now.doing,
            exits_per_second: interval.map(|(before, ns)| {
                per_second(now.exits.count.saturating_sub(before.exits.count), ns)
            }),
            in_guest: interval
                .map(|(before, ns)| share(now.guest_ns.saturating_sub(before.guest_ns), ns)),
            figures: self.figures(&now.exits, base.map(|base| &base.exits)),
            waits: self.figures(&now.waits, base.map(|base| &base.waits)),
        }
    }

    /// The exits, in the order in which they came.
    pub(super) fn exits(&self) -> Vec<ExitRow> {
        let of = |live: Option<&'a Live>, row: &model::ExitRow| {
            let rows = &live?.exits.rows;
            let same = |other: &&model::ExitRow| other.key == row.key && other.device == row.device;
            rows.iter().find(same)
        };
        let all = self.figures(&self.now.exits.all, self.base().map(|base| &base.exits.all));
        let rows = self.now.exits.rows.iter().map(|row| {
            let base = of(self.base(), row).map(|base| &base.times);
            // Nobody knows what a row had that was left out then.
            let unknown = base.is_none() && self.base().is_some_and(|base| base.exits.left_out > 0);
            let figures = match unknown {
                true => Figures::default(),
                false => self.figures(&row.times, base),
            };
            let had = of(self.before, row).map(|before| before.times.count);
            let left_out = self.before.is_some_and(|before| before.exits.left_out > 0);
            let had = had.unwrap_or(if left_out { row.times.count } else { 0 });
            let count = row.times.count.saturating_sub(had);
            ExitRow {
                key: row.key.clone(),
                device: row.device.clone(),
                addr: row.addr,
                per_second: self.interval_ns().map(|ns| per_second(count, ns)),
                share: share(figures.count, all.count),
                time_share: share(figures.total_ns, all.total_ns),
                figures,
            }
        });
        rows.collect()
    }
}

fn vcpu_of(live: &Live, index: u32) -> Option<&VcpuInfo> {
    live.vcpus.iter().find(|vcpu| vcpu.index == index)
}

fn doing(vcpu: &VcpuInfo) -> String {
    let exit = || {
        let kind = vcpu.kind.map_or("exit", kind_name);
        match vcpu.addr {
            Some(addr) => format!("{kind} {addr:#x}"),
            None => kind.to_owned(),
        }
    };
    match vcpu.doing {
        Doing::Starting => "starting".to_owned(),
        Doing::Guest => "in guest".to_owned(),
        Doing::Exit => exit(),
        Doing::Wait => {
            let section = vcpu
                .section
                .map_or(String::new(), |number| format!(" #{number}"));
            let writer = vcpu
                .writer
                .as_ref()
                .map_or("a writer", |writer| &writer.name);
            format!("waits for {writer}{section}: {}", exit())
        }
        Doing::Paused => "paused".to_owned(),
        Doing::Ended => "ended".to_owned(),
    }
}

fn kind_name(kind: ExitKind) -> &'static str {
    match kind {
        ExitKind::MmioRead => "MMIO read",
        ExitKind::MmioWrite => "MMIO write",
        ExitKind::PioIn => "PIO in",
        ExitKind::PioOut => "PIO out",
        ExitKind::Halt => "halt",
        ExitKind::Interrupted => "interrupted",
    }
}

/// By what the exits are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sort {
    Address,
    Device,
    #[default]
    Count,
    Rate,
    TimeShare,
    P50,
    P99,
    Max,
}

impl Sort {
    /// In the order of the columns.
    pub(super) const ALL: [Self; 8] = [
        Self::Address,
        Self::Device,
        Self::Count,
        Self::Rate,
        Self::TimeShare,
        Self::P50,
        Self::P99,
        Self::Max,
    ];

    /// The column after this one, or before it, from the last to the first.
    pub(super) fn step(self, forward: bool) -> Self {
        let all = Self::ALL;
        let at = all.iter().position(|sort| *sort == self).unwrap_or(0);
        let step = if forward { 1 } else { all.len() - 1 };
        all[(at + step) % all.len()]
    }

    /// Sorts: names from the first on, numbers from the highest down.
    pub(super) fn sort(self, rows: &mut [ExitRow], reversed: bool) {
        let rate = |row: &ExitRow| row.per_second.unwrap_or(0.0);
        rows.sort_by(|a, b| {
            let (x, y) = (&a.figures, &b.figures);
            let order = match self {
                Self::Address => (a.addr, &a.key).cmp(&(b.addr, &b.key)),
                Self::Device => a.device.cmp(&b.device),
                Self::Count => y.count.cmp(&x.count),
                Self::Rate => rate(b).total_cmp(&rate(a)),
                Self::TimeShare => b.time_share.total_cmp(&a.time_share),
                Self::P50 => y.p50_ns.cmp(&x.p50_ns),
                Self::P99 => y.p99_ns.cmp(&x.p99_ns),
                Self::Max => y.max_ns.cmp(&x.max_ns),
            };
            let order = if reversed { order.reverse() } else { order };
            // What is equal stays where it is from one look to the next.
            order.then_with(|| a.key.cmp(&b.key))
        });
    }
}
