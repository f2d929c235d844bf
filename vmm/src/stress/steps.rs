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
    /// Some pins at once, as those have that reach over several VMAs.
    pub(super) set: u32,
    /// Holds, out of 256, that last for a moment.
    pub(super) holds: u8,
    /// Of lookups beside another hold, out of 256, those that let a writer come between.
    pub(super) dwells: u8,
    /// For how long, in microseconds at most.
    pub(super) dwell: u64,
    pub(super) passing: Passing,
}

/// How pins go to another thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passing {
    /// Those, out of 256, that go there twice.
    pub(super) twice: u8,
    /// How long their sender rests, in microseconds less one.
    pub(super) rests: u64,
    /// How often it then looks up what the same writer may want.
    pub(super) lookups: u32,
    /// Those, out of 256, that are copied where they arrive.
    pub(super) copies: u8,
    /// How long such a copy is kept, in microseconds at most.
    pub(super) keeps: u64,
}

impl Passing {
    pub(super) const USUAL: Self = Self {
        twice: 128,
        rests: 1,
        lookups: 1,
        copies: 200,
        keeps: 40,
    };
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
    Set,
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
        set: 0,
        holds: 0,
        dwells: 32,
        dwell: 6,
        passing: Passing::USUAL,
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
        set: 10,
        holds: 1,
        ..Self::PLAIN
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
            (self.set, Step::Set),
        ] {
            if at < share {
                return step;
            }
            at -= share;
        }
        Step::Plain
    }
}
