//! How a section ends.

/// Where a section is given up, if it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Published,
    /// After its last step.
    Planned,
    /// With its write set locked and drained.
    Drained,
    /// For another plan, in which everything stays.
    Instead,
    /// By a caller's side effect, which panics.
    EffectPanics,
    /// By a deadline: somebody has a pin.
    TimedOut,
    /// By a payload that panics when it is copied or compared for the so manieth time.
    /// Published if that is less often.
    PayloadPanics(u64),
}

/// Those that give a section up, but for the last, which is many.
pub(super) const ALL: [Fate; 5] = [
    Fate::Planned,
    Fate::Drained,
    Fate::Instead,
    Fate::EffectPanics,
    Fate::TimedOut,
];
