//! `GuestMemoryRegion`, and `Bytes` of it, which `GuestMemoryRegionBytes` makes.

use std::sync::atomic::Ordering;

use vm_memory::bitmap::Bitmap;
use vm_memory::{AtomicAccess, GuestAddress, GuestMemory, GuestMemoryRegion, MemoryRegionAddress};

use super::log::{Log, digest};
use super::memory::bytes_of;
use super::scene::{LENGTHS, Scene, fill, near, sum};
use crate::PAGE;

/// All but `is_hugetlbfs`, which is on the list of differences.
pub(super) const METHODS: &[&str] = &[
    "GuestMemoryRegion::len",
    "GuestMemoryRegion::start_addr",
    "GuestMemoryRegion::last_addr",
    "GuestMemoryRegion::bitmap",
    "GuestMemoryRegion::check_address",
    "GuestMemoryRegion::address_in_range",
    "GuestMemoryRegion::checked_offset",
    "GuestMemoryRegion::to_region_addr",
    "GuestMemoryRegion::get_host_address",
    "GuestMemoryRegion::file_offset",
    "GuestMemoryRegion::get_slice",
    "GuestMemoryRegion::as_volatile_slice",
    "GuestMemoryRegionBytes: write",
    "GuestMemoryRegionBytes: read",
    "GuestMemoryRegionBytes: write_slice",
    "GuestMemoryRegionBytes: read_slice",
    "GuestMemoryRegionBytes: write_obj",
    "GuestMemoryRegionBytes: read_obj",
    "GuestMemoryRegionBytes: read_volatile_from",
    "GuestMemoryRegionBytes: read_exact_volatile_from",
    "GuestMemoryRegionBytes: write_volatile_to",
    "GuestMemoryRegionBytes: write_all_volatile_to",
    "GuestMemoryRegionBytes: store",
    "GuestMemoryRegionBytes: load",
];

/// One region, and the memory that it is of: to see what a write has done elsewhere.
pub(super) struct InRegion<'a, M, R> {
    pub(super) scene: Scene,
    pub(super) memory: &'a M,
    pub(super) region: &'a R,
}

impl<M: GuestMemory, R: GuestMemoryRegion> InRegion<'_, M, R> {
    pub(super) fn checks(&self, log: &mut Log) {
        self.whole(log);
        let len = self.region.len();
        let mut offsets: Vec<u64> = [0, PAGE, len].into_iter().flat_map(near).collect();
        offsets.extend([len / 2, 100 * PAGE, i64::MAX as u64]);
        offsets.sort_unstable();
        offsets.dedup();
        for at in offsets.into_iter().map(MemoryRegionAddress) {
            self.address(log, at);
            self.objects(log, at);
            for size in LENGTHS {
                self.ranges(log, at, size);
                self.streams(log, at, size);
            }
        }
    }

    fn whole(&self, log: &mut Log) {
        let region = self.region;
        log.add("GuestMemoryRegion::len", (), region.len());
        log.add("GuestMemoryRegion::start_addr", (), region.start_addr());
        log.add("GuestMemoryRegion::last_addr", (), region.last_addr());
        let file = region.file_offset().map(|file| file.start());
        log.add("GuestMemoryRegion::file_offset", (), file);
        let all = region.as_volatile_slice().map(|all| bytes_of(&all));
        log.add("GuestMemoryRegion::as_volatile_slice", (), all);
        // Not tracked, here: `dirty.rs` is about bitmaps.
        let bitmap = region.bitmap();
        bitmap.mark_dirty(0, 1);
        let dirty = bitmap.dirty_at(0) || bitmap.slice_at(0).dirty_at(0);
        log.add("GuestMemoryRegion::bitmap", (), dirty);
        let (first, last) = (region.start_addr().0, region.last_addr().0);
        for addr in near(first).chain(near(last)) {
            let at = region.to_region_addr(GuestAddress(addr));
            log.add("GuestMemoryRegion::to_region_addr", addr, at);
        }
    }

    fn address(&self, log: &mut Log, at: MemoryRegionAddress) {
        let region = self.region;
        let checked = region.check_address(at);
        log.add("GuestMemoryRegion::check_address", at, checked);
        let is_there = region.address_in_range(at);
        log.add("GuestMemoryRegion::address_in_range", at, is_there);
        let host = region.get_host_address(at).map(|a| a as usize & 0xfff);
        log.add("GuestMemoryRegion::get_host_address", at, host);
        for size in LENGTHS.into_iter().chain([usize::MAX]) {
            let offset = region.checked_offset(at, size);
            log.add("GuestMemoryRegion::checked_offset", (at, size), offset);
            let slice = region.get_slice(at, size).map(|slice| bytes_of(&slice));
            log.add("GuestMemoryRegion::get_slice", (at, size), slice);
        }
    }

    /// What is around an access, afterwards; and as it was before, again.
    fn after(&self, log: &mut Log, at: MemoryRegionAddress, size: usize) {
        let addr = self.region.start_addr().0.saturating_add(at.0);
        let windows = self.scene.around(addr, size);
        log.note("then", sum(self.memory, &windows));
        fill(self.memory, &windows);
    }

    fn ranges(&self, log: &mut Log, at: MemoryRegionAddress, size: usize) {
        let (region, key) = (self.region, (at, size));
        let mut data = vec![0xee; size];
        let read = region.read(&mut data, at);
        log.add("GuestMemoryRegionBytes: read", key, (read, digest(&data)));
        data.fill(0xee);
        let read = region.read_slice(&mut data, at);
        let read = (read, digest(&data));
        log.add("GuestMemoryRegionBytes: read_slice", key, read);
        let data: Vec<u8> = (0..size).map(|i| i as u8 ^ 0x5a).collect();
        let written = region.write(&data, at);
        log.add("GuestMemoryRegionBytes: write", key, written);
        self.after(log, at, size);
        let written = region.write_slice(&data, at);
        log.add("GuestMemoryRegionBytes: write_slice", key, written);
        self.after(log, at, size);
    }

    fn streams(&self, log: &mut Log, at: MemoryRegionAddress, size: usize) {
        let (region, key) = (self.region, (at, size));
        let mut out = Vec::new();
        let written = region.write_volatile_to(at, &mut out, size);
        let written = (written, digest(&out));
        log.add("GuestMemoryRegionBytes: write_volatile_to", key, written);
        let mut out = Vec::new();
        let written = region.write_all_volatile_to(at, &mut out, size);
        let written = (written, digest(&out));
        log.add(
            "GuestMemoryRegionBytes: write_all_volatile_to",
            key,
            written,
        );
        let data: Vec<u8> = (0..size).map(|i| i as u8 ^ 0xa5).collect();
        // From what has all of it, and from what has not.
        for data in [&data[..], &data[..size / 2]] {
            let key = (key, data.len());
            let read = region.read_volatile_from(at, &mut &data[..], size);
            log.add("GuestMemoryRegionBytes: read_volatile_from", key, read);
            self.after(log, at, size);
            let read = region.read_exact_volatile_from(at, &mut &data[..], size);
            log.add(
                "GuestMemoryRegionBytes: read_exact_volatile_from",
                key,
                read,
            );
            self.after(log, at, size);
        }
    }

    fn objects(&self, log: &mut Log, at: MemoryRegionAddress) {
        let read = self.region.read_obj::<[u8; 24]>(at);
        log.add("GuestMemoryRegionBytes: read_obj", at, read);
        let written = self.region.write_obj([0x77_u8; 24], at);
        log.add("GuestMemoryRegionBytes: write_obj", at, written);
        self.after(log, at, 24);
        self.atomics::<u8>(log, at, 0x81);
        self.atomics::<u16>(log, at, 0x8182);
        self.atomics::<u32>(log, at, 0x8182_8384);
        self.atomics::<u64>(log, at, 0x8182_8384_8586_8788);
    }

    fn atomics<O: AtomicAccess + std::fmt::Debug>(
        &self,
        log: &mut Log,
        at: MemoryRegionAddress,
        value: O,
    ) {
        let key = (at, size_of::<O>());
        let loaded = self.region.load::<O>(at, Ordering::Acquire);
        log.add("GuestMemoryRegionBytes: load", key, loaded);
        let stored = self.region.store(value, at, Ordering::Release);
        log.add("GuestMemoryRegionBytes: store", key, stored);
        self.after(log, at, size_of::<O>());
    }
}
