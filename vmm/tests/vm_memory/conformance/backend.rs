//! `GuestMemoryBackend`.

use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryRegion,
    MemoryRegionAddress,
};

use super::log::{Log, digest};
use super::memory::bytes_of;
use super::scene::LENGTHS;

pub(super) const METHODS: &[&str] = &[
    "GuestMemoryBackend::num_regions",
    "GuestMemoryBackend::find_region",
    "GuestMemoryBackend::iter",
    "GuestMemoryBackend::last_addr",
    "GuestMemoryBackend::to_region_addr",
    "GuestMemoryBackend::address_in_range",
    "GuestMemoryBackend::check_address",
    "GuestMemoryBackend::check_range",
    "GuestMemoryBackend::checked_offset",
    "GuestMemoryBackend::try_access",
    "GuestMemoryBackend::get_host_address",
    "GuestMemoryBackend::get_slice",
    "GuestMemoryBackend::get_slices",
    "GuestMemoryBackendSliceIterator::stop_on_error",
];

pub(super) fn address(memory: &(impl GuestMemoryBackend + ?Sized), log: &mut Log, addr: u64) {
    let at = GuestAddress(addr);
    let region = memory.find_region(at);
    log.add(
        "GuestMemoryBackend::find_region",
        addr,
        region.map(|r| (r.start_addr(), r.last_addr(), r.len())),
    );
    let located = memory.to_region_addr(at);
    log.add(
        "GuestMemoryBackend::to_region_addr",
        addr,
        located.map(|(r, at)| (r.start_addr(), at)),
    );
    let is_there = memory.address_in_range(at);
    log.add("GuestMemoryBackend::address_in_range", addr, is_there);
    let checked = memory.check_address(at);
    log.add("GuestMemoryBackend::check_address", addr, checked);
    // Where in a page: mappings begin at one.
    let host = memory.get_host_address(at).map(|a| a as usize & 0xfff);
    log.add("GuestMemoryBackend::get_host_address", addr, host);
    for len in LENGTHS {
        range(memory, log, addr, len);
    }
}

fn range(memory: &(impl GuestMemoryBackend + ?Sized), log: &mut Log, addr: u64, len: usize) {
    let (at, key) = (GuestAddress(addr), (addr, len));
    let slice = memory.get_slice(at, len).map(|slice| bytes_of(&slice));
    log.add("GuestMemoryBackend::get_slice", key, slice);
    let offset = memory.checked_offset(at, len);
    log.add("GuestMemoryBackend::checked_offset", key, offset);
    let is_there = memory.check_range(at, len);
    log.add("GuestMemoryBackend::check_range", key, is_there);
    let slices = memory.get_slices(at, len);
    let slices: Vec<_> = slices
        .map(|slice| slice.map(|slice| bytes_of(&slice)))
        .collect();
    log.add("GuestMemoryBackend::get_slices", key, slices);
    let stopped = memory.get_slices(at, len).stop_on_error();
    let stopped = stopped.map(|slices| slices.map(|s| bytes_of(&s)).collect::<Vec<_>>());
    log.add(
        "GuestMemoryBackendSliceIterator::stop_on_error",
        key,
        stopped,
    );
    for most in [usize::MAX, 3, 0] {
        let accessed = try_access(memory, at, len, most);
        log.add("GuestMemoryBackend::try_access", (key, most), accessed);
    }
}

/// What a callback that takes at most `most` bytes at once is given.
#[expect(
    deprecated,
    reason = "it is in the trait, and there are devices that use it"
)]
fn try_access(
    memory: &(impl GuestMemoryBackend + ?Sized),
    at: GuestAddress,
    len: usize,
    most: usize,
) -> (Result<usize, GuestMemoryError>, usize, (usize, u64)) {
    let (mut calls, mut found) = (0, Vec::new());
    let done = memory.try_access(len, at, |done, count, at: MemoryRegionAddress, region| {
        assert_eq!(done, found.len());
        calls += 1;
        // Of many calls, the first few.
        let count = count.min(if calls > 8 { usize::MAX } else { most });
        let mut data = vec![0; count];
        region.read_slice(&mut data, at)?;
        found.extend(data);
        Ok(count)
    });
    (done, calls, digest(&found))
}

pub(super) fn whole(memory: &(impl GuestMemoryBackend + ?Sized), log: &mut Log) {
    let count = memory.num_regions();
    log.add("GuestMemoryBackend::num_regions", (), count);
    let last = memory.last_addr();
    log.add("GuestMemoryBackend::last_addr", (), last);
    let regions = memory.iter().map(|r| (r.start_addr(), r.len()));
    let regions: Vec<_> = regions.collect();
    log.add("GuestMemoryBackend::iter", (), regions);
}
