//! `AtomicBitmap`: which pages are marked by what.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use gracefault::memory::vm_memory::GuestRam;
use gracefault::memory::{HostMemory, Mapping};
use vm_memory::bitmap::{AtomicBitmap, Bitmap};
use vm_memory::{
    Bytes, GuestAddress, GuestAddressSpace, GuestMemory, GuestMemoryAtomic, GuestMemoryBackend,
    GuestMemoryMmap, GuestMemoryRegion, MemoryRegionAddress, Permissions,
};

use super::log::Log;
use super::scene::{ODD, PAGES, Scene};
use crate::{PAGE, by_hand};

/// The words of each region's bitmap, which is empty afterwards.
type Take<'a> = &'a dyn Fn() -> Vec<Vec<u64>>;

/// What writes, and `Bitmap`'s own: `dirty_at` is asked after each.
const METHODS: &[&str] = &[
    "Bytes::write",
    "Bytes::write_slice",
    "Bytes::write_obj",
    "Bytes::read_volatile_from",
    "Bytes::read_exact_volatile_from",
    "Bytes::store",
    "GuestMemory::get_slices",
    "GuestMemoryRegionBytes: write",
    "GuestMemoryRegionBytes: write_slice",
    "GuestMemoryRegionBytes: write_obj",
    "GuestMemoryRegionBytes: read_volatile_from",
    "GuestMemoryRegionBytes: read_exact_volatile_from",
    "GuestMemoryRegionBytes: store",
    "GuestMemoryRegion::get_slice",
    "GuestMemoryRegion::as_volatile_slice",
    "Bitmap::mark_dirty",
    "Bitmap::slice_at",
];

const LENGTHS: [usize; 8] = [0, 1, 2, 8, 17, 0x1000, 0x1001, 0x4000];

/// Each kind of write at each border, and each kind of read.
fn checks<A: GuestAddressSpace>(scene: Scene, space: &A, take: Take<'_>) -> Log {
    let mut log = Log::default();
    let memory = space.memory();
    let memory = &*memory;
    for addr in scene.addresses() {
        let at = GuestAddress(addr);
        for len in LENGTHS {
            writes(memory, &mut log, at, len, take);
            reads(memory, at, len);
            assert!(take().iter().flatten().all(|word| *word == 0), "read only");
        }
        atomics(memory, &mut log, at, take);
        let physical = memory.physical_memory().expect("both have it");
        if let Some((region, at)) = physical.to_region_addr(at) {
            for len in LENGTHS {
                in_region(region, &mut log, at, len, take);
            }
        }
    }
    log
}

fn writes(memory: &impl GuestMemory, log: &mut Log, at: GuestAddress, len: usize, take: Take<'_>) {
    let data = vec![1; len];
    let mut wrote = |method, done: String| log.add(method, (at, len), (done, take()));
    let written = memory.write(&data, at);
    wrote("Bytes::write", format!("{written:?}"));
    let written = memory.write_slice(&data, at);
    wrote("Bytes::write_slice", format!("{written:?}"));
    let read = memory.read_volatile_from(at, &mut &data[..], len);
    wrote("Bytes::read_volatile_from", format!("{read:?}"));
    let read = memory.read_volatile_from(at, &mut &data[..len / 2], len);
    wrote("Bytes::read_volatile_from", format!("{read:?}"));
    let read = memory.read_exact_volatile_from(at, &mut &data[..], len);
    wrote("Bytes::read_exact_volatile_from", format!("{read:?}"));
    let slices = memory.get_slices(at, len, Permissions::Write).unwrap();
    let mut count = 0;
    for slice in slices.flatten() {
        slice.copy_from(&data[..slice.len()]);
        // And a part of it, by an offset.
        if let Ok(part) = slice.offset(slice.len() / 2) {
            part.write_obj(1_u8, 0).ok();
        }
        count += 1;
    }
    wrote("GuestMemory::get_slices", format!("{count}"));
}

fn atomics(memory: &impl GuestMemory, log: &mut Log, at: GuestAddress, take: Take<'_>) {
    let stored = memory.store(1_u8, at, Ordering::Relaxed);
    log.add("Bytes::store", (at, 1), (stored, take()));
    let stored = memory.store(1_u32, at, Ordering::Release);
    log.add("Bytes::store", (at, 4), (stored, take()));
    let stored = memory.store(1_u64, at, Ordering::SeqCst);
    log.add("Bytes::store", (at, 8), (stored, take()));
    let written = memory.write_obj(1_u64, at);
    log.add("Bytes::write_obj", at, (written, take()));
}

fn reads(memory: &impl GuestMemory, at: GuestAddress, len: usize) {
    let mut data = vec![0; len];
    memory.read(&mut data, at).ok();
    memory.read_slice(&mut data, at).ok();
    memory.write_volatile_to(at, &mut data, len).ok();
    memory.write_all_volatile_to(at, &mut data, len).ok();
    memory.load::<u64>(at, Ordering::Acquire).ok();
    memory.read_obj::<u64>(at).ok();
    let slices = memory.get_slices(at, len, Permissions::ReadWrite);
    slices.unwrap().flatten().for_each(|slice| {
        slice.copy_to(&mut data[..]);
    });
}

/// By a region and its bitmap: what is marked is seen there, page by page, until it is
/// taken.
fn in_region<R: GuestMemoryRegion>(
    region: &R,
    log: &mut Log,
    at: MemoryRegionAddress,
    len: usize,
    take: Take<'_>,
) {
    let data = vec![1; len];
    let key = (region.start_addr(), at, len);
    let seen = || {
        let pages = (0..=region.len() / PAGE).map(|page| page * PAGE);
        let seen: Vec<bool> = pages
            .map(|offset| region.bitmap().dirty_at(offset as usize))
            .collect();
        (seen, take())
    };
    let written = region.write(&data, at);
    log.add("GuestMemoryRegionBytes: write", key, (written, seen()));
    let written = region.write_slice(&data, at);
    log.add(
        "GuestMemoryRegionBytes: write_slice",
        key,
        (written, seen()),
    );
    let read = region.read_volatile_from(at, &mut &data[..], len);
    log.add(
        "GuestMemoryRegionBytes: read_volatile_from",
        key,
        (read, seen()),
    );
    let read = region.read_exact_volatile_from(at, &mut &data[..], len);
    log.add(
        "GuestMemoryRegionBytes: read_exact_volatile_from",
        key,
        (read, seen()),
    );
    let stored = region.store(1_u16, at, Ordering::Release);
    log.add("GuestMemoryRegionBytes: store", key, (stored, seen()));
    let written = region.write_obj(1_u64, at);
    log.add("GuestMemoryRegionBytes: write_obj", key, (written, seen()));
    let slice = region.get_slice(at, len);
    slice.iter().for_each(|slice| slice.copy_from(&data));
    log.add("GuestMemoryRegion::get_slice", key, (slice.is_ok(), seen()));
    let all = region.as_volatile_slice().unwrap();
    let written = all.write_obj(1_u64, at.0 as usize);
    log.add(
        "GuestMemoryRegion::as_volatile_slice",
        key,
        (written, seen()),
    );
    region.bitmap().mark_dirty(at.0 as usize, len);
    log.add("Bitmap::mark_dirty", key, seen());
    let part = region.bitmap();
    let part = part.slice_at(at.0 as usize);
    part.mark_dirty(0, len);
    log.add("Bitmap::slice_at", key, (part.dirty_at(0), seen()));
    let read = region.read_slice(&mut vec![0; len], at);
    log.add("GuestMemoryRegionBytes: read_slice", key, (read, seen()));
}

fn theirs(scene: Scene) -> Log {
    let ranges = scene.0.iter();
    let ranges: Vec<_> = ranges
        .map(|&(base, size)| (GuestAddress(base), size as usize))
        .collect();
    let memory = GuestMemoryMmap::<AtomicBitmap>::from_ranges(&ranges).unwrap();
    let atomic = GuestMemoryAtomic::new(memory);
    let memory = atomic.memory();
    let take = || {
        let regions = memory.iter();
        let take = |region: &vm_memory::GuestRegionMmap<AtomicBitmap>| {
            let mapping = region.get_mmap();
            mapping.bitmap().get_and_reset()
        };
        regions.map(take).collect()
    };
    checks(scene, &atomic, &take)
}

fn ours(scene: Scene, checks: impl Fn(&GuestRam, Take<'_>) -> Log) -> Log {
    let ram = by_hand(&[]);
    let tracked = |&(base, size): &(u64, u64)| {
        let memory = Mapping::anonymous(size.next_multiple_of(PAGE)).unwrap();
        let memory = Arc::new(memory.with_dirty_pages());
        crate::map(&ram, base, size, memory.clone());
        memory
    };
    let memories: Vec<_> = scene.0.iter().map(tracked).collect();
    let take = || {
        let take = |memory: &Arc<Mapping>| {
            let bitmap = HostMemory::dirty_pages(&**memory).expect("tracked");
            bitmap.get_and_reset()
        };
        memories.iter().map(take).collect()
    };
    checks(&ram, &take)
}

fn all(scene: Scene) {
    let theirs = theirs(scene);
    assert!(theirs.len() > 10_000, "{} checks", theirs.len());
    assert_eq!(theirs.not_called(METHODS), [""; 0]);
    ours(scene, |ram, take| checks(scene, ram, take)).assert_same(&theirs);
    ours(scene, |ram, take| checks(scene, &ram.dma(), take)).assert_same(&theirs);
}

#[test]
fn the_same_pages_are_marked() {
    all(PAGES);
}

#[test]
fn the_same_pages_are_marked_where_no_seam_is_at_a_page() {
    all(ODD);
}
