//! What is served: host address to offset in the image; and who sleeps for what.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::memory::{PAGE, vcpu_threads};

#[derive(Debug, Default)]
struct State {
    /// By the first address. No two overlap.
    regions: BTreeMap<u64, Region>,
    /// The pages that somebody sleeps for, each of some region.
    awaited: BTreeMap<u64, Awaited>,
    /// Those of them that no handler has begun with, the longest awaited first.
    queue: VecDeque<u64>,
    /// How many faults there have been.
    faults: u64,
}

#[derive(Debug)]
struct Region {
    /// The address after the last.
    end: u64,
    /// The first address's offset in the image.
    offset: u64,
    /// The pages that are there, a bit each.
    there: Vec<u64>,
}

/// A page that is not there yet.
#[derive(Debug)]
struct Awaited {
    /// The threads that sleep for it, or did and were called away; each with the
    /// number of its first fault.
    threads: BTreeMap<i32, u64>,
    /// The number of the first of them all.
    first: u64,
    /// Whether a handler is at it.
    served: bool,
}

/// The word of [`Region::there`] that a page's bit is in, and the bit.
fn bit(start: u64, addr: u64) -> (usize, u64) {
    let page = (addr - start) / PAGE;
    ((page / 64) as usize, 1 << (page % 64))
}

impl State {
    /// The region that the page at `addr` is in, and where it begins.
    fn region(&mut self, addr: u64) -> Option<(u64, &mut Region)> {
        let (&start, region) = self.regions.range_mut(..=addr).next_back()?;
        (addr < region.end).then_some((start, region))
    }
}

/// What there is to do about a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Noted {
    /// Nothing: the page is no longer in the table, or will be brought.
    Done,
    /// The page is there by now: who still sleeps is to be woken.
    There,
}

/// The table. Its lock is held for single calls of it, never while a page is read.
#[derive(Debug, Default)]
pub(super) struct Table {
    state: Mutex<State>,
    /// Notified when a handler is done with a page.
    done: Condvar,
}

/// That a handler is at a page; over when dropped.
#[derive(Debug)]
pub(super) struct Serving<'a> {
    table: &'a Table,
    pub(super) addr: u64,
    /// Where the page is in the image.
    pub(super) offset: u64,
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under the lock can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on `start..start + len` is the image from `offset` on.
    pub(super) fn insert(&self, start: u64, len: u64, offset: u64) {
        let region = Region {
            end: start + len,
            offset,
            there: vec![0; len.div_ceil(64 * PAGE) as usize],
        };
        self.lock().regions.insert(start, region);
    }

    /// Notes that `thread` has touched the page at `addr`. However many do, one
    /// handler brings it, and wakes them all: nobody falls asleep for a page that is
    /// there.
    pub(super) fn note(&self, addr: u64, thread: i32) -> Noted {
        let mut state = self.lock();
        let Some((start, region)) = state.region(addr) else {
            return Noted::Done;
        };
        let (word, mask) = bit(start, addr);
        if region.there[word] & mask != 0 {
            return Noted::There;
        }
        let number = state.faults;
        state.faults += 1;
        let mut is_new = false;
        let awaited = state.awaited.entry(addr).or_insert_with(|| {
            is_new = true;
            Awaited {
                threads: BTreeMap::new(),
                first: number,
                served: false,
            }
        });
        awaited.threads.entry(thread).or_insert(number);
        if is_new {
            state.queue.push_back(addr);
        }
        Noted::Done
    }

    /// Begins with the page that has been awaited longest, if there is one that no
    /// other handler is at; and whether there are more.
    pub(super) fn next(&self) -> Option<(Serving<'_>, bool)> {
        let mut state = self.lock();
        let addr = state.queue.pop_front()?;
        let more = !state.queue.is_empty();
        state.awaited.get_mut(&addr)?.served = true;
        let (start, region) = state.region(addr)?;
        let serving = Serving {
            table: self,
            addr,
            offset: region.offset + (addr - start),
        };
        Some((serving, more))
    }

    /// Takes the region that begins at `start` out, and returns when no handler is
    /// at a page of it: its addresses can then be somebody else's. Blocks for as
    /// long as reading a page of the image takes, and only if one is being read.
    pub(super) fn remove(&self, start: u64) {
        let mut state = self.lock();
        let Some(Region { end, .. }) = state.regions.remove(&start) else {
            return;
        };
        state.queue.retain(|addr| !(start..end).contains(addr));
        state
            .awaited
            .retain(|addr, page| page.served || !(start..end).contains(addr));
        let is_in = |state: &mut State| state.awaited.range(start..end).next().is_some();
        drop(
            self.done
                .wait_while(state, is_in)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    /// How many faults there have been.
    pub(super) fn faults(&self) -> u64 {
        self.lock().faults
    }

    /// Waits for the pages that vCPUs sleep for, and for those that lie in `range`,
    /// whoever sleeps; if they were among the first `faults`. `false`: one has not come
    /// by `deadline`.
    pub(super) fn wait_served(&self, faults: u64, range: Range<u64>, deadline: Instant) -> bool {
        let mut state = self.lock();
        let is_awaited = |(addr, page): (&u64, &Awaited)| {
            let by_vcpu = |(thread, number): (&i32, &u64)| {
                *number < faults && vcpu_threads::runs_a_vcpu(*thread)
            };
            page.first < faults && range.contains(addr) || page.threads.iter().any(by_vcpu)
        };
        while state.awaited.iter().any(is_awaited) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            // A vCPU that ends wakes nobody here.
            let nap = left.min(Duration::from_millis(20));
            let waited = self.done.wait_timeout(state, nap);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl Serving<'_> {
    /// The page has been brought.
    pub(super) fn is_there(&self) {
        let mut state = self.table.lock();
        if let Some((start, region)) = state.region(self.addr) {
            let (word, mask) = bit(start, self.addr);
            region.there[word] |= mask;
        }
    }
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        self.table.lock().awaited.remove(&self.addr);
        self.table.done.notify_all();
    }
}
