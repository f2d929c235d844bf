//! RAM that KVM has no slot for yet: it gets one before its bytes are reached.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use gracefault::memory::vm_memory::{GuestRam, RegionError};
use gracefault::memory::{LazyRam, LazySlot, PutInError};
use gracefault::mm::AddrRange;
use vm_memory::{
    Bytes, GuestAddress, GuestAddressSpace, GuestMemory, GuestMemoryBackend, GuestMemoryError,
    GuestMemoryRegion, MemoryRegionAddress, Permissions,
};

use super::{PAGE, memory, ram};

/// Counts how often it is asked for, and can refuse.
#[derive(Default)]
struct Slot {
    asked: AtomicU32,
    refuses: bool,
}

impl LazySlot for Slot {
    fn put_in(&self) -> Result<bool, PutInError> {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        match self.refuses {
            true => Err(PutInError { errno: 12 }),
            false => Ok(asked == 0),
        }
    }
}

fn lazy(refuses: bool) -> (GuestRam, Arc<Slot>) {
    let ram = ram(&[(0, PAGE)]);
    let slot = Arc::new(Slot {
        refuses,
        ..Slot::default()
    });
    let lazy = LazyRam {
        memory: memory(PAGE),
        slot: slot.clone(),
    };
    let range = AddrRange::new(PAGE, PAGE).unwrap();
    ram.space().map_lazy_ram(range, lazy).unwrap();
    (ram, slot)
}

/// (Difference 15.)
#[test]
fn the_slot_goes_in_before_the_bytes_are_reached() {
    type Access = fn(&GuestRam) -> bool;
    let accesses: [Access; 4] = [
        |ram| {
            let across = GuestAddress(PAGE - 8);
            ram.memory().write_slice(&[1; 16], across).is_ok()
        },
        |ram| {
            let device = ram.dma().memory();
            device.read_obj::<u64>(GuestAddress(PAGE)).is_ok()
        },
        |ram| ram.memory().get_host_address(GuestAddress(PAGE)).is_ok(),
        |ram| {
            let memory = ram.memory();
            memory
                .iter()
                .all(|region| region.as_volatile_slice().is_ok())
        },
    ];
    for access in accesses {
        let (ram, slot) = lazy(false);
        assert!(access(&ram));
        assert_eq!(slot.asked.load(Ordering::Relaxed), 1);
    }
}

/// Who only asks what there is reaches nothing.
#[test]
fn a_look_at_the_regions_puts_nothing_in() {
    let (ram, slot) = lazy(true);
    let memory = ram.memory();
    assert_eq!(
        memory.iter().map(GuestMemoryRegion::len).sum::<u64>(),
        2 * PAGE
    );
    assert!(memory.address_in_range(GuestAddress(PAGE)));
    assert_eq!(slot.asked.load(Ordering::Relaxed), 0);
}

/// Nor who asks for no bytes, or whether there are any.
#[test]
fn what_reaches_no_byte_puts_nothing_in() {
    let (ram, slot) = lazy(true);
    let (memory, dma) = (ram.memory(), ram.dma().memory());
    let all = 2 * PAGE as usize;
    for access in [Permissions::Read, Permissions::ReadWrite] {
        assert!(GuestMemory::check_range(
            &*dma,
            GuestAddress(0),
            all,
            access
        ));
        assert!(!GuestMemory::check_range(
            &*dma,
            GuestAddress(0),
            all + 1,
            access
        ));
    }
    let region = memory.find_region(GuestAddress(PAGE)).unwrap();
    assert!(region.get_slice(MemoryRegionAddress(0), 0).is_ok());
    assert!(region.get_slice(MemoryRegionAddress(PAGE), 0).is_ok());
    assert!(region.get_slice(MemoryRegionAddress(PAGE), 1).is_err());
    assert_eq!(slot.asked.load(Ordering::Relaxed), 0);
}

/// Its slot is for its own memory.
#[test]
fn lazy_ram_is_not_replaced() {
    let (ram, _) = lazy(false);
    let base = GuestAddress(PAGE);
    let replaced = ram.replace_region(base, memory(PAGE), None);
    assert_eq!(replaced.unwrap_err(), RegionError::Lazy { base: PAGE });
    assert_eq!(ram.memory().num_regions(), 2);
    ram.remove_region(base, PAGE, None).unwrap();
}

/// (Difference 15.)
#[test]
fn a_slot_that_cannot_go_in_is_an_error_of_the_access() {
    let (ram, slot) = lazy(true);
    let error = ram
        .dma()
        .memory()
        .read_obj::<u64>(GuestAddress(PAGE))
        .unwrap_err();
    assert!(matches!(error, GuestMemoryError::IOError(_)), "{error}");
    assert!(error.to_string().contains("memslot"), "{error}");
    let memory = ram.memory();
    let region = memory.find_region(GuestAddress(PAGE)).unwrap();
    assert!(region.write(&[1], MemoryRegionAddress(0)).is_err());
    assert_eq!(slot.asked.load(Ordering::Relaxed), 2);
}
