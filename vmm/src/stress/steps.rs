//! What readers do, and how often.

/// Shares, out of 1024, of what is not a plain lookup.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steps {
    /// The try-lookup.
    pub(super) attempt: u32,
    /// A read through the access path of a guest.
    pub(super) access: u32,
    /// One of a pair, then the other.
    pub(super) nested: u32,
    /// One, then what begins at its end.
    pub(super) border: u32,
    /// A hold that goes to another thread.
    pub(super) pin: u32,
    /// What covers an address, or comes next.
    pub(super) next: u32,
    /// A walk that locks nothing.
    pub(super) bare: u32,
    /// A lookup with a deadline.
    pub(super) deadline: u32,
    /// An address that is never mapped.
    pub(super) nowhere: u32,
    /// Holds, out of 256, that last for a moment.
    pub(super) holds: u8,
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Plain,
    Attempt,
    Access,
    Nested,
    Border,
    Pin,
    Next,
    Bare,
    Deadline,
    Nowhere,
}

impl Steps {
    pub(super) const PLAIN: Self = Self {
        attempt: 0,
        access: 0,
        nested: 0,
        border: 0,
        pin: 0,
        next: 0,
        bare: 0,
        deadline: 0,
        nowhere: 0,
        holds: 0,
    };

    pub(super) const USUAL: Self = Self {
        attempt: 30,
        access: 60,
        nested: 60,
        border: 40,
        pin: 20,
        next: 10,
        bare: 10,
        deadline: 10,
        nowhere: 10,
        holds: 1,
    };

    pub(super) fn choose(&self, random: &mut fastrand::Rng) -> Step {
        let mut at = random.u32(..) % 1024;
        for (share, step) in [
            (self.access, Step::Access),
            (self.nested, Step::Nested),
            (self.border, Step::Border),
            (self.attempt, Step::Attempt),
            (self.pin, Step::Pin),
            (self.next, Step::Next),
            (self.bare, Step::Bare),
            (self.deadline, Step::Deadline),
            (self.nowhere, Step::Nowhere),
        ] {
            if at < share {
                return step;
            }
            at -= share;
        }
        Step::Plain
    }
}
