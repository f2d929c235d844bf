//! How an address space keeps its holds and how its lookups wait: the native way,
//! and four others to compare it with.
//!
//! ```
//! use gracefault::mm::{AddrRange, AddressSpace, Payload, Strategy, VmFlags};
//!
//! #[derive(Clone)]
//! struct Ram;
//! impl Payload for Ram {}
//!
//! let range = AddrRange::new(0, 1 << 40).unwrap();
//! let mm = AddressSpace::with_strategy("guest", range, Strategy::Retry);
//! mm.map(AddrRange::new(0, 0x1000).unwrap(), VmFlags::READ, 0, Ram)?;
//! assert!(mm.lock_vma_under_rcu_wait(0)?.is_some());
//! assert!(!mm.strategy().capabilities().nests);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! There are two axes. A hold is kept in the reader's record ([`Native`], [`Retry`],
//! [`Pin`]), as a count in the VMA ([`Refcount`]) or by the lock over the map
//! ([`Rwlock`]). A lookup that finds a writer in its way waits for that writer's
//! section and leaves a mark ([`Native`], [`Refcount`]), or for the map lock: to try
//! again ([`Retry`]), to take the hold under it ([`Pin`]), or to keep it ([`Rwlock`]).
//!
//! All of them are memory-safe, give no false `None`, keep what is held stable, and
//! make a removal wait for who holds. What else each can is what it
//! [declares](Strategy::capabilities); who wants more of an address space than its
//! strategy declares has to ask for another.
//!
//! # Why this is not a type parameter
//!
//! A strategy is fixed when the space is made, but spaces of all strategies are
//! of one type, so that a machine can be built over any of them. The native path
//! pays next to nothing for that, and no branch: `Retry` and `Pin` differ where a
//! lookup has found a writer; in a space of the other two the first entry of each
//! record is never vacant, so that lookups leave the native path at a test which it
//! makes anyway; and a drop that looks whether to ring the bell also loads whether
//! that is wanted in any case.
//!
//! [`Native`]: Strategy::Native
//! [`Retry`]: Strategy::Retry
//! [`Pin`]: Strategy::Pin
//! [`Refcount`]: Strategy::Refcount
//! [`Rwlock`]: Strategy::Rwlock

mod aside;
mod posted;

use std::fmt;
use std::str::FromStr;

/// How an address space keeps its holds, and how its lookups wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Strategy {
    /// What this module is about: a hold is in the reader's record; a lookup
    /// sleeps for the end of the one section that is in its way.
    #[default]
    Native,
    /// The waiting lookup as it was first posted for Linux: holds as in `Native`; a
    /// lookup that finds a writer takes the map lock for reading, looks up, gives
    /// the lock back and, unless nothing is mapped there, tries again.
    Retry,
    /// The variant that its author names in the discussion: holds as in `Native`; a
    /// lookup that finds a writer takes the map lock for reading, looks up, takes
    /// its hold inside, where there is no writer, and gives the lock back.
    Pin,
    /// As Linux keeps a hold: by a count in the VMA, which every reader of it
    /// writes. Waits as `Native` does.
    Refcount,
    /// The map lock, held for reading as long as the guard lives. A writer waits
    /// for all readers of the map, and does so where it takes the map lock: an unmap
    /// whose deadline passes there fails with
    /// [`LockTimedOut`](super::WriteError::LockTimedOut), and names nobody. A thread that has a section open gets
    /// an error for every lookup, whatever the address.
    Rwlock,
}

/// What a [`Strategy`] can do beyond what all of them can. Tests and the storm ask
/// for nothing that is not declared here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// A thread that holds a VMA may look up others, even if a writer waits to
    /// change the one it holds together with the others. Where this is missing,
    /// such a lookup may wait for ever: for the map lock, which the writer keeps
    /// while it drains the very hold of this thread. So may, under every strategy that
    /// is not [killable](Self::is_killable), one that goes through a
    /// [pin](super::VmaPin::lock_vma_under_rcu_wait_with): a pin has no map lock.
    pub nests: bool,
    /// A lookup sleeps for the end of one write section at most, whoever comes next.
    pub is_bounded: bool,
    /// A deadline or a kill flag ends the wait at once. Where this is missing, they
    /// are looked at before each wait and after it, but end none: a call may outlast
    /// them for as long as write sections do.
    pub is_killable: bool,
    /// A drain report names the threads that held by guards. (Pins are named in
    /// any case.) Where this is missing the report may be empty although the drain
    /// took its time.
    pub names_holders: bool,
    /// A lookup may wait for a writer that is at work elsewhere in the map. The one
    /// that it is better not to have.
    pub waits_for_strangers: bool,
}

impl Strategy {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Native,
        Self::Retry,
        Self::Pin,
        Self::Refcount,
        Self::Rwlock,
    ];

    /// What it can.
    pub const fn capabilities(self) -> Capabilities {
        Capabilities {
            nests: matches!(self, Self::Native | Self::Refcount | Self::Rwlock),
            is_bounded: !matches!(self, Self::Retry),
            is_killable: matches!(self, Self::Native | Self::Refcount),
            names_holders: matches!(self, Self::Native | Self::Retry | Self::Pin),
            waits_for_strangers: matches!(self, Self::Retry | Self::Pin | Self::Rwlock),
        }
    }

    /// What it is called in options and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Retry => "retry",
            Self::Pin => "pin",
            Self::Refcount => "refcount",
            Self::Rwlock => "rwlock",
        }
    }

    /// Whether holds are kept elsewhere than in records.
    pub(super) const fn is_aside(self) -> bool {
        matches!(self, Self::Refcount | Self::Rwlock)
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that no [`Strategy`] has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownStrategy(String);

impl fmt::Display for UnknownStrategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Strategy::ALL.map(Strategy::name).join(", ");
        write!(f, "no strategy is called {:?}; there are {names}", self.0)
    }
}

impl std::error::Error for UnknownStrategy {}

impl FromStr for Strategy {
    type Err = UnknownStrategy;

    fn from_str(name: &str) -> Result<Self, UnknownStrategy> {
        Self::ALL
            .into_iter()
            .find(|strategy| strategy.name() == name)
            .ok_or_else(|| UnknownStrategy(name.to_owned()))
    }
}
