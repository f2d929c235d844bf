//! Guest memory through the `vm-memory` traits: the same as with that crate's own
//! types, but for what is better.

#[path = "vm_memory/conformance.rs"]
mod conformance;
#[path = "vm_memory/differences.rs"]
mod differences;
#[path = "vm_memory/dirty.rs"]
mod dirty;
#[path = "vm_memory/files.rs"]
mod files;
#[path = "vm_memory/lazy.rs"]
mod lazy;
#[path = "vm_memory/loader.rs"]
mod loader;
#[path = "vm_memory/parked.rs"]
mod parked;
#[path = "vm_memory/pins.rs"]
mod pins;
#[path = "vm_memory/queue.rs"]
mod queue;

use std::sync::Arc;

use gracefault::memory::vm_memory::GuestRam;
use gracefault::memory::{Backing, GuestSpace, Mapping};
use gracefault::mm::{AddrRange, VmFlags};
use vm_memory::{GuestAddress, GuestMemoryAtomic, GuestMemoryMmap};

const PAGE: u64 = 0x1000;

/// Memory with these regions, each a base and a size.
fn ram(regions: &[(u64, u64)]) -> GuestRam {
    let all = AddrRange::inclusive(0, u64::MAX).unwrap();
    let ram = GuestRam::new(Arc::new(GuestSpace::physical(all)));
    for &(base, size) in regions {
        ram.insert_region(GuestAddress(base), memory(size)).unwrap();
    }
    ram
}

/// The same, mapped by hand: they may begin and end anywhere.
fn by_hand(regions: &[(u64, u64)]) -> GuestRam {
    let ram = ram(&[]);
    for &(base, size) in regions {
        map(&ram, base, size, memory(size.next_multiple_of(PAGE)));
    }
    ram
}

fn map(ram: &GuestRam, base: u64, size: u64, memory: Arc<Mapping>) {
    let range = AddrRange::new(base, size).unwrap();
    let flags = VmFlags::READ | VmFlags::WRITE | VmFlags::EXEC;
    let mm = ram.space().mm();
    mm.map(range, flags, 0, Backing::Ram(memory)).unwrap();
}

/// What it is compared with.
fn theirs(regions: &[(u64, u64)]) -> GuestMemoryAtomic<GuestMemoryMmap> {
    let ranges: Vec<_> = regions
        .iter()
        .map(|&(base, size)| (GuestAddress(base), size as usize))
        .collect();
    GuestMemoryAtomic::new(GuestMemoryMmap::from_ranges(&ranges).unwrap())
}

fn memory(size: u64) -> Arc<Mapping> {
    Arc::new(Mapping::anonymous(size).unwrap())
}
