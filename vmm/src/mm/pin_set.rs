//! Sets of pins that grow as they are used.
//!
//! What a pin is for one VMA, a set is for whatever an operation comes by: it looks
//! up, pins what it finds, and hands it out for as long as the set is there. What it
//! has pinned it finds again without a lookup, and presents to each lookup as
//! evidence of what it already holds.
//!
//! A set may be shared between threads, and yet taking up the first few pins is nothing
//! but two stores: only the thread that made it does that, known by its record, into
//! places that are filled once and looked at by anybody. Where there are more, or other
//! threads look up through it, it takes to tables, and to entries that are
//! [lent](super::annex) to it. The space is kept by a
//! [lease](super::lease), not by a count.

use std::cell::Cell;
use std::fmt;
use std::ptr;

use super::annex::Annex;
use super::core::Core;
use super::entry::Entry;
use super::local;
use super::lookup::{Ended, Held};
use super::pin_table::{PinTable, Place};
use super::record::Record;
use super::slot::Slot;
use super::sync::atomic::{AtomicPtr, Ordering};
use super::sync::{MODEL, Mutex, lock, mutant};
use super::{AddrRange, AddressSpace, LookupError, LookupPath, Payload, Vma, VmaInfo, WaitOptions};

/// Pins that a set has room for in itself.
const FEW: usize = if MODEL { 1 } else { 2 };

/// What a lookup has come by.
enum Found<'a, T> {
    /// It is pinned.
    Wanted(&'a Vma<T>),
    /// A VMA with these addresses, which is not pinned.
    Unwanted(AddrRange),
    Nothing,
}

impl<'a, T> Found<'a, T> {
    #[inline(always)]
    fn wanted(self) -> Option<&'a Vma<T>> {
        match self {
            Self::Wanted(vma) => Some(vma),
            Self::Unwanted(_) | Self::Nothing => None,
        }
    }
}

/// Pins of one address space, made by [`AddressSpace::pin_set`], taken up as they are
/// asked for, and held until the set is dropped.
///
/// A drain waits for them as it does for a [`VmaPin`](super::VmaPin), and reports
/// each under the name of the thread that asked for it; of the VMAs that the set has
/// not come by it delays no writer. As with a pin, a section that this thread opens
/// does not know of it, and would wait for ever (or until its deadline) where it
/// wants what the set holds.
///
/// In a space of strategy [`Retry`](super::Strategy::Retry), [`Pin`](super::Strategy::Pin)
/// or [`Rwlock`](super::Strategy::Rwlock) what it holds is evidence of nothing: a lookup
/// that finds a writer waits for the map lock, and where that writer waits for the set,
/// for ever.
///
/// May be shared and sent. A set that is forgotten (`mem::forget`) holds its VMAs for
/// ever, and leaks the space. It costs least on the thread that made it. It keeps the
/// address space alive.
pub struct PinSet<T: Payload> {
    /// There as long as the lease is.
    core: *const Core<T>,
    /// Where the lease was begun: of the thread that made the set, which alone fills
    /// `few` and `rest.more`. Should it be another thread's by now, that one has acquired
    /// what this one did, and this one has it no longer.
    owner: *const Record,
    /// Filled from the first to the last.
    few: [Place<T>; FEW],
    /// Null as long as there is nothing in it.
    rest: AtomicPtr<Rest<T>>,
}

/// What few sets need.
struct Rest<T> {
    /// More pins of the owner's.
    more: PinTable<T>,
    /// What other threads have asked for.
    others: Mutex<PinTable<T>>,
    /// Where all these are said: what it was lent last, by any record; null as long as
    /// it has been lent nothing.
    annex: AtomicPtr<Annex>,
}

// SAFETY: as for `VmaPin`: VMAs may be shared and sent, entries may be cleared from
// any thread, and places, atomic, are filled by one thread at a time. The core is
// shared between threads at any rate.
unsafe impl<T: Payload> Send for PinSet<T> {}
// SAFETY: as above.
unsafe impl<T: Payload> Sync for PinSet<T> {}

impl<T: Payload> AddressSpace<T> {
    /// An empty set of pins. Allocates nothing (but the calling thread's record, the
    /// first time), waits for nobody, and writes no cache line that other threads write.
    #[inline(always)]
    pub fn pin_set(&self) -> PinSet<T> {
        PinSet::new(&self.core)
    }
}

impl<T: Payload> PinSet<T> {
    #[inline(always)]
    fn new(core: &Core<T>) -> Self {
        Self::begin(core, core.record().get())
    }

    /// An empty one of the calling thread, whose record that is.
    #[inline(always)]
    fn begin(core: &Core<T>, record: &Record) -> Self {
        record.leases.begin();
        Self {
            core,
            owner: record,
            few: Place::some(),
            rest: AtomicPtr::new(ptr::null_mut()),
        }
    }

    #[inline(always)]
    fn core(&self) -> &Core<T> {
        // SAFETY: kept by the lease, until the drop.
        unsafe { &*self.core }
    }

    fn rest(&self) -> Option<&Rest<T>> {
        // SAFETY: null or made by `Box::into_raw`, and freed by the drop only.
        unsafe { self.rest.load(Ordering::Acquire).as_ref() }
    }

    #[cold]
    fn make_rest(&self) -> &Rest<T> {
        let made = Box::into_raw(Box::new(Rest {
            more: PinTable::new(),
            others: Mutex::new(PinTable::new()),
            annex: AtomicPtr::default(),
        }));
        let order = (Ordering::AcqRel, Ordering::Acquire);
        let null = ptr::null_mut();
        match self.rest.compare_exchange(null, made, order.0, order.1) {
            // SAFETY: as in `rest`.
            Ok(_) => unsafe { &*made },
            Err(first) => {
                // SAFETY: nobody else has seen it.
                drop(unsafe { Box::from_raw(made) });
                // SAFETY: as in `rest`.
                unsafe { &*first }
            }
        }
    }

    /// The VMA that covers `addr`, pinned: as
    /// [`lock_vma_under_rcu_wait`](AddressSpace::lock_vma_under_rcu_wait), but held
    /// until the set is dropped, and with all that the set holds for evidence.
    #[inline(always)]
    pub fn lock_vma_under_rcu_wait(&self, addr: u64) -> Result<Option<&Vma<T>>, LookupError> {
        self.lock_vma_if(addr, |_| true)
    }

    /// The same, but only if it is wanted: what is not is neither pinned nor returned.
    #[inline(always)]
    pub fn lock_vma_if(
        &self,
        addr: u64,
        wanted: impl Fn(&Vma<T>) -> bool,
    ) -> Result<Option<&Vma<T>>, LookupError> {
        if self.few[0].slot().is_null() {
            if let Some(vma) = self.pin_quickly(&self.few[0], addr, &wanted) {
                return Ok(Some(vma));
            }
        } else if let Some(slot) = self.among_few(addr) {
            let vma = self.vma(slot);
            return Ok(wanted(vma).then_some(vma));
        }
        self.look_up_plainly(addr, wanted)
    }

    /// The first lookups of most sets: by the thread that made it, of what is there and
    /// wanted, with no section open, into `place`, which is empty. `None` if it is not
    /// that.
    #[inline(always)]
    fn pin_quickly(
        &self,
        place: &Place<T>,
        addr: u64,
        wanted: impl FnOnce(&Vma<T>) -> bool,
    ) -> Option<&Vma<T>> {
        // SAFETY: lives as long as the registry, which the core keeps.
        let owner = unsafe { &*self.owner };
        if !local::has_claimed(owner) {
            return None;
        }
        let (entry, slot) = self.core().pin_between_sections(owner, addr, wanted)?;
        if !place.slot().is_null() {
            // Who was asked has looked something up by this very set.
            self.core().unpin(slot, entry);
            return None;
        }
        place.fill(slot, entry);
        Some(self.vma(slot))
    }

    #[inline(never)]
    fn look_up_plainly(
        &self,
        addr: u64,
        wanted: impl Fn(&Vma<T>) -> bool,
    ) -> Result<Option<&Vma<T>>, LookupError> {
        if let Some(second) = self.few.get(1)
            && second.slot().is_null()
            && !self.few[0].slot().is_null()
            && let Some(vma) = self.pin_quickly(second, addr, &wanted)
        {
            return Ok(Some(vma));
        }
        let options = WaitOptions::default();
        let found = self.look_up(addr, wanted, options, &mut LookupPath::default());
        found.map(Found::wanted)
    }

    /// As [`lock_vma_under_rcu_wait`](Self::lock_vma_under_rcu_wait), with what may end
    /// the wait, and an account of it; see
    /// [`AddressSpace::lock_vma_under_rcu_wait_with`].
    pub fn lock_vma_under_rcu_wait_with(
        &self,
        addr: u64,
        options: WaitOptions<'_>,
        path: &mut LookupPath,
    ) -> Result<Option<&Vma<T>>, LookupError> {
        *path = LookupPath::default();
        match self.among_few(addr) {
            Some(slot) => Ok(Some(self.vma(slot))),
            None => self
                .look_up(addr, |_| true, options, path)
                .map(Found::wanted),
        }
    }

    /// The first wanted VMA that covers `addr` or comes after it, pinned; as
    /// [`AddressSpace::lock_next_vma`]. What is not wanted is passed over, and not
    /// pinned.
    pub fn lock_next_vma_if(
        &self,
        addr: u64,
        mut wanted: impl FnMut(&Vma<T>) -> bool,
    ) -> Result<Option<&Vma<T>>, LookupError> {
        let core = self.core();
        let record = core.record();
        let mut from = addr;
        while let Some(at) = core.next_mapped(record.get(), from) {
            let options = WaitOptions::default();
            // A section may put something before it; if so, it is not pinned.
            let is_next = Cell::new(true);
            let mut wanted = |vma: &Vma<T>| {
                let is_wanted = wanted(vma);
                is_next.set(core.next_mapped(record.get(), from) == Some(at));
                is_wanted && is_next.get()
            };
            let found = match self.among_few(at) {
                Some(slot) if wanted(self.vma(slot)) => Found::Wanted(self.vma(slot)),
                Some(slot) => Found::Unwanted(self.vma(slot).range()),
                None => self.look_up(at, wanted, options, &mut LookupPath::default())?,
            };
            match found {
                Found::Wanted(vma) => return Ok(Some(vma)),
                // Another look.
                Found::Nothing => {}
                Found::Unwanted(_) if !is_next.get() => {}
                Found::Unwanted(range) => match range.end() {
                    Some(end) => from = end,
                    None => break,
                },
            }
        }
        Ok(None)
    }

    /// What is mapped in `range`, none of which is pinned by this; as
    /// [`AddressSpace::vmas`].
    pub fn vmas(&self, range: AddrRange) -> Vec<VmaInfo> {
        let core = self.core();
        core.bare_walk(core.record().get(), range)
    }

    /// Another set of the same space, which is empty.
    #[inline]
    pub fn another(&self) -> Self {
        Self::new(self.core())
    }

    /// How many VMAs it holds; one that several threads asked for may count twice.
    pub fn len(&self) -> usize {
        let mut len = 0;
        self.for_each(|_, _| len += 1);
        len
    }

    /// Whether it holds nothing yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline(always)]
    fn vma(&self, slot: *const Slot<T>) -> &Vma<T> {
        // SAFETY: pinned, until the set is dropped.
        unsafe { (*slot).vma() }
    }

    /// What covers `addr`, if it is among the first pins.
    #[inline(always)]
    fn among_few(&self, addr: u64) -> Option<*const Slot<T>> {
        for place in &self.few {
            let slot = place.slot();
            // SAFETY: null or pinned.
            match unsafe { slot.as_ref() } {
                None => return None,
                Some(it) if it.range().contains(addr) => return Some(slot),
                Some(_) => {}
            }
        }
        None
    }

    #[inline]
    fn look_up(
        &self,
        addr: u64,
        wanted: impl FnOnce(&Vma<T>) -> bool,
        options: WaitOptions<'_>,
        path: &mut LookupPath,
    ) -> Result<Found<'_, T>, LookupError> {
        let core = self.core();
        let local = core.record();
        let holds_member = |seq| self.holds_member(seq);
        let is_owner = ptr::eq(local.get(), self.owner);
        let few = is_owner && self.few.iter().any(|place| place.slot().is_null());
        let entry = (!few && !core.strategy.is_aside()).then(|| self.entry_in_annex(local.get()));
        let at = (entry, addr);
        let found = core.pinning_lookup(local.get(), at, Some(&holds_member), options, path);
        let held = match found {
            Ok(held) => held,
            Err(Ended::Missing) => return Ok(Found::Nothing),
            Err(Ended::Failed(error)) => return Err(error),
        };
        // SAFETY: held.
        if !unsafe { core.is_wanted(&held, wanted) } {
            let range = held.slot.range();
            core.put_back(held);
            return Ok(Found::Unwanted(range));
        }
        let slot = ptr::from_ref(held.slot);
        if !is_owner {
            self.take_in_for_another(held);
        } else if let Some(place) = self.few.iter().find(|place| place.slot().is_null()) {
            // What is among them has been looked for.
            place.fill(slot, core.pin(held));
        } else {
            let more = &self.rest().unwrap_or_else(|| self.make_rest()).more;
            if more.contains(slot) {
                core.put_back(held);
            } else {
                more.insert(slot, core.pin(held));
            }
        }
        Ok(Found::Wanted(self.vma(slot)))
    }

    /// Pins what is pinned besides, by `addr` in it. For the owner, with its record.
    fn copy_pin(&self, record: &Record, slot: *const Slot<T>, addr: u64) {
        let is_there = |place: &Place<T>| ptr::eq(place.slot(), slot);
        if self.few.iter().any(is_there) {
            return;
        }
        if let Some(place) = self.few.iter().find(|place| place.slot().is_null()) {
            let entry = record.vacant_beside();
            entry.pin_at(addr);
            return place.fill(slot, entry);
        }
        let more = &self.rest().unwrap_or_else(|| self.make_rest()).more;
        if !more.contains(slot) {
            let entry = self.entry_in_annex(record);
            entry.pin_at(addr);
            more.insert(slot, entry);
        }
    }

    /// An empty entry of `record`, the calling thread's, that the set is lent. The
    /// annexes of one record fill up one after the other.
    fn entry_in_annex(&self, record: &Record) -> &Entry {
        let rest = self.rest().unwrap_or_else(|| self.make_rest());
        let mut annex = rest.annex.load(Ordering::Acquire);
        // SAFETY: null or lent to this set, until it is dropped.
        while let Some(this) = unsafe { annex.as_ref() } {
            if ptr::eq(this.record(), record) {
                match this.vacant() {
                    Some(entry) => return entry,
                    None => break,
                }
            }
            annex = this.next.load(Ordering::Relaxed);
        }
        let annex = record.annexes().lend(record);
        // SAFETY: just lent, as above.
        let this = unsafe { &*annex };
        let mut next = rest.annex.load(Ordering::Relaxed);
        loop {
            this.next.store(next, Ordering::Relaxed);
            let order = (Ordering::AcqRel, Ordering::Relaxed);
            match rest.annex.compare_exchange(next, annex, order.0, order.1) {
                Ok(_) => break,
                Err(now) => next = now,
            }
        }
        this.vacant().expect("nothing is in it yet")
    }

    /// Takes up what a thread has found that did not make the set.
    #[cold]
    fn take_in_for_another(&self, held: Held<'_, T>) {
        let core = self.core();
        let slot = ptr::from_ref(held.slot);
        let rest = self.rest().unwrap_or_else(|| self.make_rest());
        let others = lock(&rest.others);
        if others.contains(slot) || rest.more.contains(slot) {
            core.put_back(held);
        } else {
            others.insert(slot, core.pin(held));
        }
    }

    /// Whether it holds a member of the write set of section `seq`.
    #[cold]
    fn holds_member(&self, seq: u64) -> bool {
        let mut holds = false;
        self.for_each(|slot, _| {
            // SAFETY: pinned.
            holds |= unsafe { &*slot }.is_locked(seq);
        });
        holds && !mutant("admit-set")
    }

    fn for_each(&self, mut each: impl FnMut(*const Slot<T>, *const Entry)) {
        let few = self.few.iter().map_while(Place::pin);
        few.for_each(|(slot, entry)| each(slot, entry));
        if let Some(rest) = self.rest() {
            rest.more.for_each(&mut each);
            lock(&rest.others).for_each(each);
        }
    }
}

impl<T: Payload> Clone for PinSet<T> {
    /// A set of the calling thread's that has pinned all that this one has.
    fn clone(&self) -> Self {
        let core = self.core();
        let local = core.record();
        let copy = Self::begin(core, local.get());
        let mut any = false;
        if mutant("moves-first") {
            core.count_move();
        }
        self.for_each(|slot, entry| {
            // SAFETY: lives as long as the registry, which the core keeps.
            let addr = unsafe { &*entry }.addr();
            copy.copy_pin(local.get(), slot, addr);
            any = true;
        });
        // As with the copy of a pin: these keep a drain from ending until they are
        // dropped, and by then it knows that it has to look again.
        if any && !mutant("moves-first") {
            core.count_move();
        }
        copy
    }
}

impl<T: Payload> Drop for PinSet<T> {
    #[inline(always)]
    fn drop(&mut self) {
        let core = self.core();
        for place in &self.few {
            let Some((slot, entry)) = place.pin() else {
                break;
            };
            core.unpin(slot, entry);
        }
        if !self.rest.load(Ordering::Relaxed).is_null() {
            self.drop_rest();
        }
        // SAFETY: lives as long as the registry, which the core keeps.
        let is_mine = local::has_claimed(unsafe { &*self.owner });
        // SAFETY: begun by `new`, and this is the end.
        unsafe { Core::end_lease(self.core, self.owner, is_mine) };
    }
}

impl<T: Payload> PinSet<T> {
    #[cold]
    fn drop_rest(&mut self) {
        // SAFETY: made by `Box::into_raw`, and nobody else has the set.
        let rest = unsafe { Box::from_raw(self.rest.load(Ordering::Acquire)) };
        let core = self.core();
        let unpin = |slot, entry| core.unpin(slot, entry);
        rest.more.for_each(unpin);
        lock(&rest.others).for_each(unpin);
        let mut annex = rest.annex.load(Ordering::Acquire);
        // SAFETY: null or lent to this set.
        while let Some(this) = unsafe { annex.as_ref() } {
            let next = this.next.load(Ordering::Relaxed);
            // SAFETY: lives as long as the registry, which the core keeps.
            unsafe { &*this.record() }.annexes().take_back(annex);
            annex = next;
        }
    }
}

impl<T: Payload> fmt::Debug for PinSet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ranges = Vec::new();
        self.for_each(|slot, _| ranges.push(self.vma(slot).range()));
        f.debug_struct("PinSet")
            .field("ranges", &ranges)
            .finish_non_exhaustive()
    }
}
