//! Storms with a name.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::mix::{Mix, Op};
use super::steps::Steps;
use crate::mm::Capabilities;

/// A storm with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Preset {
    /// Some of everything.
    Smoke,
    /// Borders that move, and readers that hold both sides.
    Boundary,
    /// One VMA that everybody looks up, changed without rest.
    SameVma,
    /// Regions that come and go at the same addresses.
    Churn,
    /// Readers that hold one and look up another, of one write set.
    Nested,
    /// Holds that go to another thread.
    Pins,
    /// As many regions as there can be.
    Huge,
    /// Writers that never rest, until ten million lookups have met them; and the
    /// same for the strategy `retry`.
    Starve,
}

/// What a strategy has to be able to, in words.
pub(super) type Need = (&'static str, fn(Capabilities) -> bool);

impl Preset {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Smoke,
        Self::Boundary,
        Self::SameVma,
        Self::Churn,
        Self::Nested,
        Self::Pins,
        Self::Huge,
        Self::Starve,
    ];

    /// What it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Smoke => "smoke",
            Self::Boundary => "boundary",
            Self::SameVma => "same-vma",
            Self::Churn => "churn",
            Self::Nested => "nested",
            Self::Pins => "pins",
            Self::Huge => "huge",
            Self::Starve => "starve",
        }
    }

    /// What the strategy must be able to. With KVM, the guest's DMA nests: its
    /// device is held while it copies.
    pub(super) fn needs(self, with_kvm: bool) -> Vec<Need> {
        let nests: Need = ("lets a thread look up while it holds", |can| can.nests);
        let mut needs = Vec::new();
        if with_kvm || matches!(self, Self::Boundary | Self::Nested) {
            needs.push(nests);
        }
        if self == Self::Starve {
            needs.push(("sleeps for one section at most", |can: Capabilities| {
                can.is_bounded
            }));
        }
        needs
    }

    /// Whether there is a guest for it.
    pub(super) const fn runs_on_kvm(self) -> bool {
        matches!(
            self,
            Self::Smoke | Self::SameVma | Self::Churn | Self::Nested | Self::Huge
        )
    }

    pub(super) const fn writers(self, with_kvm: bool) -> u32 {
        match (self, with_kvm) {
            (Self::SameVma | Self::Starve, _) | (Self::Smoke, false) => 1,
            _ => 2,
        }
    }

    pub(super) const fn regions(self, with_kvm: bool) -> u32 {
        match (self, with_kvm) {
            (Self::Huge, false) => 1_000_000,
            (Self::Huge, true) => 32_000,
            (Self::SameVma | Self::Starve, false) => 1,
            (Self::Churn | Self::Nested | Self::Boundary | Self::Pins, false) => 8,
            (_, false) => 64,
            (_, true) => 64,
        }
    }

    pub(super) const fn duration(self) -> Duration {
        Duration::from_secs(match self {
            Self::Starve => 600,
            Self::Huge => 30,
            _ => 10,
        })
    }

    pub(super) const fn delays(self) -> bool {
        !matches!(self, Self::Starve)
    }

    /// Lookups after which it ends, and how many of them have to have slept for a
    /// writer, however long that takes.
    pub(super) const fn wants(self) -> Option<(u64, u64)> {
        match self {
            Self::Starve => Some((10_000_000, 100_000)),
            _ => None,
        }
    }

    pub(super) const fn work(self) -> Duration {
        match self {
            Self::Starve => Duration::from_micros(5),
            _ => Duration::ZERO,
        }
    }

    pub(super) const fn mix(self, with_kvm: bool) -> Mix {
        use Op::{Border, Call, Move, Plug, Protect, Replace, Split, Unplug};
        if with_kvm {
            return match self {
                Self::SameVma | Self::Nested => Mix::of([(Protect, 90), (Plug, 5), (Unplug, 5)]),
                Self::Churn | Self::Huge => Mix::of([(Plug, 50), (Unplug, 50)]),
                _ => Mix::of([(Plug, 40), (Unplug, 40), (Split, 10), (Protect, 10)]),
            };
        }
        match self {
            Self::Boundary => Mix::of([(Border, 70), (Split, 15), (Protect, 15)]),
            Self::SameVma | Self::Starve => Mix::of([(Split, 30), (Protect, 50), (Replace, 20)]),
            Self::Churn => Mix::of([(Plug, 45), (Unplug, 45), (Move, 10)]),
            Self::Nested => Mix::of([(Plug, 40), (Unplug, 40), (Border, 20)]),
            Self::Huge => Mix::of([(Plug, 40), (Unplug, 40), (Split, 10), (Protect, 10)]),
            Self::Smoke | Self::Pins => Mix::of([
                (Plug, 240),
                (Unplug, 240),
                (Split, 150),
                (Protect, 150),
                (Move, 50),
                (Replace, 80),
                (Border, 80),
                (Call, 2),
            ]),
        }
    }

    /// What readers do.
    pub(super) const fn steps(self) -> Steps {
        let usual = Steps::USUAL;
        match self {
            Self::Boundary => Steps {
                border: 200,
                ..usual
            },
            Self::Nested => Steps {
                nested: 200,
                ..usual
            },
            Self::Pins => Steps { pin: 200, ..usual },
            Self::Starve => Steps::PLAIN,
            Self::SameVma => Steps {
                holds: 64,
                ..Steps::PLAIN
            },
            _ => usual,
        }
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
