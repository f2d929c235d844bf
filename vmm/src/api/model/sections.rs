//! Write sections: who changes the map, and who waits for that.

use serde::{Deserialize, Serialize};

use super::Range;

/// A thread of the VMM's.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Thread {
    /// Its name.
    pub name: String,
    /// As the kernel numbers it; 0 if not known.
    pub tid: u32,
}

/// A lookup that waits for the end of a write section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wait {
    /// The thread that waits.
    pub thread: String,
    /// The vCPU that it runs, if it runs one.
    pub vcpu: Option<u32>,
    /// The address that it looks up.
    pub addr: u64,
    /// The section's number.
    pub section: u64,
    /// Whose section that is, as far as known.
    pub writer: Option<Thread>,
    /// For how long it has answered the exit that it waits in; none if it runs no vCPU.
    pub since_ns: Option<u64>,
}

/// How far an open write section is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Its write set is locked; it waits until no reader holds any of it.
    Draining,
    /// No reader is left: memslots change, and the map next.
    Applying,
}

/// The write section that is open, from the locking of its write set on. (What is only
/// being planned keeps nobody waiting.)
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpenSection {
    /// Its first number.
    pub section: u64,
    /// How far it is.
    pub stage: Stage,
    /// Whose it is.
    pub writer: Thread,
    /// For how long its write set has been locked.
    pub since_ns: u64,
    /// Its write set, in order, as far as there is room: 16 at most.
    pub ranges: Vec<Range>,
    /// Readers that hold some of it now.
    pub held_by: Vec<super::Hold>,
}

/// What a section did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Did {
    /// Something was mapped.
    Map,
    /// Something is not mapped any more.
    Unmap,
    /// Flags, borders or places changed.
    Change,
    /// It was given up, and nothing has changed.
    GivenUp,
}

/// A write section that is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Its first number. Grows from one to the next.
    pub section: u64,
    /// What it did.
    pub did: Did,
    /// From the first address that it concerned to the last; none if it was given up.
    pub range: Option<Range>,
    /// Whose it was.
    pub writer: Thread,
    /// How long ago it ended.
    pub ago_ns: u64,
    /// From having the map lock to its end.
    pub took_ns: u64,
    /// Of that, waiting for readers to leave.
    pub drain_ns: u64,
    /// Readers that it waited for.
    pub holders: u32,
}

/// `GET /vm.sections`: the write sections of guest memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sections {
    /// That were published.
    pub published: u64,
    /// That were given up, with nothing changed.
    pub given_up: u64,
    /// Times that a drain let in who waited, and went on.
    pub rounds: u64,
    /// Readers that drains waited for.
    pub drained_readers: u64,
    /// The one that is open.
    pub open: Option<OpenSection>,
    /// The last ones that are over, the newest first: 64 at most.
    pub last: Vec<Change>,
}
