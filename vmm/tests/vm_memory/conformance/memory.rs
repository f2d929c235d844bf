//! `GuestMemory`, and `Bytes` of it.

use std::fmt::Debug;
use std::io::{Seek, Write};
use std::sync::atomic::Ordering;

use vm_memory::bitmap::BitmapSlice;
use vm_memory::guest_memory::GuestMemorySliceIterator;
use vm_memory::{AtomicAccess, Bytes, GuestAddress, GuestMemory, Permissions, VolatileSlice};

use super::log::{Log, digest};
use super::scene::{Scene, fill, pattern, sum};

pub(super) const METHODS: &[&str] = &[
    "Bytes::write",
    "Bytes::read",
    "Bytes::write_slice",
    "Bytes::read_slice",
    "Bytes::write_obj",
    "Bytes::read_obj",
    "Bytes::read_volatile_from",
    "Bytes::read_exact_volatile_from",
    "Bytes::write_volatile_to",
    "Bytes::write_all_volatile_to",
    "Bytes::store",
    "Bytes::load",
    "GuestMemory::check_range",
    "GuestMemory::get_slices",
    "GuestMemory::physical_memory",
    "GuestMemorySliceIterator::stop_on_error",
];

/// What is in a slice.
pub(super) fn bytes_of<B: BitmapSlice>(slice: &VolatileSlice<'_, B>) -> (usize, u64) {
    let mut data = vec![0; slice.len()];
    slice.copy_to(&mut data[..]);
    digest(&data)
}

pub(super) fn ranges(
    scene: Scene,
    memory: &impl GuestMemory,
    log: &mut Log,
    addr: u64,
    len: usize,
) {
    let windows = scene.around(addr, len);
    let (at, key) = (GuestAddress(addr), (addr, len));
    let mut data = vec![0xee; len];
    let read = memory.read(&mut data, at).map_err(|e| format!("{e:?}"));
    log.add("Bytes::read", key, (&read, digest(&data)));
    // Whoever gets bytes gets the right ones.
    let got = read.unwrap_or(0);
    for (i, byte) in data[..got].iter().enumerate() {
        assert_eq!(*byte, pattern(addr + i as u64), "{addr:#x} + {i:#x}");
    }
    data.fill(0xee);
    let read = memory.read_slice(&mut data, at);
    log.add("Bytes::read_slice", key, (read, digest(&data)));

    let data: Vec<u8> = (0..len).map(|i| i as u8 ^ 0x5a).collect();
    log.add("Bytes::write", key, memory.write(&data, at));
    log.note("then", sum(memory, &windows));
    fill(memory, &windows);
    log.add("Bytes::write_slice", key, memory.write_slice(&data, at));
    log.note("then", sum(memory, &windows));
    fill(memory, &windows);
}

/// With each permission that may be asked for, also none.
pub(super) fn slices(memory: &impl GuestMemory, log: &mut Log, addr: u64, len: usize) {
    let at = GuestAddress(addr);
    for access in [
        Permissions::No,
        Permissions::Read,
        Permissions::Write,
        Permissions::ReadWrite,
    ] {
        let key = (addr, len, access);
        let is_there = memory.check_range(at, len, access);
        log.add("GuestMemory::check_range", key, is_there);
        let mut slices = memory.get_slices(at, len, access).unwrap();
        let found: Vec<_> = slices
            .by_ref()
            .map(|slice| slice.map(|slice| bytes_of(&slice)))
            .collect();
        assert!(slices.next().is_none(), "ended for good: {key:?}");
        log.add("GuestMemory::get_slices", key, found);
        let stopped = memory.get_slices(at, len, access).unwrap().stop_on_error();
        let stopped = stopped.map(|slices| slices.map(|s| bytes_of(&s)).collect::<Vec<_>>());
        log.add("GuestMemorySliceIterator::stop_on_error", key, stopped);
    }
}

pub(super) fn streams(
    scene: Scene,
    memory: &impl GuestMemory,
    log: &mut Log,
    addr: u64,
    len: usize,
) {
    let windows = scene.around(addr, len);
    let (at, key) = (GuestAddress(addr), (addr, len));
    let mut out = Vec::new();
    let written = memory.write_volatile_to(at, &mut out, len);
    log.add("Bytes::write_volatile_to", key, (written, digest(&out)));
    let mut out = Vec::new();
    let written = memory.write_all_volatile_to(at, &mut out, len);
    log.add("Bytes::write_all_volatile_to", key, (written, digest(&out)));
    // To what does not take all of it.
    let mut room = vec![0; len / 2];
    let written = memory.write_volatile_to(at, &mut &mut room[..], len);
    log.add("Bytes::write_volatile_to", key, (written, digest(&room)));
    let written = memory.write_all_volatile_to(at, &mut &mut room[..], len);
    log.add(
        "Bytes::write_all_volatile_to",
        key,
        (written, digest(&room)),
    );

    let data: Vec<u8> = (0..len).map(|i| i as u8 ^ 0xa5).collect();
    // From what has all of it, and from what has not.
    for data in [&data[..], &data[..len / 2]] {
        let read = memory.read_volatile_from(at, &mut &data[..], len);
        log.add("Bytes::read_volatile_from", (key, data.len()), read);
        log.note("then", sum(memory, &windows));
        fill(memory, &windows);
        let read = memory.read_exact_volatile_from(at, &mut &data[..], len);
        log.add("Bytes::read_exact_volatile_from", (key, data.len()), read);
        log.note("then", sum(memory, &windows));
        fill(memory, &windows);
    }
}

/// From a file and to it, which is a system call on guest memory.
pub(super) fn files(scene: Scene, memory: &impl GuestMemory, log: &mut Log, addr: u64) {
    const LEN: usize = 24;
    let windows = scene.around(addr, LEN);
    let (at, key) = (GuestAddress(addr), ("a file", addr));
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"What is in the file, and some more.")
        .unwrap();
    file.rewind().unwrap();
    let read = memory.read_volatile_from(at, &mut file, LEN);
    log.add("Bytes::read_volatile_from", key, read);
    log.note("then", sum(memory, &windows));
    file.rewind().unwrap();
    let written = memory.write_volatile_to(at, &mut file, LEN);
    log.add("Bytes::write_volatile_to", key, written);
    file.rewind().unwrap();
    let mut back = Vec::new();
    std::io::Read::read_to_end(&mut file, &mut back).unwrap();
    log.note("the file", digest(&back));
    fill(memory, &windows);
}

pub(super) fn objects(scene: Scene, memory: &impl GuestMemory, log: &mut Log, addr: u64) {
    let windows = scene.around(addr, 24);
    let at = GuestAddress(addr);
    log.add("Bytes::read_obj", (addr, "u8"), memory.read_obj::<u8>(at));
    log.add("Bytes::read_obj", (addr, "u16"), memory.read_obj::<u16>(at));
    log.add("Bytes::read_obj", (addr, "u32"), memory.read_obj::<u32>(at));
    log.add("Bytes::read_obj", (addr, "u64"), memory.read_obj::<u64>(at));
    let bytes = memory.read_obj::<[u8; 24]>(at);
    log.add("Bytes::read_obj", (addr, "[u8; 24]"), bytes);
    let mut write = |what, written| {
        log.add("Bytes::write_obj", (addr, what), written);
        log.note("then", sum(memory, &windows));
        fill(memory, &windows);
    };
    write("u8", memory.write_obj(0x11_u8, at));
    write("u16", memory.write_obj(0x1122_u16, at));
    write("u32", memory.write_obj(0x1122_3344_u32, at));
    write("u64", memory.write_obj(0x1122_3344_5566_7788_u64, at));
    write("[u8; 24]", memory.write_obj([0x77_u8; 24], at));
}

/// Of each size, and in each order that there is for it. Across a seam, and where they
/// are not aligned, atomics fail.
pub(super) fn atomics(scene: Scene, memory: &impl GuestMemory, log: &mut Log, addr: u64) {
    atomics_of::<u8>(scene, memory, log, addr, 0x81);
    atomics_of::<u16>(scene, memory, log, addr, 0x8182);
    atomics_of::<u32>(scene, memory, log, addr, 0x8182_8384);
    atomics_of::<u64>(scene, memory, log, addr, 0x8182_8384_8586_8788);
}

fn atomics_of<O: AtomicAccess + Debug>(
    scene: Scene,
    memory: &impl GuestMemory,
    log: &mut Log,
    addr: u64,
    value: O,
) {
    let windows = scene.around(addr, 8);
    let at = GuestAddress(addr);
    for (load, store) in [
        (Ordering::Relaxed, Ordering::Relaxed),
        (Ordering::Acquire, Ordering::Release),
        (Ordering::SeqCst, Ordering::SeqCst),
    ] {
        let key = (size_of::<O>(), addr, load);
        log.add("Bytes::load", key, memory.load::<O>(at, load));
        log.add("Bytes::store", key, memory.store(value, at, store));
        log.note("then", sum(memory, &windows));
        log.add("Bytes::load", key, memory.load::<O>(at, load));
        fill(memory, &windows);
    }
}
