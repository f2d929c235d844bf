//! Guest memory as VMAs.
#[cfg(feature = "kvm")]
pub mod devices;
#[cfg(feature = "kvm")]
pub mod kvm;
#[cfg(feature = "memory")]
pub mod memory;
pub mod mm;
