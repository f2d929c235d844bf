//! Breaks that take some threads, or a processor's store buffer, in one order within
//! nanoseconds: each with a storm that does little else, or lingers just where that order
//! is made.
//!
//! A scan looks at records from the newest to the oldest, and at four entries in each,
//! of which the first is not used in a storm. Here that is who drops pins, if it has
//! ever looked at the map; then the one reader; then the writer.

use super::aim::Aim;
use super::breaks::{Break, mutant};
use super::mix::{Mix, Op};
use super::preset::Preset;
use super::steps::{Passing, Steps};
use crate::mm::Strategy;
use crate::mm::Window::{
    Beside, Detached, Drained, Ended, Entering, Marking, Moving, Planned, Scanning, Tried, Trying,
    Waking,
};

const PROTECT: Mix = Mix::of([(Op::Protect, 1)]);
const BORDER: Mix = Mix::of([(Op::Border, 1)]);
/// Borders that come and go within one region, or two that share nothing.
const MERGES: Mix = Mix::of([(Op::Split, 50), (Op::Protect, 50)]);

/// Lookups that hold for long enough to be there when the section is over.
const HOLDS: Steps = Steps {
    holds: 255,
    ..Steps::PLAIN
};

/// Pins, and whatever else comes to mind while a writer marks what is pinned.
const PINS: Steps = Steps {
    pin: 1024,
    dwells: 255,
    ..Steps::PLAIN
};

/// A pin is passed on once, and copied where it arrives; the copy is kept for longer than
/// a scan takes, and its sender looks up nothing meanwhile.
const PASSED: Passing = Passing {
    twice: 0,
    rests: 30,
    lookups: 0,
    copies: 255,
    keeps: 200,
};

/// The store that tells of a walk is on its way while the reader looks at the lock: a
/// writer locks and scans just then, and overlooks it.
pub(super) const READER_FENCE: Break = Break {
    mix: Some(PROTECT),
    regions: Some(1),
    steps: Some(HOLDS),
    aims: &[Aim::fill(Entering), Aim::one_in(1, Planned, 1)],
    ..mutant("reader-fence", Preset::SameVma)
};

/// The store that locks is on its way while the scan looks: the reader that it looks at
/// first publishes its walk just then, and sees nothing locked.
pub(super) const WRITER_FENCE: Break = Break {
    mix: Some(PROTECT),
    regions: Some(1),
    steps: Some(HOLDS),
    aims: &[Aim::fill(Marking), Aim::one_in(1, Entering, 1)],
    ..mutant("writer-fence", Preset::SameVma)
};

/// The same of the store that tries a neighbour.
pub(super) const MERGE_FENCE: Break = Break {
    mix: Some(MERGES),
    regions: Some(1),
    steps: Some(HOLDS),
    aims: &[Aim::fill(Drained), Aim::one_in(1, Entering, 1)],
    ..mutant("merge-fence", Preset::Boundary)
};

/// The reader comes to hold the neighbour while the drain lasts, and while the neighbour
/// is tried it looks up what is drained.
pub(super) const MERGE_MARK: Break = Break {
    mix: Some(MERGES),
    regions: Some(2),
    steps: Some(Steps {
        border: 1024,
        dwells: 255,
        dwell: 30,
        ..Steps::PLAIN
    }),
    aims: &[Aim::one_in(1, Drained, 30), Aim::one_in(1, Trying, 30)],
    ..mutant("merge-mark", Preset::Boundary)
};

/// The reader comes to hold the neighbour that the scan has found free.
pub(super) const TRIED_LOOK: Break = Break {
    aims: &[Aim::one_in(1, Tried, 60)],
    ..aimed_like(&MERGE_MARK, "tried-look")
};

/// The reader has found the neighbour tried, and takes it when it is locked.
pub(super) const TRIED_LOCKED: Break = Break {
    aims: &[Aim::one_in(1, Tried, 60), Aim::one_in(1, Detached, 60)],
    ..aimed_like(&MERGE_MARK, "tried-locked")
};

/// The reader walks to the neighbour while it is tried, and is what it is not locked for.
pub(super) const MERGE_UNMARK: Break = aimed_like(&MERGE_MARK, "merge-unmark");

const fn aimed_like(other: &Break, name: &'static str) -> Break {
    Break { name, ..*other }
}

/// The neighbour is pinned while the drain lasts; the pin is copied and dropped when the
/// scan has been where the copy is, and not where the pin was.
pub(super) const MERGE_MOVES: Break = Break {
    mix: Some(MERGES),
    regions: Some(2),
    steps: Some(Steps {
        passing: Passing {
            rests: 50,
            ..PASSED
        },
        ..PINS
    }),
    aims: &[Aim::one_in(1, Drained, 100), Aim::nth(4, Scanning, 100)],
    ..mutant("merge-moves", Preset::Pins)
};

/// A scan begins when the move is counted, and has been where the copy comes to be before
/// it is there.
pub(super) const MOVES_FIRST: Break = Break {
    mix: Some(BORDER),
    regions: Some(2),
    steps: Some(Steps {
        passing: Passing {
            lookups: 1,
            ..PASSED
        },
        ..PINS
    }),
    aims: &[Aim::one_in(2, Moving, 60), Aim::nth(4, Scanning, 150)],
    ..mutant("moves-first", Preset::Pins)
};

/// The scan has been where the reader's new hold comes to be, and not where its pin is,
/// when the reader is let in by that pin, which is dropped then.
pub(super) const ADMIT_PINS: Break = Break {
    mix: Some(BORDER),
    regions: Some(2),
    steps: Some(Steps {
        dwell: 60,
        passing: Passing {
            twice: 0,
            rests: 1,
            lookups: 2,
            copies: 0,
            keeps: 1,
        },
        ..PINS
    }),
    aims: &[
        Aim::one_in(2, Planned, 60),
        Aim::one_in(1, Moving, 60),
        Aim::nth(7, Scanning, 150),
    ],
    ..mutant("admit-pins", Preset::Pins)
};

/// The scan has been where the reader has nothing but a note, when the hold moves from the
/// VMA's count to a pin; the counts are looked at when it is there.
pub(super) const PINNED_MOVES: Break = Break {
    strategy: Strategy::Refcount,
    mix: Some(BORDER),
    regions: Some(2),
    steps: Some(Steps {
        dwell: 60,
        passing: Passing {
            copies: 0,
            ..PASSED
        },
        ..PINS
    }),
    aims: &[Aim::nth(4, Scanning, 150), Aim::nth(8, Scanning, 150)],
    ..mutant("pinned-moves", Preset::Pins)
};

/// A writer locks what the reader has yet to look up, and is past its scan when the
/// reader walks.
pub(super) const SEQ_EARLY: Break = Break {
    aims: &[Aim::one_in(2, Entering, 40)],
    ..mutant("seq-early", Preset::Churn)
};

/// The section is over when the reader asks what it has found.
pub(super) const DETACHED_FIRST: Break = Break {
    aims: &[Aim::one_in(2, Beside, 40)],
    ..mutant("detached-first", Preset::Churn)
};

/// The same, and what it has found is not detached yet.
pub(super) const DETACH_LATE: Break = Break {
    aims: &[
        Aim::one_in(1, Detached, 60),
        Aim::one_in(2, Beside, 60),
        Aim::one_in(1, Ended, 60),
    ],
    ..mutant("detach-late", Preset::Churn)
};

/// Other sections come and go while one who has slept is about to walk.
pub(super) const GRACE_WAITERS: Break = Break {
    aims: &[Aim::one_in(1, Waking, 60)],
    ..mutant("grace-waiters", Preset::SameVma)
};

/// One of two is locked when a reader that holds the other looks it up.
pub(super) const PIECEMEAL: Break = Break {
    steps: Some(Steps {
        nested: 1024,
        dwells: 255,
        dwell: 30,
        ..Steps::PLAIN
    }),
    aims: &[Aim::one_in(1, Marking, 40)],
    ..mutant("piecemeal", Preset::Nested)
};

/// Sets of pins, in regions that are split into many.
const SETS: Steps = Steps {
    set: 1024,
    dwells: 255,
    ..Steps::PLAIN
};

/// A set waits for the writer that waits for it.
pub(super) const ADMIT_SET: Break = Break {
    mix: Some(BORDER),
    regions: Some(2),
    steps: Some(SETS),
    ..mutant("admit-set", Preset::Boundary)
};

/// What a set has no room for is not looked at.
pub(super) const ANNEX: Break = Break {
    mix: Some(MERGES),
    regions: Some(2),
    steps: Some(SETS),
    ..mutant("annex", Preset::Boundary)
};
