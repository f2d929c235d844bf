//! The files behind regions.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use gracefault::memory::vm_memory::GuestRam;
use gracefault::memory::{Backend, RamOptions, RamSizes, RamSource};
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestAddressSpace, GuestMemory, GuestMemoryAtomic,
    GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
};

use super::conformance::log::Log;
use super::{PAGE, ram};

/// Each a base and a size; all of them from one file, in order.
const REGIONS: [(u64, u64); 3] = [(0, 4 * PAGE), (4 * PAGE, 2 * PAGE), (8 * PAGE, 2 * PAGE)];

/// What another process needs to map the same memory: the file, where in it, and that
/// what is written here is there.
fn body<A: GuestAddressSpace>(space: &A) -> Log {
    let mut log = Log::default();
    let memory = space.memory();
    for (i, (base, size)) in REGIONS.into_iter().enumerate() {
        let at = GuestAddress(base + size - 8);
        memory.write_slice(&[i as u8 + 1; 8], at).unwrap();
    }
    let across = GuestAddress(4 * PAGE - 4);
    memory.write_slice(&[9; 8], across).unwrap();
    let physical = memory.physical_memory().expect("both have it");
    for region in physical.iter() {
        let file = region.file_offset().expect("of a file");
        let (mut first, mut last) = ([0; 8], [0; 8]);
        let end = file.start() + region.len();
        file.file().read_exact_at(&mut first, file.start()).unwrap();
        file.file().read_exact_at(&mut last, end - 8).unwrap();
        log.note("file_offset", (region.start_addr(), file.start()));
        log.note("its bytes", (first, last));
    }
    log
}

fn theirs() -> GuestMemoryAtomic<GuestMemoryMmap> {
    let file = Arc::new(tempfile::tempfile().unwrap());
    file.set_len(8 * PAGE).unwrap();
    let mut start = 0;
    let regions = REGIONS.map(|(base, size)| {
        let part = FileOffset::from_arc(file.clone(), start);
        start += size;
        (GuestAddress(base), size as usize, Some(part))
    });
    GuestMemoryAtomic::new(GuestMemoryMmap::from_ranges_with_files(regions).unwrap())
}

fn ours() -> GuestRam {
    let sizes = RamSizes {
        boot: 4 * PAGE,
        hotplug: 4 * PAGE,
        block: 2 * PAGE,
    };
    let options = RamOptions {
        backend: Backend::Memfd,
        ..RamOptions::default()
    };
    let source = RamSource::open(options, sizes).unwrap();
    let memories = [
        source.map_boot(0, 4 * PAGE),
        source.map_block(0),
        source.map_block(1),
    ];
    let ram = ram(&[]);
    for ((base, _), memory) in REGIONS.into_iter().zip(memories) {
        let memory = Arc::new(memory.unwrap());
        ram.insert_region(GuestAddress(base), memory).unwrap();
    }
    ram
}

#[test]
fn regions_tell_their_files() {
    let theirs = body(&theirs());
    assert_eq!(theirs.len(), 6);
    body(&ours()).assert_same(&theirs);
    body(&ours().dma()).assert_same(&theirs);
    let memory = ours().memory();
    assert!(memory.iter().all(|r| r.is_hugetlbfs() == Some(false)));
}
