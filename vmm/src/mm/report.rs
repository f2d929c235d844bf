//! What a write section tells about the readers it waited for.

use std::fmt;
use std::time::Duration;

/// How a reader stood in a writer's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HoldKind {
    /// It was on its way to a VMA, and would have held it next.
    Walk,
    /// It held a VMA read-locked.
    Hold,
    /// It held a VMA by a pin, which may have left the thread that is named.
    Pin,
    /// It had waited for an earlier section and not yet taken the VMA.
    Wait,
}

/// A reader that a drain found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The thread's name, or its id where it has none.
    pub thread: String,
    /// The address that it had looked up.
    pub addr: u64,
    /// What it was doing.
    pub kind: HoldKind,
}

/// A lookup that sleeps for the end of a write section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiter {
    /// The thread's name, or its id where it has none.
    pub thread: String,
    /// The address that it looks up.
    pub addr: u64,
    /// The number of the section that it waits for; one of those that the section has
    /// (see [`Published::rounds`](super::Published::rounds)).
    pub section: u64,
}

/// How a drain went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DrainReport {
    /// How long it took, from the locking of the write set to the last reader's
    /// leaving; next to nothing when no reader was there.
    pub waited: Duration,
    /// The readers found, each once, in no particular order.
    pub holders: Vec<Holder>,
}

impl fmt::Display for DrainReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "drained {:?}", self.waited)?;
        for (i, holder) in self.holders.iter().enumerate() {
            let lead = if i == 0 { "; held by" } else { "," };
            write!(f, "{lead} \"{}\" at {:#x}", holder.thread, holder.addr)?;
        }
        Ok(())
    }
}
