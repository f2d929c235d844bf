//! One thing that a reader is doing, for writers to see.

use super::HoldKind;
use super::sync::atomic::{AtomicU64, Ordering};
use super::sync::{self, mutant, unless};

const EMPTY: u64 = 0;
const WALK: u64 = 2;
const HOLD: u64 = 4;
const PIN: u64 = 6;
const BARE: u64 = 8;
const NOTE: u64 = 10;
const RESERVED: u64 = 12;

/// What an entry says. Sections have odd numbers, so that one word tells a wait
/// for any of them from everything else, and no wait is ever taken for one for a
/// later section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Empty,
    /// On its way to the VMA that covers the address: it may touch nodes of the
    /// tree, and may be about to hold.
    Walk,
    /// Holds that VMA, on the thread that owns the record.
    Hold,
    /// Holds that VMA, on whichever thread.
    Pin,
    /// Waits, or has waited, for the section with this number to end.
    Wait(u64),
    /// Walks over the tree and will hold nothing.
    Bare,
    /// Tells the thread that it holds the VMA by other means; nothing to a writer.
    Note,
}

/// An entry of a reader record: a state and an address, never a pointer, so that
/// a writer follows nothing of a reader's.
///
/// The owner of the record alone fills an empty entry; whoever has what it stands
/// for empties it. The address is written before the state, so a writer that
/// loads the state first sees the address that belongs to it or a later one; and
/// a later one, acquired, proves that what the entry said before is over.
#[repr(C, align(16))]
#[derive(Debug)]
pub(super) struct Entry {
    state: AtomicU64,
    addr: AtomicU64,
}

impl Entry {
    pub(super) fn new() -> Self {
        Self {
            state: AtomicU64::new(EMPTY),
            addr: AtomicU64::new(0),
        }
    }

    /// Whether it may be filled. Acquires what was done by the thread that
    /// emptied it.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.state.load(unless("vacant-acquire", Ordering::Acquire)) == EMPTY
    }

    /// Never to be filled, nor to be seen by anybody; see
    /// [`strategy`](super::strategy).
    pub(super) fn reserve(&self) {
        self.state.store(RESERVED, Ordering::Relaxed);
    }

    /// Whether nothing is in it, be it for ever.
    pub(super) fn is_unused(&self) -> bool {
        self.is_empty() || self.state.load(Ordering::Relaxed) == RESERVED
    }

    /// With Release, so that who loads it acquires what was done under the address
    /// before: see the top.
    #[inline(always)]
    fn set_addr(&self, addr: u64) {
        let order = unless("addr-release", Ordering::Release);
        self.addr.store(addr, order);
    }

    /// Publishes a walk to `addr`, with a full fence.
    #[inline]
    pub(super) fn walk(&self, addr: u64) {
        self.set_addr(addr);
        sync::publish(&self.state, WALK);
    }

    /// Publishes a walk over the tree that ends in no hold, with a full fence.
    pub(super) fn walk_bare(&self) {
        sync::publish(&self.state, BARE);
    }

    /// From a walk, or a wait that is over, to a hold.
    #[inline]
    pub(super) fn hold(&self) {
        let order = unless("hold-release", Ordering::Release);
        self.state.store(HOLD, order);
    }

    /// From a hold, or a walk, to a hold that may leave the thread.
    #[inline]
    pub(super) fn pin(&self) {
        self.state.store(PIN, Ordering::Release);
    }

    /// From empty to a pin, for one who has another hold of the same VMA.
    pub(super) fn pin_at(&self, addr: u64) {
        self.set_addr(addr);
        self.pin();
    }

    /// From a hold to a note of one that is kept elsewhere by now.
    pub(super) fn note(&self) {
        let order = unless("note-release", Ordering::Release);
        self.state.store(NOTE, order);
    }

    /// From empty to a note.
    pub(super) fn note_at(&self, addr: u64) {
        self.set_addr(addr);
        self.note();
    }

    /// From a walk to a wait for the end of section `seq`.
    pub(super) fn wait(&self, seq: u64) {
        self.state.store(seq, Ordering::Release);
    }

    /// Ends whatever it says. What this thread did before happens before whatever
    /// a writer does that sees it.
    #[inline]
    pub(super) fn clear(&self) {
        let order = unless("release", Ordering::Release);
        self.state.store(EMPTY, order);
    }

    /// The address, for the owner and for who has what the entry stands for.
    #[inline]
    pub(super) fn addr(&self) -> u64 {
        self.addr.load(Ordering::Relaxed)
    }

    /// What it says. The address is that of the state or a later one.
    #[inline]
    pub(super) fn load(&self) -> (State, u64) {
        let order = unless("drain-acquire", Ordering::Acquire);
        let state = match self.state.load(order) {
            EMPTY | RESERVED => State::Empty,
            WALK => State::Walk,
            HOLD => State::Hold,
            PIN => State::Pin,
            BARE => State::Bare,
            NOTE => State::Note,
            seq => State::Wait(seq),
        };
        (state, self.addr.load(unless("addr-acquire", order)))
    }

    /// What it says, for those who want no state with the address of a later one. The
    /// address is written before the state that it belongs to, and acquiring it acquires
    /// that what was before is over; so if both are still the same after both were read,
    /// nothing came between, unless the owner went through all of it once more and came
    /// by the very same state and address.
    pub(super) fn load_whole(&self) -> (State, u64) {
        let mut before = self.load();
        loop {
            let again = self.load();
            if before == again {
                return again;
            }
            before = again;
            sync::thread::yield_now();
        }
    }
}

impl State {
    /// Whether a drain of section `seq` waits for such an entry in its write set.
    pub(super) fn delays(self, seq: u64) -> bool {
        match self {
            Self::Empty | Self::Bare | Self::Note => false,
            Self::Wait(other) => other != seq && !mutant("later-mark"),
            Self::Walk | Self::Hold | Self::Pin => true,
        }
    }

    /// Whether the entry's reader may be inside a version of the tree that is no
    /// longer in force.
    pub(super) fn walks(self) -> bool {
        match self {
            Self::Walk => true,
            Self::Bare => !mutant("grace-bare"),
            Self::Wait(_) => !mutant("grace-waiters"),
            Self::Empty | Self::Hold | Self::Pin | Self::Note => false,
        }
    }

    /// Whether the thread that owns the record holds it by a guard.
    pub(super) fn is_guard(self) -> bool {
        matches!(self, Self::Hold | Self::Note)
    }

    /// How a report calls it.
    pub(super) fn kind(self) -> HoldKind {
        match self {
            Self::Wait(_) => HoldKind::Wait,
            Self::Pin => HoldKind::Pin,
            Self::Hold | Self::Note => HoldKind::Hold,
            Self::Empty | Self::Walk | Self::Bare => HoldKind::Walk,
        }
    }
}
