//! Guest memory as VMAs.
#[cfg(feature = "kvm")]
pub mod devices;
#[cfg(feature = "kvm")]
pub mod kvm;
#[cfg(feature = "kvm")]
pub mod machine {
    //! A machine.
    pub mod elf;
}
#[cfg(feature = "memory")]
pub mod memory;
pub mod mm;
