//! Telling somebody of every write section, and of what each changed.

use std::fmt;

use super::{AddrRange, VmaInfo};

/// Who is told of the write sections of a space: set once, by
/// [`AddressSpace::observe`](super::AddressSpace::observe). Without one nothing is
/// stamped. A lookup asks for one only where it has to wait.
///
/// Its methods are called by the writer's thread, or by the one that waits, and delay
/// that one alone. They must not block, panic, or use the map.
pub trait Observer: Send + Sync {
    /// Now, on a clock of the observer's, which does not go back and is the same for
    /// all threads. Not 0, which stands for "did not happen".
    fn now(&self) -> u64;

    /// Section `number` is about to lock its write set, which is in order, and to wait
    /// for its readers: nobody waits for it yet. By default nothing is done.
    fn locking(&self, number: u64, write_set: &[AddrRange]) {
        let _ = (number, write_set);
    }

    /// No reader is left in the write set of section `number`; now come its side
    /// effects. By default nothing is done.
    fn drained(&self, number: u64) {
        let _ = number;
    }

    /// A section is over, published or given up; those who waited for it have been
    /// woken, and its thread still has the map lock: so the calls come in the order
    /// of the sections.
    fn section(&self, section: &SectionSeen<'_>);

    /// The drain of a section that goes on has let in who waited. They had waited for
    /// number `seq`, which ended at `at`.
    fn round(&self, seq: u64, at: u64);
}

/// A write section that is over. Times are on the [observer's](Observer::now) clock;
/// 0 where it did not come so far.
#[derive(Clone, Copy, Debug)]
pub struct SectionSeen<'a> {
    /// Its first number; see [`Published::number`](super::Published::number).
    pub number: u64,
    /// How many numbers it had; see [`Published::rounds`](super::Published::rounds).
    pub rounds: u64,
    /// When it had the map lock.
    pub opened: u64,
    /// When the plan was complete and its write set was to be locked.
    pub planned: u64,
    /// When no reader was left in its write set.
    pub drained: u64,
    /// When the caller's side effects were done, and it was to be published.
    pub applied: u64,
    /// When it ended: just before who waited for it could go on.
    pub ended: u64,
    /// Whether it was published. If not, nothing has changed.
    pub published: bool,
    /// How many readers the drain found.
    pub holders: usize,
    /// VMAs that are no longer there, replaced ones included; empty if given up.
    pub removed: &'a [VmaInfo],
    /// VMAs that are there now and were not before; empty if given up.
    pub added: &'a [VmaInfo],
}

/// What a section notes for the observer, if there is one.
#[derive(Default)]
pub(super) struct Notes {
    pub(super) opened: u64,
    pub(super) planned: u64,
    pub(super) drained: u64,
    pub(super) applied: u64,
    pub(super) published: bool,
    pub(super) holders: usize,
    pub(super) removed: Vec<VmaInfo>,
    pub(super) added: Vec<VmaInfo>,
}

impl Notes {
    pub(super) fn seen(&self, number: u64, rounds: u64, ended: u64) -> SectionSeen<'_> {
        SectionSeen {
            number,
            rounds,
            opened: self.opened,
            planned: self.planned,
            drained: self.drained,
            applied: self.applied,
            ended,
            published: self.published,
            holders: self.holders,
            removed: &self.removed,
            added: &self.added,
        }
    }
}

impl fmt::Debug for dyn Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}
