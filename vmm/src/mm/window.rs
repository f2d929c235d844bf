//! The places between two steps of the protocol where a race is won or lost.
//!
//! A space that is [told so](super::SpaceOptions::at_window) calls a function at each
//! of them: a storm lets threads linger there, so that rare orders become frequent.
//! Elsewhere they cost nothing on the way of a lookup that meets no writer: a space
//! with such a function never leaves the first entry of a record vacant (as one whose
//! strategy keeps its holds [elsewhere](super::strategy)), so its lookups leave that
//! way at a test which is made anyway, and the function is asked for off it only.

use std::fmt;

use super::Payload;
use super::core::Core;

macro_rules! windows {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)+) => {
        /// A place between two steps of the protocol.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Window {
            $($(#[$doc])* $name,)+
        }

        impl Window {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// What it is called in tables.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

windows! {
    /// A lookup begins; nothing is published yet.
    Entering => "entering",
    /// The walk is published, `mm_lock_seq` not looked at.
    Walking => "walking",
    /// `mm_lock_seq` was looked at, the root is not loaded.
    Looked => "looked",
    /// The root is loaded, the tree not walked.
    Rooted => "rooted",
    /// The VMA is found, and neither its lock looked at nor held.
    Found => "found",
    /// The same beside an open section.
    Beside => "beside",
    /// The VMA's lock was looked at, whether it is detached was not.
    Unlocked => "unlocked",
    /// The VMA is locked; whether to go in, to wait or to fail is not known yet.
    Refused => "refused",
    /// A hold is about to be by another, or the count of moves to tell of it.
    Moving => "moving",
    /// A hold is about to be a count in the VMA, or has just become one.
    Counting => "counting",
    /// The wait is marked, and the thread not asleep.
    Waiting => "waiting",
    /// The thread has looked at its flag, and is about to sleep.
    Dozing => "dozing",
    /// The section has ended; what it left is not looked up.
    Woken => "woken",
    /// The root that the section left is loaded, the tree not walked.
    Waking => "waking",
    /// The wait was called back; its mark is there.
    CalledBack => "called back",
    /// The reader has used what it held for the last time.
    Leaving => "leaving",
    /// The hold is over, the writer not rung.
    Left => "left",
    /// A lookup is about to wait for the map lock, or has just given it back.
    MapLock => "map lock",
    /// A section is planned, and its write set not marked.
    Planned => "planned",
    /// A member of the write set is marked; others may not be.
    Marking => "marking",
    /// The write set is locked, and nobody looked for.
    Locked => "locked",
    /// A drain has looked at some readers, and not at others.
    Scanning => "scanning",
    /// A drain has found a reader, and is about to sleep.
    Scanned => "scanned",
    /// A round is over, the next not begun.
    Round => "round",
    /// A drain is over; neighbours to merge with are not marked as tried yet.
    Drained => "drained",
    /// The neighbours to merge with are marked as tried, and not scanned for.
    Trying => "trying",
    /// They were scanned for, and are neither locked nor let go.
    Tried => "tried",
    /// What goes is detached, the new map not in force.
    Detached => "detached",
    /// The new map is in force, the section not ended.
    Published => "published",
    /// The section has ended, and what it left out is not retired.
    Ended => "ended",
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What to do at a [`Window`]. It may take its time, and must not use the map.
#[derive(Clone, Copy)]
pub struct AtWindow(pub fn(Window));

impl fmt::Debug for AtWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AtWindow")
    }
}

impl<T: Payload> Core<T> {
    /// The calling thread is at `window`. Not for the way of a lookup that meets no
    /// writer.
    #[inline]
    pub(super) fn window(&self, window: Window) {
        if let Some(AtWindow(call)) = self.at_window {
            call(window);
        }
    }
}
