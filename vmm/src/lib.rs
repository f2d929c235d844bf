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
//! with `default-features = false` to have the map alone, without dependencies:
//!
//! ```
//! use std::thread;
//!
//! use gracefault::mm::{AddrRange, AddressSpace, LookupError, Payload, VmFlags};
//!
//! /// What stands behind addresses in your VMM.
//! #[derive(Clone, Debug, PartialEq)]
//! enum Region {
//!     Ram { slot: u32 },
//!     Device(&'static str),
//! }
//!
//! impl Payload for Region {}
//!
//! type Map = AddressSpace<Region>;
//!
//! /// A vCPU thread, at an MMIO exit: takes no lock over the map, and waits for nobody but
//! /// a writer of this very region. While `vma` is there, nobody removes it.
//! fn exit(map: &Map, gpa: u64) -> Result<Option<&'static str>, LookupError> {
//!     let Some(vma) = map.lock_vma_under_rcu_wait(gpa)? else {
//!         return Ok(None);
//!     };
//!     Ok(Some(match vma.payload() {
//!         Region::Ram { .. } => "RAM",
//!         Region::Device(name) => name,
//!     }))
//! }
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let map = Map::new("guest", AddrRange::new(0, 1 << 40).unwrap());
//!     let (uart, block) = (0xd000_0000, 0x1_0000_0000);
//!     let access = VmFlags::READ | VmFlags::WRITE;
//!     let range = AddrRange::new(uart, 0x1000).unwrap();
//!     map.map(range, access | VmFlags::IO, 0, Region::Device("uart"))?;
//!     let range = AddrRange::new(block, 2 << 20).unwrap();
//!     map.map(range, access, 0, Region::Ram { slot: 1 })?;
//!
//!     thread::scope(|threads| {
//!         threads.spawn(|| assert_eq!(exit(&map, uart + 4), Ok(Some("uart"))));
//!
//!         // A hotplug thread. Dropped before `publish`, a section has changed nothing.
//!         let mut section = map.mmap_write_lock()?;
//!         section.unmap(range)?;
//!         let drained = section.lock()?;
//!         // Here nobody is in the block any more: your memslot goes.
//!         let gone = drained.publish();
//!         // And what it carried is yours alone.
//!         assert_eq!(gone.removed[0].payload(), &Region::Ram { slot: 1 });
//!         assert_eq!(exit(&map, block), Ok(None));
//!         Ok(())
//!     })
//! }
//! ```
//!
//! With the feature `memory`, the traits of `vm-memory` over it: the README has that.

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
#[cfg(all(test, not(any(loom, shuttle))))]
mod not_send;
mod prefetch;
#[cfg(feature = "kvm")]
pub mod stress;
#[cfg(feature = "kvm")]
pub mod trace;

/// The Rust code of the README, as a test. What needs no feature is tested above, and is
/// the same.
#[cfg(all(doctest, feature = "memory"))]
#[doc = include_str!("../../README.md")]
struct Readme;

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    /// So that the README's code for the map alone is tested without any feature.
    #[test]
    fn the_readme_has_the_code_above() {
        let code = |text: &str, fence: &str| {
            let begin = text.find(fence).expect("code") + fence.len();
            let end = begin + text[begin..].find("\n```\n").expect("the end of the code");
            text[begin..end].to_owned()
        };
        let lines = include_str!("lib.rs").lines();
        let docs = lines.filter_map(|line| line.strip_prefix("//!"));
        let docs: String = docs
            .map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(line)))
            .collect();
        let readme = include_str!("../../README.md");
        assert_eq!(code(readme, "```rust\n"), code(&docs, "```\n"));
    }
}
