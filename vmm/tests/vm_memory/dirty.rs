//! Which pages have been written to.

use std::sync::Arc;

use gracefault::memory::{HostMemory, Mapping};
use gracefault::mm::VmFlags;
use vm_memory::bitmap::Bitmap;
use vm_memory::{
    Bytes, GuestAddress, GuestAddressSpace, GuestMemory, GuestMemoryBackend, GuestMemoryRegion,
    Permissions,
};

use super::{PAGE, memory, ram};

/// The pages that are marked, of `pages`; and marks none any more.
fn take(memory: &Mapping) -> Vec<usize> {
    let bits = HostMemory::dirty_pages(memory).unwrap().get_and_reset();
    let is_set = |page: &usize| bits[page / 64] >> (page % 64) & 1 == 1;
    (0..64 * bits.len()).filter(is_set).collect()
}

fn tracked(pages: u64) -> Arc<Mapping> {
    Arc::new(Mapping::anonymous(pages * PAGE).unwrap().with_dirty_pages())
}

/// However it is written: by a device, across a seam, by the VMM, through a slice.
#[test]
fn every_write_marks_its_pages_and_no_read_does() {
    let ram = ram(&[(0, PAGE)]);
    let [first, second] = [tracked(100), tracked(4)];
    let base = GuestAddress(PAGE);
    ram.insert_region(base, first.clone()).unwrap();
    ram.insert_region(GuestAddress(101 * PAGE), second.clone())
        .unwrap();
    let (all, device) = (ram.memory(), ram.dma().memory());

    let seam = GuestAddress(101 * PAGE - 4);
    device.write_obj(7_u64, seam).unwrap();
    assert_eq!((take(&first), take(&second)), (vec![99], vec![0]));
    all.write_slice(&[1; 2 * PAGE as usize], GuestAddress(3 * PAGE + 5))
        .unwrap();
    assert_eq!(take(&first), [2, 3, 4]);
    device
        .store(
            1_u32,
            GuestAddress(70 * PAGE),
            std::sync::atomic::Ordering::SeqCst,
        )
        .unwrap();
    assert_eq!(take(&first), [69]);
    device
        .read_exact_volatile_from(base, &mut &[1_u8; 8][..], 8)
        .unwrap();
    assert_eq!(take(&first), [0]);
    ram.space().write(102 * PAGE, &[1; 8], None).unwrap();
    assert_eq!((take(&first), take(&second)), (vec![], vec![1]));
    let slices = device.get_slices(GuestAddress(103 * PAGE), 8, Permissions::Write);
    for slice in slices.unwrap() {
        slice.unwrap().copy_from(&[1_u8; 8]);
    }
    assert_eq!(take(&second), [2]);

    device.read_obj::<[u8; 32]>(seam).unwrap();
    all.read_slice(&mut [0; 64], base).unwrap();
    ram.space().read(PAGE, &mut [0; 8], None).unwrap();
    assert_eq!((take(&first), take(&second)), (vec![], vec![]));
}

/// A region's bitmap is its part of its memory's.
#[test]
fn a_part_of_a_region_has_its_part_of_the_bitmap() {
    let ram = ram(&[]);
    let whole = tracked(8);
    ram.insert_region(GuestAddress(0), whole.clone()).unwrap();
    let mut section = ram.space().mm().mmap_write_lock().unwrap();
    let part = gracefault::mm::AddrRange::new(2 * PAGE, 2 * PAGE).unwrap();
    section.protect(part, VmFlags::READ).unwrap();
    section.lock().unwrap().publish();

    let memory = ram.memory();
    let region = memory.find_region(GuestAddress(3 * PAGE)).unwrap();
    assert_eq!((region.start_addr().0, region.len()), (2 * PAGE, 2 * PAGE));
    region
        .write_obj(7_u64, vm_memory::MemoryRegionAddress(PAGE))
        .unwrap();
    assert!(region.bitmap().dirty_at(PAGE as usize) && !region.bitmap().dirty_at(0));
    assert_eq!(take(&whole), [3]);
    // And a device may not write it any more.
    assert!(
        ram.dma()
            .memory()
            .write_obj(7_u64, GuestAddress(3 * PAGE))
            .is_err()
    );
    assert_eq!(take(&whole), [] as [usize; 0]);
}

/// What is not tracked says so. (Difference 10.)
#[test]
fn without_tracking_there_is_no_bitmap() {
    let ram = ram(&[]);
    ram.insert_region(GuestAddress(0), memory(PAGE)).unwrap();
    let memory = ram.memory();
    memory.write_obj(7_u64, GuestAddress(0)).unwrap();
    let region = memory.find_region(GuestAddress(0)).unwrap();
    assert!(region.bitmap().is_none() && !region.bitmap().dirty_at(0));
    assert_eq!(region.is_hugetlbfs(), Some(false));
    assert!(region.file_offset().is_none());
}
