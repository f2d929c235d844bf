//! Reader records: one per thread and address space.

use std::ptr;

use super::MmStats;
use super::annex::Annexes;
use super::beside::Beside;
use super::entry::{Entry, State};
use super::lease::Leases;
use super::recent::Recent;
use super::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use super::sync::{Life, MODEL, Mutex, lock, mutant, thread, unless};

/// Entries that a record, and each piece of its spill list, has room for.
const ENTRIES: usize = if MODEL { 2 } else { 4 };

/// What a thread does in one address space. The entries, the counters and
/// what it looked up last have cache lines to themselves, since only the owner
/// writes them.
///
/// A record lives until the [`Registry`](super::registry::Registry) is dropped.
/// Threads come and go: a record is *claimed* by one at a time, given back when
/// that thread exits, and claimed again only once it is empty, for a pin may
/// outlive its thread and a forgotten guard holds for ever.
#[repr(C, align(128))]
#[derive(Debug)]
pub(super) struct Record {
    entries: [Entry; ENTRIES],
    /// More entries, for the thread that holds more VMAs than most.
    spill: AtomicPtr<Spill>,
    pub(super) counts: Counts,
    pub(super) recent: Recent,
    beside: Beside,
    pub(super) leases: Leases,
    /// The registry's number.
    pub(super) space: u64,
    cold: Cold,
}

/// What is written when a thread comes or goes.
#[repr(align(128))]
#[derive(Debug)]
struct Cold {
    claimed: AtomicBool,
    /// From its making on; and that of its owner.
    life: Life,
    owner: Life,
    /// How often the owner has claimed it: by its thread-local, and by each
    /// [`Reader`](super::Reader) and [`OwnedReader`](super::OwnedReader). Used by the owner alone.
    claims: AtomicU32,
    /// Lookups begun again: rare, and of one strategy only.
    retries: Count,
    name: Mutex<String>,
    next: AtomicPtr<Record>,
    annexes: Annexes,
}

/// A piece of the spill list. Never freed before the record.
#[derive(Debug)]
pub(super) struct Spill {
    life: Life,
    entries: [Entry; ENTRIES],
    next: AtomicPtr<Spill>,
}

/// Statistics of one record. Only its owner writes them, so that adding is a load
/// and a store.
#[derive(Debug)]
pub(super) struct Counts {
    pub(super) success: Count,
    pub(super) abort: Count,
    pub(super) miss: Count,
    pub(super) wait: Count,
    pub(super) nested: Count,
}

/// A counter with one writer.
#[derive(Debug)]
pub(super) struct Count(AtomicU64);

impl Count {
    /// One more. Returns how many there were before.
    #[inline]
    pub(super) fn add(&self) -> u64 {
        let before = self.0.load(Ordering::Relaxed);
        self.0.store(before.wrapping_add(1), Ordering::Relaxed);
        before
    }
}

impl Record {
    /// A record of that space, which the calling thread has claimed once.
    pub(super) fn new(space: u64) -> Box<Self> {
        let zero = || Count(AtomicU64::new(0));
        Box::new(Self {
            entries: std::array::from_fn(|_| Entry::new()),
            spill: AtomicPtr::new(ptr::null_mut()),
            counts: Counts {
                success: zero(),
                abort: zero(),
                miss: zero(),
                wait: zero(),
                nested: zero(),
            },
            recent: Recent::new(),
            beside: Beside::new(),
            leases: Leases::new(),
            space,
            cold: Cold {
                claimed: AtomicBool::new(true),
                life: Life::begin(),
                owner: Life::begin(),
                claims: AtomicU32::new(1),
                retries: zero(),
                name: Mutex::new(thread_name()),
                next: AtomicPtr::new(ptr::null_mut()),
                annexes: Annexes::new(),
            },
        })
    }

    /// Makes every lookup of its owner look for an entry elsewhere; see
    /// [`strategy`](super::strategy). Before it is published.
    pub(super) fn reserve_first(&self) {
        self.entries[0].reserve();
    }

    /// The first entry, if it is empty.
    #[inline(always)]
    pub(super) fn first(&self) -> Option<&Entry> {
        self.entries[0].is_empty().then_some(&self.entries[0])
    }

    /// An empty entry. Called by the owner only, and what it returns stays empty
    /// until the owner fills it. Allocates when all entries are in use.
    #[inline]
    pub(super) fn vacant(&self) -> &Entry {
        if self.entries[0].is_empty() {
            return &self.entries[0];
        }
        self.vacant_elsewhere()
    }

    #[cold]
    fn vacant_elsewhere(&self) -> &Entry {
        if let Some(entry) = self.entries().find(|entry| entry.is_empty()) {
            return entry;
        }
        // SAFETY: just made, and freed by the record's drop only.
        unsafe { &(*self.grow()).entries[0] }
    }

    /// Adds a piece to the spill list. Called by the owner only.
    fn grow(&self) -> *const Spill {
        let first = self.spill.load(Ordering::Relaxed);
        let piece = Box::into_raw(Box::new(Spill {
            life: Life::begin(),
            entries: std::array::from_fn(|_| Entry::new()),
            next: AtomicPtr::new(first),
        }));
        // Before any of its entries is published with a full fence: a writer that
        // must see the entry sees the piece.
        let order = unless("spill-release", Ordering::Release);
        self.spill.store(piece, order);
        piece
    }

    /// An empty entry that is not the first, for a pin; otherwise as
    /// [`vacant`](Self::vacant). Of operations that pin and let go the time does not
    /// depend on how many are in use besides.
    #[inline(always)]
    pub(super) fn vacant_beside(&self) -> &Entry {
        // Where no pin is parked this is all, and no pointer has to be loaded first.
        self.beside.count_look();
        if self.entries[1].is_empty() {
            return &self.entries[1];
        }
        // SAFETY: null or an entry of this record, which lives as long as it.
        match unsafe { self.beside.last.get().as_ref() } {
            Some(entry) if entry.is_empty() => entry,
            _ => self.next_beside(),
        }
    }

    /// Looks at what was given out lately, or else goes round all entries once, from
    /// where the last search has ended.
    #[cold]
    fn next_beside(&self) -> &Entry {
        let beside = &self.beside;
        if let Some(entry) = beside.again() {
            return entry;
        }
        let (mut piece, mut index) = (beside.piece.get(), beside.index.get() + 1);
        let (mut wrapped, mut pieces) = (false, 0);
        loop {
            // The record itself comes first, then the list from its head on.
            // SAFETY: null or a piece of the list, which lives as long as the record.
            let (entries, next) = match unsafe { piece.as_ref() } {
                Some(piece) => (&piece.entries, &piece.next),
                None => (&self.entries, &self.spill),
            };
            for (i, entry) in entries.iter().enumerate().skip(index) {
                beside.count_look();
                if entry.is_empty() {
                    beside.piece.set(piece);
                    beside.index.set(i);
                    beside.give_out(entry);
                    return entry;
                }
            }
            let next = next.load(Ordering::Relaxed);
            (piece, index) = (next, 0);
            if next.is_null() {
                if wrapped {
                    break;
                }
                // Round again, past the entry that lookups begin with.
                (wrapped, index) = (true, 1);
            }
            pieces += usize::from(wrapped);
        }
        // None in all of them: as many again, so that this is not gone through for
        // each few that come.
        let mut last = ptr::null();
        for _ in 0..pieces.max(1) {
            last = self.grow();
        }
        // SAFETY: just made, as above.
        let entry = unsafe { &(*last).entries[0] };
        beside.piece.set(last);
        beside.index.set(0);
        beside.give_out(entry);
        entry
    }

    /// How many entries its owner has looked at in search of one for a pin.
    #[cfg(all(test, not(any(loom, shuttle))))]
    pub(super) fn looked(&self) -> usize {
        self.beside.looked.get()
    }

    /// Calls `each` for each entry, in use or not: the record's own, and those it has
    /// lent, under a lock. See [`Annexes::each_entry`].
    pub(super) fn each_entry(&self, mut each: impl FnMut(&Entry)) {
        self.entries().for_each(&mut each);
        self.cold.annexes.each_entry(each);
    }

    /// Whether `is` what one of them says.
    pub(super) fn any_entry(&self, mut is: impl FnMut(State, u64) -> bool) -> bool {
        let mut any = false;
        self.each_entry(|entry| {
            let (state, addr) = entry.load();
            any = any || is(state, addr);
        });
        any
    }

    /// What it has lent to sets of pins.
    pub(super) fn annexes(&self) -> &Annexes {
        &self.cold.annexes
    }

    /// All entries of its own, in use or not.
    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.cold.life.touch();
        let mut piece = self.spill.load(unless("spill-acquire", Ordering::Acquire));
        let spilled = std::iter::from_fn(move || {
            // SAFETY: null or a piece that was published by a Release store after
            // it was filled in, and that lives as long as the record.
            let this: &Spill = unsafe { piece.as_ref() }?;
            this.life.touch();
            piece = this.next.load(Ordering::Relaxed);
            Some(&this.entries)
        });
        self.entries.iter().chain(spilled.flatten())
    }

    /// Claims the record for the calling thread, if nobody has it and nothing is
    /// left in it.
    pub(super) fn claim(&self) -> bool {
        let cold = &self.cold;
        let acquire = unless("claim-acquire", Ordering::Acquire);
        if cold.claimed.load(Ordering::Relaxed)
            || cold
                .claimed
                .compare_exchange(false, true, acquire, Ordering::Relaxed)
                .is_err()
        {
            return false;
        }
        let is_empty = || cold.annexes.is_empty() && self.entries().all(Entry::is_unused);
        let empty = mutant("reuse-held") || is_empty();
        if !empty {
            cold.claimed.store(false, Ordering::Release);
            return false;
        }
        cold.owner.own();
        *lock(&cold.name) = thread_name();
        cold.claims.store(1, Ordering::Relaxed);
        true
    }

    /// Claims it once more. Called by the owner only. Panics at 2^32 claims, which only
    /// who forgets readers can come to.
    pub(super) fn claim_again(&self) {
        let claims = self.cold.claims.load(Ordering::Relaxed);
        let more = claims.checked_add(1).expect("fewer readers than 2^32");
        self.cold.claims.store(more, Ordering::Relaxed);
    }

    /// Gives one claim back; with the last one the record is free for others.
    /// Called by the owner only, who does not use it afterwards.
    pub(super) fn unclaim(&self) {
        let claims = self.cold.claims.load(Ordering::Relaxed) - 1;
        self.cold.claims.store(claims, Ordering::Relaxed);
        if claims == 0 {
            self.cold.owner.own();
            let order = unless("claim-release", Ordering::Release);
            self.cold.claimed.store(false, order);
        }
    }

    /// The name of the thread that made what is in it.
    pub(super) fn thread_name(&self) -> String {
        lock(&self.cold.name).clone()
    }

    pub(super) fn next(&self) -> &AtomicPtr<Record> {
        &self.cold.next
    }

    /// Counts a lookup begun again.
    pub(super) fn count_retry(&self) {
        self.cold.retries.add();
    }

    /// Adds its counters to `sum`.
    pub(super) fn count_into(&self, sum: &mut MmStats) {
        let read = |count: &Count| count.0.load(Ordering::Relaxed);
        sum.lookup_success += read(&self.counts.success);
        sum.lookup_abort += read(&self.counts.abort);
        sum.lookup_miss += read(&self.counts.miss);
        sum.lookup_wait += read(&self.counts.wait);
        sum.lookup_retry += read(&self.cold.retries);
        sum.nested_admission += read(&self.counts.nested);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let mut piece = self.spill.load(Ordering::Acquire);
        while !piece.is_null() {
            // SAFETY: made by `Box::into_raw`, in this list once, and the record
            // is being dropped, so nobody has a reference into it.
            let this = unsafe { Box::from_raw(piece) };
            piece = this.next.load(Ordering::Relaxed);
        }
    }
}

/// The calling thread's name, or its id where it has none.
fn thread_name() -> String {
    let current = thread::current();
    match current.name() {
        Some(name) => name.to_owned(),
        None => format!("{:?}", current.id()),
    }
}
