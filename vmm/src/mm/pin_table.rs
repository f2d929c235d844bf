//! The pins of a set that has many.

use std::ptr;

use super::entry::Entry;
use super::slot::Slot;
use super::sync::MODEL;
use super::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// Places in the first table.
const SMALLEST: usize = if MODEL { 2 } else { 16 };

/// A place for a pin: what it holds, and where that is said. Empty while `slot` is
/// null; filled once.
pub(super) struct Place<T> {
    slot: AtomicPtr<Slot<T>>,
    entry: AtomicPtr<Entry>,
}

impl<T> Place<T> {
    #[inline(always)]
    pub(super) fn empty() -> Self {
        Self {
            slot: AtomicPtr::new(ptr::null_mut()),
            entry: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// Some of them. Made as a constant where that can be: what is stored place by
    /// place, and then moved as a whole, waits for the stores.
    #[inline(always)]
    pub(super) fn some<const N: usize>() -> [Self; N] {
        #[cfg(not(any(loom, shuttle)))]
        return [const {
            Self {
                slot: AtomicPtr::new(ptr::null_mut()),
                entry: AtomicPtr::new(ptr::null_mut()),
            }
        }; N];
        #[cfg(any(loom, shuttle))]
        std::array::from_fn(|_| Self::empty())
    }

    /// What it holds; null if nothing. Acquires the making of the slot, for who did
    /// not look it up.
    #[inline(always)]
    pub(super) fn slot(&self) -> *const Slot<T> {
        self.slot.load(Ordering::Acquire)
    }

    /// Fills it. By one thread at a time.
    #[inline(always)]
    pub(super) fn fill(&self, slot: *const Slot<T>, entry: *const Entry) {
        self.entry.store(entry.cast_mut(), Ordering::Relaxed);
        self.slot.store(slot.cast_mut(), Ordering::Release);
    }

    /// What was filled in.
    #[inline(always)]
    pub(super) fn pin(&self) -> Option<(*const Slot<T>, *const Entry)> {
        let slot = self.slot();
        let entry = self.entry.load(Ordering::Relaxed);
        (!slot.is_null()).then_some((slot, entry))
    }
}

/// Pins by what they hold: one thread adds, any looks. Hashed, since a set may have
/// thousands, and is asked each time that it is used.
pub(super) struct PinTable<T> {
    /// Null as long as there are none.
    newest: AtomicPtr<Table<T>>,
}

struct Table<T> {
    /// A power of two of them, at most half of them in use.
    places: Box<[Place<T>]>,
    /// In use. For the one who adds.
    used: AtomicUsize,
    /// The one before, a quarter as large: somebody may still be looking into it.
    older: *mut Table<T>,
}

impl<T> Table<T> {
    fn new(len: usize, older: *mut Table<T>) -> Box<Self> {
        Box::new(Self {
            places: (0..len).map(|_| Place::empty()).collect(),
            used: AtomicUsize::new(0),
            older,
        })
    }

    /// The place of `slot`, or where it would be.
    fn place(&self, slot: *const Slot<T>) -> &Place<T> {
        let mask = self.places.len() - 1;
        // Slots are 64 bytes apart at least. The upper half of the product depends on
        // all bits of what is multiplied.
        let hash = (slot as u64 >> 6).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // A model has to run the same way twice, wherever slots are.
        let mut at = if MODEL {
            0
        } else {
            (hash >> 32) as usize & mask
        };
        loop {
            let place = &self.places[at];
            if place.slot().is_null() || ptr::eq(place.slot(), slot) {
                return place;
            }
            at = (at + 1) & mask;
        }
    }
}

impl<T> PinTable<T> {
    pub(super) fn new() -> Self {
        Self {
            newest: AtomicPtr::new(ptr::null_mut()),
        }
    }

    fn newest(&self) -> Option<&Table<T>> {
        // SAFETY: null or made by `Box::into_raw`, and freed by the drop only.
        unsafe { self.newest.load(Ordering::Acquire).as_ref() }
    }

    pub(super) fn contains(&self, slot: *const Slot<T>) -> bool {
        let table = self.newest();
        table.is_some_and(|table| !table.place(slot).slot().is_null())
    }

    /// Adds a pin of what is not in it. By one thread at a time.
    pub(super) fn insert(&self, slot: *const Slot<T>, entry: *const Entry) {
        let table = match self.newest() {
            Some(table) if 2 * table.used.load(Ordering::Relaxed) < table.places.len() => table,
            full => self.grow(full),
        };
        let used = table.used.load(Ordering::Relaxed);
        table.used.store(used + 1, Ordering::Relaxed);
        table.place(slot).fill(slot, entry);
    }

    fn grow(&self, full: Option<&Table<T>>) -> &Table<T> {
        let len = full.map_or(SMALLEST, |full| 4 * full.places.len());
        let larger = Table::new(len, self.newest.load(Ordering::Relaxed));
        for place in full.into_iter().flat_map(|full| &full.places) {
            let slot = place.slot();
            if !slot.is_null() {
                let entry = place.entry.load(Ordering::Relaxed);
                larger.place(slot).fill(slot, entry);
            }
        }
        let used = full.map_or(0, |full| full.used.load(Ordering::Relaxed));
        larger.used.store(used, Ordering::Relaxed);
        let larger = Box::into_raw(larger);
        self.newest.store(larger, Ordering::Release);
        // SAFETY: just made, and freed by the drop only.
        unsafe { &*larger }
    }

    /// All pins.
    pub(super) fn for_each(&self, mut each: impl FnMut(*const Slot<T>, *const Entry)) {
        let places = self.newest().into_iter().flat_map(|table| &table.places);
        for (slot, entry) in places.filter_map(Place::pin) {
            each(slot, entry);
        }
    }
}

impl<T> Drop for PinTable<T> {
    fn drop(&mut self) {
        let mut table = self.newest.load(Ordering::Acquire);
        while !table.is_null() {
            // SAFETY: made by `Box::into_raw`, in this chain once, and nobody looks
            // into a set that is being dropped.
            table = unsafe { Box::from_raw(table) }.older;
        }
    }
}
