//! The tiny guest of Gracefault, and what it takes to write another one.
//!
//! * [`abi`]: the addresses, registers and pages that guest and VMM agree on.
//!   This is all that a VMM needs.
//! * [`rt`]: the runtime of a guest: entry point, crash reports, counted MMIO,
//!   console. A guest is a `#![no_std] #![no_main]` program whose `main` is
//!   handed to [`entry!`].
#![no_std]

pub mod abi;
#[cfg(target_arch = "x86_64")]
pub mod rt;
