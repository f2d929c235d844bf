//! How to make an address space, and how to lock a write set.

use std::fmt;
use std::time::{Duration, Instant};

use super::{AtWindow, DrainReport, Strategy};

/// What an address space may be beside its name and range. The default is the native
/// strategy, no rank, and nothing at the windows of the protocol.
///
/// ```
/// use gracefault::mm::{AddrRange, AddressSpace, Payload, SpaceOptions, Strategy};
/// # #[derive(Clone)]
/// # struct Ram;
/// # impl Payload for Ram {}
///
/// let range = AddrRange::new(0, 1 << 40).unwrap();
/// let options = SpaceOptions { rank: Some(1), ..Strategy::Retry.into() };
/// let mm = AddressSpace::<Ram>::with_options("memory", range, options);
/// assert_eq!(mm.strategy(), Strategy::Retry);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct SpaceOptions {
    /// How holds are kept, and how lookups wait.
    pub strategy: Strategy,
    /// The place in the order in which a thread looks up in several spaces: one that
    /// holds a VMA of a space makes no waiting lookup in a space of a lower rank. Two
    /// threads that did it crosswise, each beside a writer, could wait for each other
    /// for ever. Debug builds panic where a lookup breaks the order, whether or not it
    /// would have to wait. Spaces that have no rank, or the same, are not told apart.
    pub rank: Option<u32>,
    /// What to do between two steps of the protocol: for storms, which let threads
    /// linger there. Lookups and drops in such a space are some nanoseconds slower;
    /// what they do is the same.
    pub at_window: Option<AtWindow>,
}

impl From<Strategy> for SpaceOptions {
    /// That strategy, and no rank.
    fn from(strategy: Strategy) -> Self {
        Self {
            strategy,
            rank: None,
            at_window: None,
        }
    }
}

/// What to do while readers hold the write set. The default is to wait for as long
/// as they take.
#[derive(Debug, Default)]
pub struct LockOptions<'f> {
    /// When to give up.
    pub deadline: Option<Instant>,
    /// Whom to tell that it lasts.
    pub on_slow: Option<OnSlow<'f>>,
}

/// Who is told that a drain lasts, and when: after that time, and again after
/// twice as long each time, for as long as it lasts.
pub struct OnSlow<'f> {
    /// How long a drain may take that nobody need know of.
    pub after: Duration,
    /// Called with the time waited so far and the readers that are there now. The
    /// map lock is taken by this thread, and no VMA is locked: whoever waits for
    /// the section is let in first, so that no reader waits for what is done here.
    /// Lookups are allowed, but their guards are to be dropped before it returns.
    /// If it panics, the section is given up.
    pub call: &'f mut dyn FnMut(&DrainReport),
}

impl fmt::Debug for OnSlow<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnSlow")
            .field("after", &self.after)
            .finish_non_exhaustive()
    }
}
