//! The tiny guest of Gracefault, and what it takes to write another one.
//!
//! * [`abi`]: the addresses, registers and pages that guest and VMM agree on.
//!   This is all that a VMM needs.
//! * [`rt`]: the runtime of a guest: entry point, crash reports, counted MMIO,
//!   console. A guest is a `#![no_std] #![no_main]` program whose `main` is
//!   handed to [`entry!`]; see `example/` for a whole one.
//! * [`PAYLOAD`] (feature `payload`, on by default): the built-in guest as an ELF
//!   image, which does what [`abi::Workload`] says. A guest of your own has no
//!   use for it and turns the feature off.
#![no_std]

pub mod abi;
#[cfg(target_arch = "x86_64")]
pub mod rt;

/// The built-in guest: a static ELF image linked at [`abi::IMAGE_GPA`]. It runs
/// every [`abi::Workload`] on any number of vCPUs.
#[cfg(all(feature = "payload", target_arch = "x86_64"))]
pub static PAYLOAD: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/payload.elf"));
