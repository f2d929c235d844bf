//! The traits of the `vm-memory` crate (0.18) over the map, in place of
//! `GuestMemoryAtomic<GuestMemoryMmap>`: devices and loaders that take them run on it
//! unchanged.
//!
//! | type | what it is |
//! |---|---|
//! | [`GuestRam`] | the address space for loaders; regions are added and removed here |
//! | [`GuestDma`] | the same for devices: what the guest may not write, they may not |
//! | [`MemoryHandle`] | what `memory()` gives: for one operation |
//! | [`RamView`], [`DmaView`] | what a handle shows: [`GuestMemoryBackend`], [`GuestMemory`] |
//! | [`Vma`]`<`[`Backing`]`>` | a region |
//!
//! A handle is no snapshot. It looks in the map that is in force, and pins what it comes
//! by until it is dropped: removing that waits, or fails at its deadline, and names the
//! thread; removing anything else does not notice. See [`PinSet`]. Two types, since one
//! cannot implement both traits: the `GuestMemory` that each `GuestMemoryBackend` is for
//! `vm-memory` takes no permission into account.
//!
//! [`vm-memory.md`](https://github.com/gracefault/gracefault/blob/main/vmm/docs/vm-memory.md)
//! moves a VMM over, and lists the differences.
//!
//! [`GuestMemoryBackend`]: vm_memory::GuestMemoryBackend
//! [`GuestMemory`]: vm_memory::GuestMemory
//! [`Vma`]: crate::mm::Vma
//! [`Backing`]: crate::memory::Backing
//! [`PinSet`]: crate::mm::PinSet

mod change;
mod dma;
mod region;
mod space;
mod view;

pub use change::{RegionError, RemovedRegion};
pub use dma::DmaView;
pub use space::{GuestDma, GuestRam, MemoryHandle};
pub use view::RamView;
