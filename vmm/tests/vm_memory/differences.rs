//! Where ours does not do what `GuestMemoryAtomic<GuestMemoryMmap>` does: the whole list,
//! with the numbers of `docs/vm-memory.md`. 10 is in `dirty.rs`, 15 in `lazy.rs`.

use std::io;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use gracefault::memory::vm_memory::RegionError;
use gracefault::memory::{Backend, Backing, RamOptions, RamSizes, RamSource};
use gracefault::mm::{AddrRange, VmFlags, WriteError};
use vm_memory::{
    Bytes, GuestAddress, GuestAddressSpace, GuestMemory, GuestMemoryBackend, GuestMemoryError,
    GuestMemoryRegion, GuestRegionMmap, Permissions,
};

use super::{PAGE, memory, ram, theirs};

fn reads(memory: &impl GuestMemory, addr: u64) -> bool {
    memory.read_obj::<u64>(GuestAddress(addr)).is_ok()
}

/// 1. A region removed is unreadable, through every handle, when the removal returns.
#[test]
fn a_removed_region_is_unreadable_through_every_handle() {
    let two = [(0, PAGE), (PAGE, PAGE)];
    let atomic = theirs(&two);
    let old = atomic.memory();
    let (without, _) = atomic
        .memory()
        .remove_region(GuestAddress(PAGE), PAGE)
        .unwrap();
    atomic.lock().unwrap().replace(without);
    assert!(reads(&*old, PAGE), "theirs: still");

    let ours = ram(&two);
    let (kept, dma) = (ours.memory(), ours.dma().memory());
    assert!(reads(&*kept, 0) && reads(&*dma, 0));
    let gone = ours.remove_region(GuestAddress(PAGE), PAGE, None).unwrap();
    assert!(!reads(&*kept, PAGE) && !reads(&*dma, PAGE));
    assert!(!reads(&*ours.clone().memory(), PAGE));
    assert_eq!(Arc::strong_count(&gone.memory), 1, "nobody else has it");
}

/// 2. A handle sees what has been added since it was made.
#[test]
fn a_handle_sees_what_was_added_since() {
    let atomic = theirs(&[(0, PAGE)]);
    let old = atomic.memory();
    let region = GuestRegionMmap::from_range(GuestAddress(PAGE), PAGE as usize, None).unwrap();
    let with = atomic.memory().insert_region(Arc::new(region)).unwrap();
    atomic.lock().unwrap().replace(with);
    assert!(!reads(&*old, PAGE), "theirs: not");

    let ours = ram(&[(0, PAGE)]);
    let old = ours.memory();
    ours.insert_region(GuestAddress(PAGE), memory(PAGE))
        .unwrap();
    assert!(reads(&*old, PAGE));
}

/// 3. Who adds regions loses none that others add at the same time.
#[test]
fn two_threads_add_400_regions() {
    const EACH: u64 = 200;
    let ours = ram(&[]);
    let together = Barrier::new(2);
    thread::scope(|s| {
        for half in 0..2 {
            let (ours, together) = (ours.clone(), &together);
            s.spawn(move || {
                for i in 0..EACH {
                    together.wait();
                    let base = GuestAddress((2 * i + half) * PAGE);
                    ours.insert_region(base, memory(PAGE)).unwrap();
                }
            });
        }
    });
    let memory = ours.memory();
    assert_eq!(memory.num_regions(), 400);
    assert!((0..400).all(|i| reads(&*memory, i * PAGE)));

    // Theirs, in the order that loses one: both look, then both replace.
    let atomic = theirs(&[(0, PAGE)]);
    let [first, second] = [1, 2].map(|i| {
        let base = GuestAddress(i * PAGE);
        let region = GuestRegionMmap::from_range(base, PAGE as usize, None).unwrap();
        atomic.memory().insert_region(Arc::new(region)).unwrap()
    });
    atomic.lock().unwrap().replace(first);
    atomic.lock().unwrap().replace(second);
    assert_eq!(atomic.memory().num_regions(), 2, "of 3");
}

/// 4. A device cannot write what the guest cannot: ROM. A loader can.
#[test]
fn rom_is_written_by_loaders_only() {
    let ours = ram(&[(0, PAGE)]);
    let rom = GuestAddress(PAGE);
    ours.insert_rom(rom, memory(PAGE)).unwrap();
    let (loader, dma) = (ours.memory(), ours.dma());
    loader.write_obj(7_u64, rom).unwrap();
    let device = dma.memory();
    assert_eq!(device.read_obj::<u64>(rom).unwrap(), 7);
    assert!(device.check_range(rom, 8, Permissions::Read));
    assert!(!device.check_range(rom, 8, Permissions::Write));
    assert!(!device.check_range(rom, 8, Permissions::ReadWrite));
    let refused = |error: GuestMemoryError| match error {
        GuestMemoryError::IOError(error) => error.kind(),
        error => panic!("{error}"),
    };
    let denied = io::ErrorKind::PermissionDenied;
    assert_eq!(refused(device.write_obj(8_u64, rom).unwrap_err()), denied);
    let order = std::sync::atomic::Ordering::Relaxed;
    assert_eq!(
        refused(device.store(8_u64, rom, order).unwrap_err()),
        denied
    );
    let read = device.read_volatile_from(rom, &mut &[1_u8; 8][..], 8);
    assert_eq!(refused(read.unwrap_err()), denied);
    // What lies before it is written, as before a hole.
    assert_eq!(device.write(&[1; 8], GuestAddress(PAGE - 4)).unwrap(), 4);
    assert_eq!(device.read_obj::<u64>(rom).unwrap(), 7);
}

/// 4. And what is put in its place is ROM too.
#[test]
fn rom_is_replaced_by_rom() {
    let ours = ram(&[(0, PAGE)]);
    let rom = GuestAddress(PAGE);
    ours.insert_rom(rom, memory(PAGE)).unwrap();
    let flags = || ours.space().mm().vmas(AddrRange::new(PAGE, 1).unwrap())[0].flags;
    let before = flags();
    let mut slots = Vec::new();
    let gone = ours.replace_region_with(rom, memory(PAGE), None, || {
        slots.push("other");
        Ok::<_, RegionError>(())
    });
    assert_eq!(Arc::strong_count(&gone.unwrap().memory), 1);
    assert_eq!((slots, flags()), (vec!["other"], before));
    assert!(ours.dma().memory().write_obj(1_u8, rom).is_err());
    ours.memory().write_obj(1_u8, rom).unwrap();
    let refused = || Err(RegionError::Unaligned { base: 1 });
    let kept = ours.replace_region_with(rom, memory(PAGE), None, refused);
    assert_eq!(kept.unwrap_err(), RegionError::Unaligned { base: 1 });
    assert_eq!(ours.memory().read_obj::<u8>(rom).unwrap(), 1, "as before");
    ours.replace_region(GuestAddress(0), memory(PAGE), None)
        .unwrap();
    ours.dma()
        .memory()
        .write_obj(1_u8, GuestAddress(0))
        .unwrap();
}

/// 6. An access waits for the writer of its region, and for no other.
#[test]
fn an_access_waits_for_the_writer_of_its_region() {
    let ours = ram(&[(0, PAGE), (4 * PAGE, PAGE)]);
    let (in_last, go_on) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let reader = thread::scope(|s| {
        s.spawn(|| {
            let last = || {
                in_last.wait();
                go_on.wait();
                Ok::<_, RegionError>(())
            };
            ours.remove_region_with(GuestAddress(0), PAGE, None, last)
                .unwrap();
        });
        in_last.wait();
        assert!(reads(&*ours.memory(), 4 * PAGE), "another: at once");
        let reader = s.spawn(|| reads(&*ours.memory(), 0));
        thread::sleep(Duration::from_millis(20));
        assert!(!reader.is_finished());
        go_on.wait();
        reader.join().unwrap()
    });
    assert!(!reader, "gone by the time that it looks");
}

/// 7. An iteration goes on in what is there when it is its turn.
#[test]
fn an_iteration_is_not_of_one_version() {
    let ours = ram(&[(0, PAGE), (4 * PAGE, PAGE)]);
    let handle = ours.memory();
    let mut iter = handle.iter();
    assert_eq!(iter.next().unwrap().start_addr(), GuestAddress(0));
    ours.remove_region(GuestAddress(4 * PAGE), PAGE, None)
        .unwrap();
    ours.insert_region(GuestAddress(8 * PAGE), memory(PAGE))
        .unwrap();
    assert_eq!(iter.next().unwrap().start_addr(), GuestAddress(8 * PAGE));
    assert!(iter.next().is_none());
}

/// 8 and 9. A handle of one's own holds up one's own removal; and so does its clone.
#[test]
fn ones_own_handle_holds_up_ones_removal() {
    let ours = ram(&[(0, PAGE)]);
    let handle = ours.memory();
    assert!(reads(&*handle, 0));
    let clone = handle.clone();
    let remove = || {
        let soon = Instant::now() + Duration::from_millis(10);
        ours.remove_region(GuestAddress(0), PAGE, Some(soon))
    };
    for held in [Some(handle), Some(clone)] {
        let error = remove().unwrap_err();
        let RegionError::Write(WriteError::TimedOut { report }) = error else {
            panic!("{error}");
        };
        let me = thread::current().name().unwrap().to_owned();
        assert!(report.holders.iter().all(|holder| holder.thread == me));
        drop(held);
    }
    remove().unwrap();
}

/// 5. What is no region, or in the way, is refused with the reason.
#[test]
fn what_cannot_be_is_refused() {
    let ours = ram(&[(0, PAGE), (4 * PAGE, 2 * PAGE)]);
    let insert = |base| ours.insert_region(GuestAddress(base), memory(2 * PAGE));
    assert!(matches!(
        insert(PAGE + 1),
        Err(RegionError::Unaligned { base: 0x1001 })
    ));
    assert!(matches!(
        insert(u64::MAX - PAGE + 1),
        Err(RegionError::NoRange { .. })
    ));
    assert!(matches!(
        insert(u64::MAX - 2 * PAGE + 1),
        Err(RegionError::NoRange { .. })
    ));
    let overlaps = |e| matches!(e, Err(RegionError::Write(WriteError::Overlaps { .. })));
    assert!(overlaps(insert(3 * PAGE)) && overlaps(insert(5 * PAGE)) && overlaps(insert(0)));
    for (base, size) in [
        (PAGE, PAGE),
        (4 * PAGE, PAGE),
        (5 * PAGE, PAGE),
        (0, 2 * PAGE),
    ] {
        let gone = ours.remove_region(GuestAddress(base), size, None);
        assert!(
            matches!(gone, Err(RegionError::NotARegion { .. })),
            "{base:#x}"
        );
    }
    // Nor by the way of who maps in the space, RAM or ROM; and what is mapped there by
    // hand is no memory for these traits, which would go on at 0.
    let last = AddrRange::inclusive(u64::MAX - PAGE + 1, u64::MAX).unwrap();
    let out = |e| matches!(e, Err(WriteError::OutOfSpace { .. }));
    assert!(out(ours.space().map_ram(last, memory(PAGE))));
    assert!(out(ours.space().map_rom(last, memory(PAGE))));
    let flags = VmFlags::READ | VmFlags::WRITE;
    let backing = Backing::Ram(memory(PAGE));
    ours.space().mm().map(last, flags, 0, backing).unwrap();
    let across = GuestAddress(u64::MAX - 3);
    assert!(ours.memory().write(&[1; 8], across).is_err());
    assert!(ours.dma().memory().write(&[1; 8], across).is_err());
    assert_eq!(ours.memory().read_obj::<u8>(GuestAddress(0)).unwrap(), 0);
    assert_eq!(ours.memory().last_addr().0, 6 * PAGE - 1);
    assert_eq!(ours.memory().num_regions(), 2);
    let sizes: Vec<_> = ours.memory().iter().map(GuestMemoryRegion::len).collect();
    assert_eq!(sizes, [PAGE, 2 * PAGE]);
}

/// 11. Of anonymous memory it is known that it is not of huge pages.
#[test]
fn whether_it_is_of_huge_pages_is_known() {
    let theirs = theirs(&[(0, PAGE)]).memory();
    let region = theirs.find_region(GuestAddress(0)).unwrap();
    assert_eq!(region.is_hugetlbfs(), None);
    let ours = ram(&[(0, PAGE)]).memory();
    let region = ours.find_region(GuestAddress(0)).unwrap();
    assert_eq!(region.is_hugetlbfs(), Some(false));
}

/// 12. Neighbours of one mapping are one region, without a seam.
#[test]
fn neighbours_of_one_mapping_are_one_region() {
    let ours = ram(&[]);
    let both = memory(2 * PAGE);
    for base in [0, PAGE] {
        let range = AddrRange::new(base, PAGE).unwrap();
        let flags = VmFlags::READ | VmFlags::WRITE;
        let backing = Backing::Ram(both.clone());
        ours.space().mm().map(range, flags, base, backing).unwrap();
    }
    let memory = ours.memory();
    assert_eq!(memory.num_regions(), 1);
    let across = GuestAddress(PAGE - 4);
    assert!(memory.get_slice(across, 8).is_ok());
}

/// 13. A part of a region has no file offset of its own, where it was split off.
#[test]
fn a_part_of_a_region_lends_no_file_offset() {
    let sizes = RamSizes {
        boot: 2 * PAGE,
        hotplug: 0,
        block: PAGE,
    };
    let options = RamOptions {
        backend: Backend::Memfd,
        ..RamOptions::default()
    };
    let source = RamSource::open(options, sizes).unwrap();
    let ours = ram(&[]);
    let whole = Arc::new(source.map_boot(0, 2 * PAGE).unwrap());
    ours.insert_region(GuestAddress(0), whole).unwrap();
    let mut section = ours.space().mm().mmap_write_lock().unwrap();
    let second = AddrRange::new(PAGE, PAGE).unwrap();
    section.protect(second, VmFlags::READ).unwrap();
    section.lock().unwrap().publish();
    let memory = ours.memory();
    let region = |at| memory.find_region(GuestAddress(at)).unwrap();
    assert!(region(0).file_offset().is_some());
    assert!(region(PAGE).file_offset().is_none());
    assert_eq!(region(PAGE).offset(), PAGE, "which tells where it is");
}

/// 14. Who is changing a region finds nothing there, instead of waiting for itself.
#[test]
fn ones_own_section_hides_what_it_changes() {
    let ours = ram(&[(0, PAGE), (4 * PAGE, PAGE)]);
    let seen = |at| reads(&*ours.memory(), at);
    let mut found = None;
    ours.remove_region_with(GuestAddress(0), PAGE, None, || {
        found = Some((seen(0), seen(4 * PAGE)));
        Ok::<_, RegionError>(())
    })
    .unwrap();
    assert_eq!(found, Some((false, true)));
}
