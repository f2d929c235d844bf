//! What a test of the storm leaves out, or does wrong, to see which oracle notices.
//!
//! Only in a build with `--cfg gracefault_mutants`, which no release is. Of the
//! mutants of `docs/protocol.md` these are the ones that a running program can show on
//! x86-64; the others are about orderings that this processor keeps by itself, or
//! about sleeping a slice too long.

use std::time::Duration;

use super::StressConfig;
use super::aim::Aim;
use super::aimed;
use super::mix::{Mix, Op};
use super::preset::Preset;
use super::steps::Steps;
use crate::mm::Strategy;

/// Whether this build can be broken.
pub const POSSIBLE: bool = cfg!(gracefault_mutants);

/// A way to break it.
#[derive(Clone, Copy, Debug)]
pub struct Break {
    /// What it is called: as the mutant of the protocol, if it is one.
    pub name: &'static str,
    /// Whether it is a step of the protocol that is left out, rather than something
    /// that the storm or the machine does wrong.
    pub is_mutant: bool,
    /// The storm that shows it.
    pub preset: Preset,
    /// The strategy that has it.
    pub strategy: Strategy,
    /// What the writers do, if not what the preset says.
    pub mix: Option<Mix>,
    /// Regions, if not as the preset says; then there is one writer.
    pub regions: Option<u32>,
    /// What readers do, if not what the preset says.
    pub(super) steps: Option<Steps>,
    /// Where threads linger, if not everywhere now and then. Then nobody is there but
    /// one reader, one writer, and who drops pins.
    pub(super) aims: &'static [Aim],
    /// How long it has at most, in seconds.
    pub seconds: u64,
    /// Whether it takes a guest.
    pub needs_kvm: bool,
}

pub(super) const fn mutant(name: &'static str, preset: Preset) -> Break {
    Break {
        name,
        is_mutant: true,
        preset,
        strategy: Strategy::Native,
        mix: None,
        regions: None,
        steps: None,
        aims: &[],
        seconds: 60,
        needs_kvm: false,
    }
}

const fn of(strategy: Strategy, name: &'static str, preset: Preset) -> Break {
    Break {
        strategy,
        ..mutant(name, preset)
    }
}

const fn wrong(name: &'static str, preset: Preset) -> Break {
    Break {
        is_mutant: false,
        ..mutant(name, preset)
    }
}

const fn guest(name: &'static str) -> Break {
    Break {
        needs_kvm: true,
        // It is judged at its end.
        seconds: 4,
        ..wrong(name, Preset::Smoke)
    }
}

/// Borders that come and go within one region.
const MERGES: Mix = Mix::of([(Op::Split, 50), (Op::Protect, 50)]);

/// Little else than calling readers back.
const CALLS: Mix = Mix::of([(Op::Protect, 50), (Op::Call, 50)]);

const fn merging(name: &'static str) -> Break {
    Break {
        mix: Some(MERGES),
        regions: Some(2),
        ..mutant(name, Preset::Boundary)
    }
}

/// All of them.
pub const BREAKS: &[Break] = &[
    aimed::READER_FENCE,
    aimed::SEQ_EARLY,
    mutant("drain", Preset::Smoke),
    mutant("reuse-held", Preset::Smoke),
    mutant("lock-check", Preset::Smoke),
    mutant("detached", Preset::Churn),
    aimed::DETACHED_FIRST,
    aimed::DETACH_LATE,
    mutant("publish-late", Preset::Churn),
    mutant("recent", Preset::SameVma),
    aimed::PIECEMEAL,
    mutant("admission", Preset::Nested),
    mutant("moves", Preset::Pins),
    mutant("drain-moves", Preset::Pins),
    mutant("wait-mark", Preset::SameVma),
    mutant("later-mark", Preset::SameVma),
    mutant("round-same", Preset::SameVma),
    mutant("clear-mark", Preset::Smoke),
    mutant("wake-waiters", Preset::Smoke),
    mutant("kill-wake", Preset::Smoke),
    Break {
        mix: Some(CALLS),
        ..mutant("shake-lock", Preset::Smoke)
    },
    mutant("grace", Preset::Churn),
    aimed::GRACE_WAITERS,
    mutant("grace-bare", Preset::Churn),
    merging("merge-scan"),
    aimed::TRIED_LOOK,
    aimed::TRIED_LOCKED,
    aimed::MERGE_UNMARK,
    aimed::WRITER_FENCE,
    aimed::MERGE_FENCE,
    aimed::MERGE_MARK,
    aimed::MERGE_MOVES,
    aimed::MOVES_FIRST,
    aimed::ADMIT_PINS,
    aimed::ADMIT_SET,
    aimed::ANNEX,
    of(Strategy::Refcount, "count", Preset::Smoke),
    of(Strategy::Refcount, "count-first", Preset::SameVma),
    of(Strategy::Refcount, "note-first", Preset::SameVma),
    aimed::PINNED_MOVES,
    Break {
        strategy: Strategy::Refcount,
        ..merging("merge-count")
    },
    of(Strategy::Rwlock, "phase-admit", Preset::Smoke),
    of(Strategy::Pin, "posted-late", Preset::SameVma),
    wrong("early-poison", Preset::Smoke),
    wrong("early-release", Preset::Smoke),
    wrong("false-none", Preset::Smoke),
    wrong("late-access", Preset::Smoke),
    Break {
        seconds: 4,
        ..wrong("idle-reader", Preset::Smoke)
    },
    guest("flip-byte"),
    guest("mmio-value"),
    guest("uncounted-exit"),
];

impl Break {
    /// What shows it best.
    pub fn choose(&'static self, config: &mut StressConfig) {
        config.broken = Some(self);
        config.strategy = self.strategy;
        config.mix = self.mix.unwrap_or(config.mix);
        config.regions = self.regions.unwrap_or(config.regions);
        if self.regions.is_some() {
            config.writers = 1;
        }
        if !self.aims.is_empty() {
            config.readers = 1;
        }
        config.duration = Duration::from_secs(self.seconds);
    }

    /// Leaves the step out from now on, if it is one of the protocol.
    pub(super) fn take_effect(&self) {
        #[cfg(gracefault_mutants)]
        if self.is_mutant {
            assert!(
                crate::mm::choose_mutant(self.name),
                "the map is in use already"
            );
        }
    }

    /// The one with that name.
    pub fn named(name: &str) -> Option<&'static Self> {
        BREAKS.iter().find(|broken| broken.name == name)
    }
}
