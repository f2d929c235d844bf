//! Plug and unplug of RAM, in blocks, beside running vCPUs.
//!
//! The order of a plug is memory, memslot, map, guest: what can fail goes first,
//! and when the guest hears of the block everything is there. The order of an
//! unplug is guest, drain, memslot, map, memory: the block leaves the map only
//! when no reader has it and the guest cannot reach it any more, and its memory
//! goes back to the host when nobody can touch it at all.
//!
//! A block has a memslot of its own, exactly as long as the block. So an unplugged
//! block has none, and an access to it exits and reads as all ones.

mod churn;
mod claim;
mod error;
mod fill;
mod look;
mod plug;
mod put_back;
mod region;
mod report;
mod resize;
mod resizing;
mod unplug;

pub use churn::{Churn, ChurnReport, OpSummary, OpTimes, Rests};
pub use error::HotplugError;
pub use region::{BlockKind, HotplugRegion};
pub use report::{PlugReport, UnplugReport};
pub use resize::{
    RegionSize, Resize, ResizeError, ResizeOptions, ResizeReport, ResizeState, Resizer,
};
pub use unplug::Consent;
