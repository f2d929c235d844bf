//! RAM that KVM hears of at the first access to it (lazy populate).
//!
//! Such RAM is in the map from the plug on, but has no memslot. The first access
//! of the guest therefore exits; the thread that serves it puts the slot in, under
//! the read lock of the VMA, *then* reads or writes the memory. The order matters:
//! back in the guest after a read, with the slot still absent, KVM would make of a
//! `lock` instruction a read and a separate write, and lose what another vCPU
//! stored between the two.
//!
//! No write section is open for that, so nobody else's access waits for it; a
//! second thread at the same VMA waits for the first, by the slot's own mutex. A
//! writer that wants the VMA out waits for both, as for any reader, and takes the
//! slot out if it was ever put in.
//!
//! It is for a guest's data and code. What its processor reads by itself (page
//! tables, descriptor tables, the stack that an exception is delivered on) must have
//! a slot: KVM tells of no exit for those.

use std::io;
use std::sync::Arc;

use super::{AccessError, Backing, GuestSpace, Mapping};
use crate::mm::{
    AddrRange, KillFlag, LookupError, LookupPath, VmFlags, VmaInfo, WaitOptions, WriteError,
};

/// A memslot that is put in when it is first missed.
pub trait LazySlot: Send + Sync {
    /// Puts the slot in, unless it is in already; `true` if this call did it. When
    /// this returns the guest reaches the memory by itself. Blocks while another
    /// thread does the same, and as long as KVM takes; never for a writer of the
    /// map.
    fn put_in(&self) -> Result<bool, PutInError>;
}

/// KVM did not take the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("KVM did not take its memslot: {}", io::Error::from_raw_os_error(*.errno))]
pub struct PutInError {
    /// The system's error.
    pub errno: i32,
}

/// RAM with a memslot that is put in when it is first missed.
#[derive(Clone)]
pub struct LazyRam {
    /// The memory.
    pub memory: Arc<Mapping>,
    /// Its slot, for all of the memory.
    pub slot: Arc<dyn LazySlot>,
}

/// What putting in all missing slots came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Populated {
    /// VMAs of lazy RAM there are.
    pub vmas: usize,
    /// Slots put in by this call.
    pub slots: usize,
}

impl GuestSpace {
    /// Marks the VMAs of lazy RAM, so that a bare walk finds them. It stays when
    /// their access is [changed](crate::mm::WriteSection::protect); who takes it away
    /// leaves the guest without [`put_in_missing`](Self::put_in_missing).
    pub const LAZY: VmFlags = VmFlags::EMBEDDER;

    /// The flags of a new VMA of lazy RAM.
    pub const LAZY_RAM: VmFlags = VmFlags::READ
        .union(VmFlags::WRITE)
        .union(VmFlags::EXEC)
        .union(VmFlags::NOMERGE)
        .union(Self::LAZY);

    /// Maps RAM whose slot is put in when it is first missed, in a write section of
    /// its own.
    ///
    /// # Errors
    ///
    /// As [`map_ram`](Self::map_ram).
    ///
    /// # Panics
    ///
    /// As [`map_ram`](Self::map_ram) does.
    pub fn map_lazy_ram(&self, range: AddrRange, ram: LazyRam) -> Result<(), WriteError> {
        self.check_memory(range, &ram.memory)?;
        self.mm.map(range, Self::LAZY_RAM, 0, Backing::Lazy(ram))
    }

    /// Puts in every slot of lazy RAM that is missing: for an exit that does not
    /// say which one it missed. Blocks while a writer is changing such a VMA, or that of
    /// another plugged block, whose slot it may have taken out and be about to put in
    /// again; `kill` ends that wait with an error. Holds one VMA at a time, and none
    /// while it waits.
    ///
    /// # Errors
    /// [`AccessError::Slot`] if KVM took one of them not, [`AccessError::Lookup`];
    /// the slots that were put in before stay.
    pub fn put_in_missing(&self, kill: Option<&KillFlag>) -> Result<Populated, AccessError> {
        let mut populated = Populated::default();
        let all = self.mm.vmas(self.mm.range());
        let is_block = |info: &&VmaInfo| {
            info.flags.contains(VmFlags::NOMERGE) || info.flags.contains(Self::LAZY)
        };
        for info in all.iter().filter(is_block) {
            let addr = info.range.start();
            let options = WaitOptions {
                kill,
                ..WaitOptions::default()
            };
            let lookup = |error: LookupError| AccessError::Lookup { addr, error };
            let mut path = LookupPath::default();
            let found = self
                .mm
                .lock_vma_under_rcu_wait_with(addr, options, &mut path);
            let Some(vma) = found.map_err(lookup)? else {
                // It has left since.
                continue;
            };
            if let Backing::Lazy(ram) = vma.payload() {
                let put_in = ram.slot.put_in();
                let put_in = put_in.map_err(|error| AccessError::Slot { addr, error })?;
                populated.slots += usize::from(put_in);
                populated.vmas += 1;
            }
        }
        Ok(populated)
    }
}

impl std::fmt::Debug for LazyRam {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LazyRam").field(&self.memory).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::memory::{HostMemory, PAGE, Served};

    /// Notes whether it is in; takes a while, so that a second thread comes
    /// meanwhile; refuses if told to.
    #[derive(Default)]
    struct Slow {
        busy: std::sync::Mutex<bool>,
        calls: AtomicU32,
        refuse: AtomicBool,
        sees: std::sync::Mutex<Option<Arc<Mapping>>>,
    }

    impl LazySlot for Slow {
        fn put_in(&self) -> Result<bool, PutInError> {
            self.calls.fetch_add(1, Ordering::Relaxed);
            let mut is_in = self.busy.lock().unwrap();
            if self.refuse.load(Ordering::Relaxed) {
                return Err(PutInError {
                    errno: libc::ENOMEM,
                });
            }
            if let (false, Some(memory)) = (*is_in, &*self.sees.lock().unwrap()) {
                let mut word = [1; 8];
                memory.read(0, &mut word).unwrap();
                assert_eq!(word, [0; 8], "put in before the access");
            }
            std::thread::sleep(Duration::from_millis(5));
            Ok(!std::mem::replace(&mut *is_in, true))
        }
    }

    fn space(slots: &[&Arc<Slow>]) -> GuestSpace {
        let space = GuestSpace::physical(AddrRange::new(0, 1 << 20).unwrap());
        for (i, slot) in slots.iter().enumerate() {
            let memory = Arc::new(Mapping::anonymous(PAGE).unwrap());
            *slot.sees.lock().unwrap() = Some(memory.clone());
            let slot: Arc<dyn LazySlot> = (*slot).clone();
            let range = AddrRange::new(i as u64 * PAGE, memory.len()).unwrap();
            space.map_lazy_ram(range, LazyRam { memory, slot }).unwrap();
        }
        space
    }

    #[test]
    fn the_slot_goes_in_first_and_once() {
        let slow = Arc::new(Slow::default());
        let space = space(&[&slow]);
        let put_in = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let access = space.write(8, &[7; 8], None).unwrap();
                    assert_eq!(access.served, Served::Memory);
                    put_in.fetch_add(access.slots, Ordering::Relaxed);
                });
            }
        });
        assert_eq!(put_in.into_inner(), 1);
        let mut word = [0; 8];
        space.read(8, &mut word, None).unwrap();
        assert_eq!(word, [7; 8]);
    }

    /// Also for a device that reads or writes memory.
    #[test]
    fn the_slot_goes_in_for_a_device() {
        let slots = [(); 2].map(|()| Arc::new(Slow::default()));
        let space = space(&slots.each_ref());
        let mut word = [1; 8];
        let read = space.read_memory(8, &mut word, None).unwrap();
        assert_eq!((read.slots, word), (1, [0; 8]));
        let written = space.write_memory(PAGE, &[7; 8], None).unwrap();
        assert_eq!((written.slots, written.served), (1, Served::Memory));
        space.read_memory(PAGE, &mut word, None).unwrap();
        assert_eq!(word, [7; 8]);
        assert_eq!(slots.map(|slot| slot.calls.load(Ordering::Relaxed)), [1, 2]);
    }

    #[test]
    fn a_slot_that_is_refused_is_an_error_and_nothing_is_accessed() {
        let slow = Arc::new(Slow::default());
        slow.refuse.store(true, Ordering::Relaxed);
        let space = space(&[&slow]);
        let error = space.write(0x10, &[7; 8], None).unwrap_err();
        assert!(matches!(error, AccessError::Slot { addr: 0x10, .. }));
        assert!(error.to_string().contains("Cannot allocate"), "{error}");
        assert!(space.put_in_missing(None).is_err());
        slow.refuse.store(false, Ordering::Relaxed);
        let mut word = [1; 8];
        space.read(0x10, &mut word, None).unwrap();
        assert_eq!(word, [0; 8]);
    }

    /// Whatever access they are given: it is lazy RAM for all that.
    #[test]
    fn those_that_were_protected_go_in_too() {
        let slots = [(); 2].map(|()| Arc::new(Slow::default()));
        let space = space(&slots.each_ref());
        for access in [VmFlags::READ, VmFlags::NONE, VmFlags::ACCESS] {
            let mut section = space.mm().mmap_write_lock().unwrap();
            let both = AddrRange::new(0, 2 * PAGE).unwrap();
            section.protect(both, access).unwrap();
            section.lock().unwrap().publish();
            assert_eq!(space.mm().vmas(both).len(), 2, "blocks do not merge");
        }
        let all = Populated { vmas: 2, slots: 2 };
        assert_eq!(space.put_in_missing(None), Ok(all));
    }

    #[test]
    fn all_that_are_missing_go_in_and_no_others() {
        let slots = [(); 3].map(|()| Arc::new(Slow::default()));
        let space = space(&slots.each_ref());
        let ram = Arc::new(Mapping::anonymous(PAGE).unwrap());
        let beside = AddrRange::new(8 * PAGE, PAGE).unwrap();
        space.map_ram(beside, ram).unwrap();
        space.write(PAGE, &[1], None).unwrap();
        let populated = |vmas, slots| Populated { vmas, slots };
        assert_eq!(space.put_in_missing(None), Ok(populated(3, 2)));
        assert_eq!(space.put_in_missing(None), Ok(populated(3, 0)));
        let gone = AddrRange::new(0, 2 * PAGE).unwrap();
        space.mm().unmap(gone, None).unwrap();
        assert_eq!(space.put_in_missing(None), Ok(populated(1, 0)));
    }
}
