//! One body of checks, run on `GuestMemoryAtomic<GuestMemoryMmap>`, on `GuestRam` and on
//! `GuestDma`: each writes down what every access came to, and the three are compared.

use std::fmt::Debug;
use std::sync::atomic::Ordering;

use vm_memory::guest_memory::GuestMemorySliceIterator;
use vm_memory::{
    AtomicAccess, Bytes, GuestAddress, GuestAddressSpace, GuestMemory, GuestMemoryAtomic,
    GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MemoryRegionAddress, Permissions,
};

use super::{PAGE, ram};

/// Seams, holes, a region of one page between two seams, and one near the end.
const REGIONS: [(u64, u64); 6] = [
    (0, PAGE),
    (PAGE, 2 * PAGE),
    (4 * PAGE, PAGE),
    (5 * PAGE, PAGE),
    (6 * PAGE, 2 * PAGE),
    (u64::MAX - 3 * PAGE + 1, PAGE),
];

/// What the accesses came to, in order.
#[derive(Default)]
struct Log(Vec<String>);

impl Log {
    fn add(&mut self, what: impl Debug, result: impl Debug) {
        self.0.push(format!("{what:x?}: {result:x?}"));
    }
}

/// Where accesses begin: all around every border.
fn addresses() -> Vec<u64> {
    let borders = REGIONS.iter().flat_map(|&(base, size)| [base, base + size]);
    let mut borders: Vec<u64> = borders.collect();
    borders.dedup();
    let near = |border: u64| (0..=18).map(move |i| border.wrapping_add(i).wrapping_sub(9));
    let mut all: Vec<u64> = borders.into_iter().flat_map(near).collect();
    all.extend([
        0x20,
        PAGE / 2,
        3 * PAGE + 8,
        100 * PAGE,
        u64::MAX - 8,
        u64::MAX,
    ]);
    all
}

const LENGTHS: [usize; 17] = [
    0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 0xfff, 0x1000, 0x1001, 0x2001, 0x4000,
];

/// Every access to every border, with memory in a known state before each write.
fn checks<A: GuestAddressSpace>(space: &A) -> Vec<String> {
    let mut log = Log::default();
    let memory = space.memory();
    let memory = &*memory;
    fill(memory, &REGIONS);
    let untouched = sum(memory, &REGIONS);
    for addr in addresses() {
        for len in LENGTHS {
            ranges(memory, &mut log, addr, len);
            streams(memory, &mut log, addr, len);
        }
        objects(memory, &mut log, addr);
        atomics::<u8>(memory, &mut log, addr, 0x81);
        atomics::<u16>(memory, &mut log, addr, 0x8182);
        atomics::<u32>(memory, &mut log, addr, 0x8182_8384);
        atomics::<u64>(memory, &mut log, addr, 0x8182_8384_8586_8788);
        let physical = memory.physical_memory().expect("both have it");
        backend(physical, &mut log, addr);
        assert_eq!(
            sum(memory, &REGIONS),
            untouched,
            "each check restores what it wrote"
        );
    }
    whole(memory.physical_memory().expect("both have it"), &mut log);
    log.0
}

/// Each byte of `windows` says where it is.
fn fill(memory: &impl GuestMemory, windows: &[(u64, u64)]) {
    for &(base, size) in windows {
        let bytes: Vec<u8> = (0..size).map(|i| pattern(base + i)).collect();
        memory.write_slice(&bytes, GuestAddress(base)).unwrap();
    }
}

fn pattern(addr: u64) -> u8 {
    (addr ^ (addr >> 8).wrapping_mul(31)) as u8
}

/// The memory that an access may touch, and some on either side of it.
fn around(addr: u64, len: usize) -> Vec<(u64, u64)> {
    let (from, to) = (
        addr.saturating_sub(32),
        addr.saturating_add(len as u64 + 32),
    );
    let part = |&(base, size): &(u64, u64)| {
        let (start, end) = (base.max(from), (base + size).min(to));
        (start < end).then(|| (start, end - start))
    };
    REGIONS.iter().filter_map(part).collect()
}

/// What is in `windows`, to see what a write has done and what it has not.
fn sum(memory: &impl GuestMemory, windows: &[(u64, u64)]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for &(base, size) in windows {
        let mut bytes = vec![0; size as usize];
        memory.read_slice(&mut bytes, GuestAddress(base)).unwrap();
        for word in bytes.chunks(8) {
            let mut padded = [0; 8];
            padded[..word.len()].copy_from_slice(word);
            hash = (hash ^ u64::from_le_bytes(padded)).wrapping_mul(0x100_0000_01b3);
            hash = hash.rotate_left(17);
        }
    }
    hash
}

fn ranges(memory: &impl GuestMemory, log: &mut Log, addr: u64, len: usize) {
    let windows = around(addr, len);
    let at = GuestAddress(addr);
    let mut data = vec![0xee; len];
    let read = memory.read(&mut data, at).map_err(|e| format!("{e:?}"));
    log.add(("read", addr, len), (&read, &data));
    // Whoever gets bytes gets the right ones.
    let got = read.unwrap_or(0);
    for (i, byte) in data[..got].iter().enumerate() {
        assert_eq!(*byte, pattern(addr + i as u64), "{addr:#x} + {i:#x}");
    }
    data.fill(0xee);
    log.add(
        ("read_slice", addr, len),
        (memory.read_slice(&mut data, at), &data),
    );

    let data: Vec<u8> = (0..len).map(|i| i as u8 ^ 0x5a).collect();
    log.add(("write", addr, len), memory.write(&data, at));
    log.add("then", sum(memory, &windows));
    log.add(("write_slice", addr, len), memory.write_slice(&data, at));
    log.add("then", sum(memory, &windows));
    fill(memory, &windows);

    for access in [
        Permissions::Read,
        Permissions::Write,
        Permissions::ReadWrite,
    ] {
        log.add(
            ("check_range", addr, len),
            memory.check_range(at, len, access),
        );
        let slices = memory.get_slices(at, len, access).unwrap();
        let slices = slices.map(|slice| {
            let slice = slice.map_err(|e| format!("{e:?}"))?;
            let mut data = vec![0; slice.len()];
            slice.copy_to(&mut data[..]);
            Ok::<_, String>(data)
        });
        log.add(("get_slices", addr, len), slices.collect::<Vec<_>>());
        let stopped = memory.get_slices(at, len, access).unwrap().stop_on_error();
        let stopped = stopped.map(|slices| slices.map(|s| s.len()).collect::<Vec<_>>());
        log.add(
            ("stop_on_error", addr, len),
            stopped.map_err(|e| format!("{e:?}")),
        );
    }
}

fn streams(memory: &impl GuestMemory, log: &mut Log, addr: u64, len: usize) {
    let windows = around(addr, len);
    let at = GuestAddress(addr);
    let mut out = Vec::new();
    log.add(
        ("write_volatile_to", addr, len),
        memory.write_volatile_to(at, &mut out, len),
    );
    log.add("out", &out);
    let mut out = Vec::new();
    let written = memory.write_all_volatile_to(at, &mut out, len);
    log.add(("write_all_volatile_to", addr, len), (written, out));

    let data: Vec<u8> = (0..len).map(|i| i as u8 ^ 0xa5).collect();
    log.add(
        ("read_volatile_from", addr, len),
        memory.read_volatile_from(at, &mut &data[..], len),
    );
    log.add("then", sum(memory, &windows));
    let short = &data[..len / 2];
    log.add(
        ("read_exact_volatile_from", addr, len),
        memory.read_exact_volatile_from(at, &mut &short[..], len),
    );
    log.add("then", sum(memory, &windows));
    fill(memory, &windows);
}

fn objects(memory: &impl GuestMemory, log: &mut Log, addr: u64) {
    let windows = around(addr, 24);
    let at = GuestAddress(addr);
    log.add(("read_obj u8", addr), memory.read_obj::<u8>(at));
    log.add(("read_obj u16", addr), memory.read_obj::<u16>(at));
    log.add(("read_obj u32", addr), memory.read_obj::<u32>(at));
    log.add(("read_obj u64", addr), memory.read_obj::<u64>(at));
    log.add(("read_obj [u8; 24]", addr), memory.read_obj::<[u8; 24]>(at));
    log.add(
        ("write_obj", addr),
        memory.write_obj(0x1122_3344_5566_7788_u64, at),
    );
    log.add("then", sum(memory, &windows));
    fill(memory, &windows);
}

/// At a seam, and where they are not aligned, atomics fail.
fn atomics<O: AtomicAccess + Debug>(memory: &impl GuestMemory, log: &mut Log, addr: u64, value: O) {
    let windows = around(addr, 8);
    let at = GuestAddress(addr);
    for order in [Ordering::Relaxed, Ordering::SeqCst] {
        log.add(("load", size_of::<O>(), addr), memory.load::<O>(at, order));
        log.add(
            ("store", size_of::<O>(), addr),
            memory.store(value, at, order),
        );
        log.add("then", sum(memory, &windows));
    }
    fill(memory, &windows);
}

fn backend(memory: &(impl GuestMemoryBackend + ?Sized), log: &mut Log, addr: u64) {
    let at = GuestAddress(addr);
    let region = memory.find_region(at);
    log.add(
        ("find_region", addr),
        region.map(|r| (r.start_addr(), r.last_addr(), r.len())),
    );
    let located = memory.to_region_addr(at);
    log.add(
        ("to_region_addr", addr),
        located.map(|(r, at)| (r.start_addr(), at)),
    );
    log.add(("address_in_range", addr), memory.address_in_range(at));
    log.add(("check_address", addr), memory.check_address(at));
    log.add(
        ("get_host_address", addr),
        memory.get_host_address(at).map(|a| a as usize & 0xfff),
    );
    for len in LENGTHS {
        log.add(
            ("get_slice", addr, len),
            memory.get_slice(at, len).map(|s| s.len()),
        );
        log.add(
            ("checked_offset", addr, len),
            memory.checked_offset(at, len),
        );
        log.add(("check_range", addr, len), memory.check_range(at, len));
        let slices = memory
            .get_slices(at, len)
            .map(|slice| slice.map(|s| s.len()));
        log.add(("get_slices", addr, len), slices.collect::<Vec<_>>());
    }
    if let Some(region) = region {
        in_region(region, log, addr);
    }
}

fn in_region(region: &impl GuestMemoryRegion, log: &mut Log, addr: u64) {
    let at = region
        .to_region_addr(GuestAddress(addr))
        .expect("found by it");
    log.add(("to_region_addr", addr), at);
    for len in LENGTHS {
        log.add(
            ("get_slice", at, len),
            region.get_slice(at, len).map(|s| s.len()),
        );
        log.add(("checked_offset", at, len), region.checked_offset(at, len));
        let mut data = vec![0; len];
        log.add(
            ("region read", at, len),
            (region.read(&mut data, at), &data),
        );
        log.add(
            ("region read_slice", at, len),
            region.read_slice(&mut data, at),
        );
    }
    let past = MemoryRegionAddress(region.len());
    log.add(
        "past",
        (region.check_address(past), region.address_in_range(past)),
    );
    log.add("past", region.get_host_address(past).map(|a| a as usize));
    log.add("past", region.get_slice(past, 0).map(|s| s.len()));
    log.add(
        "wraps",
        region
            .get_slice(MemoryRegionAddress(u64::MAX), 2)
            .map(|s| s.len()),
    );
    log.add("all", region.as_volatile_slice().map(|s| s.len()));
    log.add("file", region.file_offset().is_some());
    let last = MemoryRegionAddress(region.len() - 8);
    log.add("store", region.store(7_u64, last, Ordering::Relaxed));
    log.add("load", region.load::<u64>(last, Ordering::Relaxed));
    let bytes = (0..8).map(|i| pattern(region.last_addr().0 - 7 + i));
    region
        .write_slice(&bytes.collect::<Vec<_>>(), last)
        .unwrap();
}

fn whole(memory: &(impl GuestMemoryBackend + ?Sized), log: &mut Log) {
    log.add("num_regions", memory.num_regions());
    log.add("last_addr", memory.last_addr());
    let regions = memory
        .iter()
        .map(|region| (region.start_addr(), region.len()));
    log.add("iter", regions.collect::<Vec<_>>());
}

fn theirs() -> GuestMemoryAtomic<GuestMemoryMmap> {
    let ranges = REGIONS.map(|(base, size)| (GuestAddress(base), size as usize));
    GuestMemoryAtomic::new(GuestMemoryMmap::from_ranges(&ranges).unwrap())
}

fn assert_same(ours: &[String], theirs: &[String]) {
    assert!(theirs.len() > 50_000, "{} checks", theirs.len());
    for (ours, theirs) in ours.iter().zip(theirs) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(ours.len(), theirs.len());
}

#[test]
fn the_view_of_all_memory_conforms() {
    assert_same(&checks(&ram(&REGIONS)), &checks(&theirs()));
}

#[test]
fn the_view_of_a_device_conforms() {
    assert_same(&checks(&ram(&REGIONS).dma()), &checks(&theirs()));
}

/// What they can be used for, beside what they do.
#[test]
fn handles_go_where_theirs_go() {
    fn goes<A: GuestAddressSpace<T: Send + Sync> + Send + Sync + 'static>(space: &A) {
        let clone = space.clone();
        let (first, second) = (space.memory(), clone.memory());
        let third = first.clone();
        std::thread::scope(|s| {
            s.spawn(|| first.read_obj::<u64>(GuestAddress(PAGE)).unwrap());
            s.spawn(|| first.read_obj::<u64>(GuestAddress(PAGE)).unwrap());
        });
        let there = std::thread::spawn(move || clone.memory().read_obj::<u64>(GuestAddress(0)));
        there.join().unwrap().unwrap();
        drop(first);
        second.write_obj(5_u64, GuestAddress(8)).unwrap();
        assert_eq!(third.read_obj::<u64>(GuestAddress(8)).unwrap(), 5);
    }
    goes(&theirs());
    goes(&ram(&REGIONS));
    goes(&ram(&REGIONS).dma());
}
