//! What a handle pins: exactly what it has touched.

use std::thread;
use std::time::{Duration, Instant};

use gracefault::memory::{Backing, Device, DeviceError};
use gracefault::mm::{AddrRange, VmFlags};
use std::sync::Arc;
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemoryBackend, GuestMemoryRegion};

use super::{PAGE, memory, ram};

#[derive(Debug)]
struct Nothing;

impl Device for Nothing {
    fn name(&self) -> &str {
        "nothing"
    }
    fn read(&self, _: u64, data: &mut [u8]) -> Result<(), DeviceError> {
        data.fill(0);
        Ok(())
    }
    fn write(&self, _: u64, _: &[u8]) -> Result<(), DeviceError> {
        Ok(())
    }
}

/// Every region, found twice, however many there are; and not one more.
#[test]
fn each_region_is_pinned_once() {
    let regions: Vec<_> = (0..300).map(|i| (2 * i * PAGE, PAGE)).collect();
    let ram = ram(&regions);
    let handle = ram.memory();
    for touched in 1..=regions.len() {
        let base = GuestAddress(regions[touched - 1].0);
        for _ in 0..2 {
            assert_eq!(handle.find_region(base).unwrap().start_addr(), base);
        }
        assert_eq!(handle.pinned(), touched);
    }
    for &(base, _) in regions.iter().rev() {
        assert_eq!(
            handle
                .find_region(GuestAddress(base + 5))
                .unwrap()
                .start_addr()
                .0,
            base
        );
    }
    assert_eq!(handle.pinned(), regions.len());
    assert!(handle.find_region(GuestAddress(PAGE)).is_none(), "a hole");
    // Parked by itself, a clone keeps what was found by the first, as a host address.
    let clone = handle.clone();
    drop(handle);
    assert_eq!(clone.pinned(), regions.len());
    let soon = || Some(Instant::now() + Duration::from_millis(5));
    for (base, size) in [regions[0], regions[1], regions[150]] {
        let gone = ram.remove_region(GuestAddress(base), size, soon());
        assert!(gone.is_err(), "{base:#x}");
    }
    drop(clone);
    for (base, size) in regions {
        let gone = ram.remove_region(GuestAddress(base), size, None).unwrap();
        assert!(gone.drain.holders.is_empty(), "{}", gone.drain);
    }
}

/// Slices of an access over 64 regions of unequal sizes are its bytes, in order.
#[test]
fn slices_over_many_regions_are_the_bytes() {
    let mut end = 0;
    let regions: Vec<_> = (0..64)
        .map(|i| {
            let (base, size) = (end, (1 + i * 7 % 3) * PAGE);
            end += size;
            (base, size)
        })
        .collect();
    let ram = ram(&regions);
    let bytes: Vec<u8> = (0..end)
        .map(|at| (at * 31 + (at >> 12) * 7) as u8)
        .collect();
    ram.memory().write_slice(&bytes, GuestAddress(0)).unwrap();
    let (from, len) = (5, end as usize - 12);
    let handle = ram.memory();
    let mut found = Vec::new();
    let mut parts = 0;
    for slice in GuestMemoryBackend::get_slices(&*handle, GuestAddress(from), len) {
        let slice = slice.unwrap();
        let mut part = vec![0; slice.len()];
        slice.copy_to(&mut part);
        found.extend(part);
        parts += 1;
    }
    assert_eq!((parts, handle.pinned()), (64, 64));
    assert!(found == bytes[from as usize..][..len]);
}

/// `iter` pins what it has handed out, and goes on in what is there then.
#[test]
fn iteration_pins_what_it_hands_out() {
    let ram = ram(&[(0, PAGE), (PAGE, PAGE), (4 * PAGE, PAGE)]);
    let handle = ram.memory();
    let mut iter = handle.iter();
    assert_eq!(iter.next().unwrap().start_addr().0, 0);
    assert_eq!(handle.pinned(), 1);
    ram.remove_region(GuestAddress(PAGE), PAGE, None).unwrap();
    ram.insert_region(GuestAddress(8 * PAGE), memory(PAGE))
        .unwrap();
    let rest: Vec<_> = iter.map(|region| region.start_addr().0).collect();
    assert_eq!(rest, [4 * PAGE, 8 * PAGE]);
    assert_eq!(handle.pinned(), 3);
}

/// Counting and asking for the end pins nothing; nor does a device's addresses.
#[test]
fn what_is_not_handed_out_is_not_pinned() {
    let ram = ram(&[(0, PAGE), (8 * PAGE, PAGE)]);
    let bar = AddrRange::new(4 * PAGE, PAGE).unwrap();
    ram.space().map_device(bar, Arc::new(Nothing)).unwrap();
    let handle = ram.memory();
    assert_eq!(handle.num_regions(), 2);
    assert_eq!(handle.last_addr(), GuestAddress(9 * PAGE - 1));
    assert!(handle.find_region(GuestAddress(4 * PAGE)).is_none());
    assert!(handle.read_obj::<u8>(GuestAddress(4 * PAGE)).is_err());
    assert_eq!(handle.pinned(), 0);
    assert_eq!(handle.iter().count(), 2);
    // A device is one by what stands behind it, whatever flags it was mapped with.
    let bare = AddrRange::new(16 * PAGE, PAGE).unwrap();
    let device = Backing::Mmio(Arc::new(Nothing));
    ram.space()
        .mm()
        .map(bare, VmFlags::READ, 0, device)
        .unwrap();
    let other = ram.memory();
    assert_eq!(other.num_regions(), 2);
    assert_eq!(other.last_addr(), GuestAddress(9 * PAGE - 1));
    assert_eq!((other.iter().count(), other.pinned()), (2, 2));
    drop(other);
    ram.space().mm().unmap(bar, None).unwrap();
    let last = GuestAddress(8 * PAGE);
    drop(handle);
    ram.remove_region(last, PAGE, None).unwrap();
}

/// A handle shared by threads, and dropped by another than made it.
#[test]
fn a_handle_is_shared_and_sent() {
    let regions: Vec<_> = (0..32).map(|i| (2 * i * PAGE, PAGE)).collect();
    let ram = ram(&regions);
    let handle = ram.memory();
    thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| {
                for &(base, _) in &regions {
                    let region = handle.find_region(GuestAddress(base)).unwrap();
                    assert_eq!(region.start_addr().0, base);
                }
            });
        }
        for &(base, _) in &regions {
            assert!(handle.find_region(GuestAddress(base)).is_some());
        }
    });
    thread::spawn(move || drop(handle)).join().unwrap();
    for (base, size) in regions {
        let gone = ram.remove_region(GuestAddress(base), size, None).unwrap();
        assert!(gone.drain.holders.is_empty(), "{}", gone.drain);
    }
}

/// Memory outlives the address space where a handle does.
#[test]
fn a_handle_keeps_the_memory() {
    let ram = ram(&[(0, PAGE), (PAGE, PAGE)]);
    let kept = memory(PAGE);
    ram.insert_region(GuestAddress(4 * PAGE), kept.clone())
        .unwrap();
    let handle = ram.dma().memory();
    let other = ram.memory();
    drop(ram);
    handle.write_obj(7_u64, GuestAddress(PAGE)).unwrap();
    let later = handle.clone();
    drop(handle);
    assert_eq!(later.read_obj::<u64>(GuestAddress(PAGE)).unwrap(), 7);
    thread::spawn(move || drop(later)).join().unwrap();
    assert_eq!(Arc::strong_count(&kept), 2);
    drop(other);
    assert_eq!(
        Arc::strong_count(&kept),
        1,
        "with the last handle, all of it"
    );
}

/// Handles by the thousand beside a writer who takes regions out and puts them in: who
/// finds one finds it whole, and what is out is not read.
#[test]
fn handles_beside_a_restless_writer() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let regions: Vec<_> = (0..8).map(|i| (i * PAGE, PAGE)).collect();
    let ram = ram(&regions);
    let stop = AtomicBool::new(false);
    let found = thread::scope(|s| {
        let readers: Vec<_> = (0..2)
            .map(|reader| {
                let (ram, stop) = (&ram, &stop);
                s.spawn(move || {
                    let (mut found, mut at) = (0_u64, reader);
                    let dma = ram.dma();
                    while !stop.load(Ordering::Relaxed) {
                        let handle = dma.memory();
                        at = (at * 5 + 3) % (8 * PAGE - 4);
                        let mut data = [0; 512];
                        let read = handle.read(&mut data, GuestAddress(at)).unwrap_or(0);
                        // Poisoned when it is taken out.
                        assert!(data[..read].iter().all(|byte| *byte == 0));
                        found += u64::from(read > 0);
                    }
                    found
                })
            })
            .collect();
        for round in 0..4000_u64 {
            let base = GuestAddress(round * 3 % 8 * PAGE);
            let gone = ram.remove_region(base, PAGE, None).unwrap();
            gone.memory.write(0, &[0xff; PAGE as usize]).unwrap();
            drop(gone);
            ram.insert_region(base, memory(PAGE)).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        readers.into_iter().map(|r| r.join().unwrap()).sum::<u64>()
    });
    assert!(found > 100, "{found}");
}
