//! The runtime of a guest, for x86-64.
//!
//! Everything here runs inside the guest, at CPL 3, and counts what it does in
//! this vCPU's [`Report`](crate::abi::Report), so that the VMM can compare. It
//! compiles on the host as well (nothing here takes a symbol that a host program
//! has), but is of no use there: [`entry!`](crate::entry) is the way in.

pub mod console;
pub mod entry;
pub mod exit;
pub mod hotplug;
pub mod idt;
pub mod mem;
pub mod mmio;
pub mod mov;
pub mod panic;
pub mod report;
pub mod time;

pub use entry::Guest;
pub use hotplug::Event;
pub use mmio::Device;
