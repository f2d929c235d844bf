//! What can go wrong in `mm`. Written by hand, since `mm` alone shall need no
//! other crate.

use std::fmt;

use super::{AddrRange, DrainReport};

/// Why a lookup gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LookupError {
    /// The address lies in the write set of a section that this very thread has
    /// open: waiting would be for ever. Finish or drop the section first.
    OwnWriteSection,
    /// The deadline passed while a writer was at work on the VMA.
    TimedOut,
    /// The kill flag was raised while a writer was at work on the VMA.
    Killed,
}

impl fmt::Display for LookupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OwnWriteSection => {
                "the address is being changed by a write section of this very thread"
            }
            Self::TimedOut => "the deadline passed while a writer was changing the VMA",
            Self::Killed => "the kill flag was raised while a writer was changing the VMA",
        })
    }
}

impl std::error::Error for LookupError {}

/// Why a write section could not be opened, planned or drained. Nothing has
/// changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriteError {
    /// The thread holds a guard of this address space, or its map lock for reading,
    /// so it would wait for itself. Drop the guard first, or defer the change.
    HoldsGuard,
    /// The thread has a write section of this address space open already.
    Nested,
    /// The range is not inside the address space.
    OutOfSpace {
        /// What was asked for.
        range: AddrRange,
        /// What there is.
        space: AddrRange,
    },
    /// The range overlaps a VMA.
    Overlaps {
        /// What was asked for.
        range: AddrRange,
        /// The VMA's.
        existing: AddrRange,
    },
    /// There is nothing to unmap in the range, or a hole where all of it has to be
    /// mapped.
    NotMapped {
        /// What was asked for.
        range: AddrRange,
    },
    /// A step of this section panicked, and the panic was caught with the section
    /// still there: what it has planned is half of something. Drop it.
    HalfPlanned,
    /// The deadline passed before the map lock was free: another section was open,
    /// or somebody had the map lock for reading.
    LockTimedOut,
    /// The deadline passed before every reader was gone.
    TimedOut {
        /// Who held what, and how long it was waited.
        report: DrainReport,
    },
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HoldsGuard => f.write_str(
                "the thread holds a guard of this address space; drop it, or defer the change",
            ),
            Self::Nested => {
                f.write_str("the thread has a write section of this address space open already")
            }
            Self::OutOfSpace { range, space } => {
                write!(f, "{range} is not inside the address space {space}")
            }
            Self::Overlaps { range, existing } => write!(f, "{range} overlaps {existing}"),
            Self::NotMapped { range } => {
                write!(f, "nothing is mapped, or not all of it, at {range}")
            }
            Self::HalfPlanned => f.write_str(
                "a step of this write section panicked and left it half planned; drop the \
                 section and plan another",
            ),
            Self::LockTimedOut => {
                f.write_str("the deadline passed while another write section was open")
            }
            Self::TimedOut { report } => {
                write!(f, "the deadline passed while readers were there: {report}")
            }
        }
    }
}

impl std::error::Error for WriteError {}
