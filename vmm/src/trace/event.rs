//! What is recorded.

#[cfg(test)]
pub(super) use self::words::tests;
pub use self::words::{SCHEMA, WORDS, Words};
use super::ExitKind;
use crate::memory::Served;

mod words;

/// A recorded event. Times are in the file's ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A completed exit.
    Exit(Exit),
    /// A write section that is over.
    Section(Section),
    /// A VMA that a section has removed or added.
    Change(Change),
    /// A section whose drain lasts has let in who waited.
    Round(Round),
}

/// A completed exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Its kind.
    pub kind: ExitKind,
    /// Who answered; `None` if it was no access.
    pub served: Option<Served>,
    /// The second part of an access that KVM split.
    pub fragment: bool,
    /// It could not be carried out, and ended the vCPU.
    pub failed: bool,
    /// It was let in to a VMA that a writer had locked.
    pub nested: bool,
    /// Bytes.
    pub len: u16,
    /// Bytes of one of several accesses to a port that exited together (`rep outs`); 0
    /// where there was one, of [`len`](Self::len).
    pub piece: u8,
    /// The vCPU.
    pub vcpu: u16,
    /// When `KVM_RUN` had returned.
    pub start: u64,
    /// When the last lookup was over and the handler's turn began; 0 if there was
    /// none.
    pub looked_up: u64,
    /// When it was done: the next thing is `KVM_RUN`.
    pub end: u64,
    /// The address, or the port.
    pub addr: u64,
    /// The first address of the VMA that answered.
    pub vma: Option<u64>,
    /// The sleep for a writer, if there was one.
    pub wait: Option<Wait>,
    /// The first eight bytes read or written, the first of them the lowest.
    pub data: u64,
}

/// A vCPU's sleep for the end of a write section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The section's number.
    pub section: u64,
    /// When it fell asleep.
    pub from: u64,
    /// When it was awake.
    pub until: u64,
}

/// Which of the guest's two spaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Space {
    /// Guest-physical addresses.
    Memory,
    /// Ports.
    Ports,
}

/// What a write section did, by what it left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// VMAs came, none went: a plug.
    Map,
    /// VMAs went, and none came that were not parts of them: an unplug.
    Unmap,
    /// Some of both: flags, splits, moves.
    Change,
    /// Nothing: given up, or there was nothing to do.
    Nothing,
}

/// A write section that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    /// The space.
    pub space: Space,
    /// What it did.
    pub what: What,
    /// Whether it was published.
    pub published: bool,
    /// How many numbers it had.
    pub rounds: u16,
    /// How many readers its drain found.
    pub holders: u16,
    /// Its first number.
    pub number: u64,
    /// When it had the map lock; 0 here and below where it did not come so far.
    pub opened: u64,
    /// When its plan was complete.
    pub planned: u64,
    /// When no reader was left.
    pub drained: u64,
    /// When its side effects were done.
    pub applied: u64,
    /// When it ended; if published, then with all of it in force.
    pub ended: u64,
    /// The first address that it changed.
    pub start: u64,
    /// The last.
    pub last: u64,
    /// VMAs that came.
    pub added: u32,
    /// VMAs that went.
    pub removed: u32,
}

/// A VMA that a section has removed or added. These follow their section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The space.
    pub space: Space,
    /// Whether it came.
    pub added: bool,
    /// Its [`VmFlags`](crate::mm::VmFlags).
    pub flags: u32,
    /// The section's number.
    pub section: u64,
    /// When: its section's end.
    pub at: u64,
    /// Its first address.
    pub start: u64,
    /// Its last.
    pub last: u64,
    /// Where in what it shows the first address is.
    pub offset: u64,
    /// The section that made it.
    pub generation: u64,
}

/// A drain has let in who waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round {
    /// The space.
    pub space: Space,
    /// The number that ended.
    pub section: u64,
    /// When.
    pub at: u64,
}

impl Event {
    /// When it was over.
    pub fn at(&self) -> u64 {
        match self {
            Self::Exit(exit) => exit.end,
            Self::Section(section) => section.ended,
            Self::Change(change) => change.at,
            Self::Round(round) => round.at,
        }
    }
}

impl Exit {
    /// From `KVM_RUN` returning to its next call, in ticks.
    pub fn ticks(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Of that, asleep for a writer.
    pub fn waited(&self) -> u64 {
        self.wait.map_or(0, |wait| wait.ticks())
    }

    /// Of that, in whoever answered.
    pub fn handler(&self) -> u64 {
        match self.looked_up {
            0 => 0,
            at => self.end.saturating_sub(at),
        }
    }

    /// Whether KVM counts it as one of its `mmio_exits`.
    pub fn is_mmio_exit(&self) -> bool {
        matches!(self.kind, ExitKind::MmioRead | ExitKind::MmioWrite) && !self.fragment
    }
}

impl Wait {
    /// How long, in ticks.
    pub fn ticks(&self) -> u64 {
        self.until.saturating_sub(self.from)
    }
}

impl Section {
    /// VMAs that came or went.
    pub fn changes(&self) -> u64 {
        u64::from(self.added) + u64::from(self.removed)
    }

    /// Whether `number` is one of its numbers.
    pub fn has_number(&self, number: u64) -> bool {
        let after = number.wrapping_sub(self.number);
        after.is_multiple_of(2) && after / 2 < u64::from(self.rounds.max(1))
    }

    /// The last of its numbers.
    pub fn last_number(&self) -> u64 {
        let more = u64::from(self.rounds.max(1)) - 1;
        self.number.wrapping_add(2 * more)
    }

    /// From having the map lock to its end, in ticks.
    pub fn ticks(&self) -> u64 {
        self.ended.saturating_sub(self.opened)
    }

    /// From the locking of its write set to the last reader's leaving, in ticks.
    pub fn drain(&self) -> u64 {
        self.drained.saturating_sub(self.planned)
    }
}

impl Change {
    /// Bytes; saturated at 2^64 - 1.
    pub fn bytes(&self) -> u64 {
        self.last.saturating_sub(self.start).saturating_add(1)
    }
}
