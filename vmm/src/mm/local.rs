//! The calling thread: its token, and its records.
//!
//! A thread finds its record in a small cache that needs no destructor, so that
//! the plain lookups cost a load or two more than those through a
//! [`Reader`](super::Reader). What the cache points to is owned by a second
//! thread-local, whose destructor gives the records back; a guard or a pin does
//! not go through either when it is dropped. Where another thread-local's
//! destructor does a lookup after ours has run, the record is claimed for that
//! lookup alone. What such a thread holds keeps its VMA as ever, but the thread is
//! not known for its holder: a lookup inside it is one of a thread that holds
//! nothing, and a section inside it is no error but waits for the thread itself, for
//! ever. See the rules of [`mm`](super).

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::ptr;
use std::sync::Arc;

use super::record::Record;
use super::registry::Registry;

/// How many records a thread finds without a search: spaces are numbered one
/// after the other, so the few of one machine do not collide.
#[cfg(not(any(loom, shuttle)))]
const CACHED: usize = 4;

#[cfg(not(any(loom, shuttle)))]
thread_local! {
    /// The one that was asked for last: most threads go on in one space. Where it is
    /// does not depend on the space, so a processor has it before it knows which space
    /// it is.
    static LAST: Cell<(u64, *const Record)> = const { Cell::new((0, ptr::null())) };
    static CACHE: [Cell<(u64, *const Record)>; CACHED] =
        const { [const { Cell::new((0, ptr::null())) }; CACHED] };
    static TOKEN: Cell<u64> = const { Cell::new(0) };
    static CLAIMS: Claims = const { Claims(RefCell::new(Vec::new())) };
}
#[cfg(any(loom, shuttle))]
super::sync::thread_local! {
    static TOKEN: Cell<u64> = Cell::new(0);
    static CLAIMS: Claims = Claims(RefCell::new(Vec::new()));
}

/// A number for the calling thread that no other thread of the process ever has.
/// Never 0.
pub(super) fn token() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    TOKEN.with(|token| {
        if token.get() == 0 {
            token.set(NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        }
        token.get()
    })
}

/// The records that this thread has claimed.
struct Claims(RefCell<Vec<Claim>>);

struct Claim {
    registry: Arc<Registry>,
    record: *const Record,
}

impl Drop for Claims {
    fn drop(&mut self) {
        #[cfg(not(any(loom, shuttle)))]
        {
            LAST.with(|last| last.set((0, ptr::null())));
            CACHE.with(|cache| cache.iter().for_each(|c| c.set((0, ptr::null()))));
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // SAFETY: the record lives as long as its registry, which is still here;
        // this thread has claimed it.
        unsafe { &*self.record }.unclaim();
    }
}

/// The calling thread's record in a space.
pub(super) struct Local<'a> {
    record: &'a Record,
    /// Claimed for this use only.
    late: bool,
}

impl Deref for Local<'_> {
    type Target = Record;
    #[inline]
    fn deref(&self) -> &Record {
        self.record
    }
}

impl<'a> Local<'a> {
    /// The record itself. A late one may be another thread's by the next lookup;
    /// what is published in it stays until it is cleared, all the same.
    #[inline]
    pub(super) fn get(&self) -> &'a Record {
        self.record
    }
}

impl Drop for Local<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.late {
            self.record.unclaim();
        }
    }
}

/// Whether the calling thread is known, at a glance, to have claimed the record. Not
/// always where it has.
#[inline(always)]
pub(super) fn has_claimed(record: &Record) -> bool {
    #[cfg(not(any(loom, shuttle)))]
    {
        // What the caches point to is claimed by this thread, if it is a record of a
        // space that is there, such as this one's.
        let is_it = |(id, known)| id == record.space && ptr::eq(known, record);
        is_it(LAST.with(Cell::get))
            || is_it(CACHE.with(|cache| cache[record.space as usize % CACHED].get()))
    }
    #[cfg(any(loom, shuttle))]
    {
        let is_it = |claim: &Claim| ptr::eq(claim.record, record);
        with_claims(|claims| claims.0.borrow().iter().any(is_it)).unwrap_or(false)
    }
}

/// The calling thread's record in the registry, whose number `id` is; claims one on the
/// first call. Which of them it is can be told without a look at the registry.
#[inline(always)]
pub(super) fn record_in(id: u64, registry: &Arc<Registry>) -> Local<'_> {
    debug_assert_eq!(id, registry.id);
    #[cfg(not(any(loom, shuttle)))]
    {
        let (last, record) = LAST.with(Cell::get);
        if id == last {
            // SAFETY: ids are never used twice, so this is a record of this very
            // registry, which outlives the borrow; this thread has claimed it, or
            // the cache would have been cleared.
            let record = unsafe { &*record };
            return Local {
                record,
                late: false,
            };
        }
    }
    another(registry)
}

/// The record in a space that the thread was not in just now.
#[cold]
fn another(registry: &Arc<Registry>) -> Local<'_> {
    #[cfg(not(any(loom, shuttle)))]
    {
        let known = CACHE.with(|cache| cache[registry.id as usize % CACHED].get());
        if known.0 == registry.id {
            LAST.with(|last| last.set(known));
            return Local {
                // SAFETY: as in `record`.
                record: unsafe { &*known.1 },
                late: false,
            };
        }
    }
    search(registry)
}

#[cold]
fn search(registry: &Arc<Registry>) -> Local<'_> {
    let claimed = with_claims(|claims| {
        let mut claims = claims.0.borrow_mut();
        let known = claims.iter().find(|c| c.registry.id == registry.id);
        let record = match known {
            Some(claim) => claim.record,
            None => {
                claims.retain(|c| !c.registry.is_closed());
                let record = ptr::from_ref(registry.claim());
                claims.push(Claim {
                    registry: registry.clone(),
                    record,
                });
                record
            }
        };
        #[cfg(not(any(loom, shuttle)))]
        {
            let known = (registry.id, record);
            LAST.with(|last| last.set(known));
            CACHE.with(|cache| cache[registry.id as usize % CACHED].set(known));
        }
        record
    });
    match claimed {
        Some(record) => Local {
            // SAFETY: a record of `registry`, which outlives the borrow.
            record: unsafe { &*record },
            late: false,
        },
        None => Local {
            record: registry.claim(),
            late: true,
        },
    }
}

/// The space of a higher rank than that of `registry` in which the calling thread
/// holds a VMA, if there is one: it should have looked up in the latter first.
pub(super) fn held_above(registry: &Registry) -> Option<Arc<Registry>> {
    let rank = registry.rank?;
    let found = with_claims(|claims| {
        let claims = claims.0.borrow();
        let mut above = claims.iter().filter(|c| c.registry.rank > Some(rank));
        let held = above.find(|claim| {
            // SAFETY: the record lives as long as its registry.
            unsafe { &*claim.record }.any_entry(|state, _| state.is_guard())
        });
        held.map(|claim| claim.registry.clone())
    });
    found.flatten()
}

/// `None` when the thread is past the destructor of its claims.
fn with_claims<R>(f: impl FnOnce(&Claims) -> R) -> Option<R> {
    CLAIMS.try_with(f).ok()
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    fn record(registry: &Arc<Registry>) -> Local<'_> {
        record_in(registry.id, registry)
    }

    fn records(registry: &Registry) -> usize {
        registry.records().count()
    }

    #[test]
    fn a_thread_has_one_record_and_the_next_thread_gets_it() {
        let registry = Arc::new(Registry::new("test".into(), None, false));
        let first = ptr::from_ref(record(&registry).get()) as usize;
        assert_eq!(ptr::from_ref(record(&registry).get()) as usize, first);
        let theirs = || {
            let registry = registry.clone();
            let there = move || ptr::from_ref(record(&registry).get()) as usize;
            std::thread::spawn(there).join().unwrap()
        };
        let second = theirs();
        assert_ne!(first, second);
        assert_eq!(theirs(), second, "given back at the thread's exit");
        assert_eq!(records(&registry), 2);
    }

    #[test]
    fn a_record_is_not_claimed_while_something_is_in_it() {
        let registry = Arc::new(Registry::new("test".into(), None, false));
        let leave = |clear: bool| {
            let registry = registry.clone();
            let there = move || {
                let record = record(&registry);
                let entry = record.vacant();
                entry.walk(1);
                entry.hold();
                if clear {
                    entry.clear();
                }
            };
            std::thread::spawn(there).join().unwrap();
        };
        leave(false);
        leave(true);
        assert_eq!(records(&registry), 2, "the first one is still held");
        leave(true);
        assert_eq!(records(&registry), 2);
    }

    #[test]
    fn a_closed_space_is_forgotten() {
        let gone = Arc::new(Registry::new("test".into(), None, false));
        let _ = record(&gone);
        gone.close();
        let _ = record(&Arc::new(Registry::new("test".into(), None, false)));
        assert_eq!(Arc::strong_count(&gone), 1);
    }

    #[test]
    fn a_thread_past_its_destructors_still_gets_a_record() {
        struct Late(Arc<Registry>);
        impl Drop for Late {
            fn drop(&mut self) {
                let record = record(&self.0);
                record.vacant().walk(1);
                record.vacant().clear();
                record.each_entry(Entry::clear);
            }
        }
        use super::super::entry::Entry;
        thread_local! { static LATE: RefCell<Option<Late>> = const { RefCell::new(None) } }
        let registry = Arc::new(Registry::new("test".into(), None, false));
        for _ in 0..3 {
            let registry = registry.clone();
            let there = move || {
                // Destructors run in the order of first use or in the reverse of
                // it; either way one of the two comes after ours.
                LATE.with(|late| *late.borrow_mut() = Some(Late(registry.clone())));
                let _ = record(&registry);
            };
            std::thread::spawn(there).join().unwrap();
        }
        assert!(records(&registry) <= 2, "none of them leaked");
    }
}
