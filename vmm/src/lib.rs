//! Guest memory as VMAs: a minimal KVM VMM whose vCPU threads resolve their exits
//! by lookups that take no lock over the map, while hotplug threads change it; and
//! whose removals return exactly when no reader is left.
//!
//! | module | what it is | feature |
//! |---|---|---|
//! | [`mm`] | the map, its locks and lookups; for any VMM | always there |
//! | [`clock`] | time stamps for every exit | `memory` |
//! | [`memory`] | guest RAM over the map, and what an access does | `memory` |
//! | [`kvm`] | `/dev/kvm`: memslots, vCPUs, exits | `kvm` |
//! | [`devices`] | what answers MMIO and PIO | `kvm` |
//! | [`trace`] | what is recorded of a run | `kvm` |
//! | [`hotplug`] | plug and unplug of blocks beside running vCPUs | `kvm` |
//! | [`machine`] | all of it together, with a guest | `kvm` |
//! | [`stress`] | the storm, and the oracles that can fail | `kvm` |
//! | `api` | a running VM, seen and steered by a socket | `api` |
//!
//! The `gracefault` command is the feature `cli`, on by default; take this crate
//! with `default-features = false` to have the map alone, without dependencies.

#[cfg(feature = "api")]
pub mod api;
#[cfg(feature = "memory")]
pub mod clock;
#[cfg(feature = "kvm")]
pub mod devices;
#[cfg(feature = "kvm")]
pub mod hotplug;
#[cfg(feature = "kvm")]
pub mod kvm;
#[cfg(feature = "kvm")]
pub mod machine;
#[cfg(feature = "memory")]
pub mod memory;
pub mod mm;
#[cfg(feature = "kvm")]
pub mod stress;
#[cfg(feature = "kvm")]
pub mod trace;

/// The Rust code of the README, as a test.
#[cfg(all(doctest, feature = "memory"))]
#[doc = include_str!("../../README.md")]
struct Readme;
