//! Why a block could not be plugged or unplugged.

use std::io;

use crate::devices::NotReleased;
use crate::kvm::SlotError;
use crate::mm::WriteError;

/// Why a block could not be plugged or unplugged. Everything is as it was before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HotplugError {
    /// There is no such block.
    #[error("there is no block {block}: the region has {blocks}")]
    NoSuchBlock {
        /// The number asked for.
        block: u32,
        /// How many there are.
        blocks: u32,
    },
    /// The block is plugged already, or is being plugged or unplugged right now.
    #[error("block {block} is plugged, or about to be")]
    Plugged {
        /// Its number.
        block: u32,
    },
    /// The block is not plugged, or is being plugged or unplugged right now.
    #[error("block {block} is not plugged, or about to leave")]
    NotPlugged {
        /// Its number.
        block: u32,
    },
    /// A vCPU has not yet acknowledged that the last block of this number is gone.
    #[error("block {block} is resting: some vCPU has not yet acknowledged that it was taken out")]
    Resting {
        /// Its number.
        block: u32,
    },
    /// An earlier plug of the block was undone, and KVM still does not let go of the
    /// memslot that it had by then.
    #[error("block {block} cannot be plugged before its last memslot is out: {source}")]
    Stuck {
        /// Its number.
        block: u32,
        /// What KVM said.
        source: SlotError,
    },
    /// What is to be plugged is no number of blocks that there are.
    #[error(
        "{bytes} bytes cannot be plugged: choose a multiple of the block size, {block} bytes, up to {total}"
    )]
    BadSize {
        /// What was asked for.
        bytes: u64,
        /// Bytes in a block.
        block: u64,
        /// Bytes in the region.
        total: u64,
    },
    /// What is to be plugged or unplugged is no range of whole blocks of the region.
    #[error(
        "{bytes} bytes at {start:#x} are no range of blocks: choose whole blocks of {block} bytes in \
         the {total} bytes from {first:#x} on"
    )]
    BadRange {
        /// The first address asked for.
        start: u64,
        /// Bytes.
        bytes: u64,
        /// Bytes in a block.
        block: u64,
        /// The first address of the region.
        first: u64,
        /// Bytes in the region.
        total: u64,
    },
    /// Others plug and unplug in the same region, and never let it come to rest.
    #[error("other threads plug and unplug blocks of this region all the time")]
    Contended,
    /// KVM lets no memslot go while somebody waits for a page of an image.
    #[error(
        "block {block} stays plugged: by the deadline a page of the image that guest RAM comes \
         from had not come, and KVM takes no memslot out while a vCPU waits for one"
    )]
    PageAwaited {
        /// Its number.
        block: u32,
    },
    /// The guest did not give the block back.
    #[error(transparent)]
    NotReleased(#[from] NotReleased),
    /// The host has no memory for it.
    #[error("no memory for a block of {len} bytes: {source}")]
    NoMemory {
        /// Bytes.
        len: u64,
        /// The system's error.
        source: io::Error,
    },
    /// The map refused, or readers did not leave in time.
    #[error("the map of guest memory: {0}")]
    Map(#[from] WriteError),
    /// KVM refused.
    #[error(transparent)]
    Slot(#[from] SlotError),
}
