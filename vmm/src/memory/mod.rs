//! Guest RAM over the map: the memory itself, what stands behind a VMA, and what
//! an access does.

mod access;
#[cfg(test)]
mod access_tests;
mod backing;
mod by;
mod device;
pub mod faults;
mod lazy;
mod limit;
mod mapping;
pub mod paging;
pub mod ram;
#[cfg(feature = "kvm")]
mod reader;
pub mod sigbus;
pub(crate) mod signals;
mod space;
mod vcpu_threads;
pub mod vm_memory;

/// Says that this host has not got what a test needs; fails where the variable says that
/// it is to be there.
#[cfg(test)]
fn not_tried(variable: &str, reason: &dyn std::fmt::Display) {
    let required = std::env::var(variable).is_ok_and(|value| value == "1");
    assert!(!required, "{variable}=1, but {reason}");
    eprintln!("not tried: {reason}");
}

pub use access::{Access, AccessError, Served};
pub use backing::Backing;
pub use device::{AccessSizes, Device, DeviceError, OtherSizes};
pub use lazy::{LazyRam, LazySlot, Populated, PutInError};
pub use limit::LogLimit;
pub use mapping::{DirtyPages, DirtySlice, HostMemory, Mapping, PAGE};
pub use paging::{PageSource, Pager};
pub use ram::{Backend, HugePage, RamError, RamOptions, RamSizes, RamSource, ThpAdvice};
#[cfg(feature = "kvm")]
pub(crate) use reader::SpaceReader;
pub use space::GuestSpace;
pub use vcpu_threads::RunsVcpu;
