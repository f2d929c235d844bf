//! What is served: host address to offset in the image.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::memory::PAGE;

#[derive(Debug, Default)]
struct State {
    /// By the first address. No two overlap.
    regions: BTreeMap<u64, Region>,
    /// The pages that handlers are at, each at one.
    serving: Vec<u64>,
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

/// The word of [`Region::there`] that a page's bit is in, and the bit.
fn bit(start: u64, addr: u64) -> (usize, u64) {
    let page = (addr - start) / PAGE;
    ((page / 64) as usize, 1 << (page % 64))
}

/// What is to be done about a fault.
#[derive(Debug)]
pub(super) enum Fault<'a> {
    /// Nothing: the page is no longer in the table.
    Gone,
    /// The page is there by now, as it may be where several threads touched it:
    /// whoever still sleeps is to be woken, and the page left alone.
    There,
    /// The page is to be brought.
    Missing(Serving<'a>),
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
    addr: u64,
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

    /// Begins to serve the page at `addr`. Waits for another handler that is at it:
    /// of two who do not know of each other, the one that fails could take away what
    /// the other has brought, and the guest has written to since.
    pub(super) fn serve(&self, addr: u64) -> Fault<'_> {
        let at_it = |state: &mut State| state.serving.contains(&addr);
        let mut state = self
            .done
            .wait_while(self.lock(), at_it)
            .unwrap_or_else(PoisonError::into_inner);
        let Some((&start, region)) = state.regions.range(..=addr).next_back() else {
            return Fault::Gone;
        };
        if addr >= region.end {
            return Fault::Gone;
        }
        let (word, mask) = bit(start, addr);
        if region.there[word] & mask != 0 {
            return Fault::There;
        }
        let offset = region.offset + (addr - start);
        state.serving.push(addr);
        Fault::Missing(Serving {
            table: self,
            addr,
            offset,
        })
    }

    /// The page at `addr` is there from now on.
    fn note(&self, addr: u64) {
        let mut state = self.lock();
        if let Some((&start, region)) = state.regions.range_mut(..=addr).next_back()
            && addr < region.end
        {
            let (word, mask) = bit(start, addr);
            region.there[word] |= mask;
        }
    }

    /// Takes the region that begins at `start` out, and returns when no handler is
    /// at a page of it: its addresses can then be somebody else's. Blocks for as
    /// long as reading a page of the image takes, and only if one is being read.
    pub(super) fn remove(&self, start: u64) {
        let mut state = self.lock();
        let Some(Region { end, .. }) = state.regions.remove(&start) else {
            return;
        };
        let is_in = |state: &mut State| state.serving.iter().any(|a| (start..end).contains(a));
        drop(
            self.done
                .wait_while(state, is_in)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }
}

impl Serving<'_> {
    /// The page has been brought.
    pub(super) fn is_there(&self) {
        self.table.note(self.addr);
    }
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        let mut state = self.table.lock();
        if let Some(at) = state.serving.iter().position(|&addr| addr == self.addr) {
            state.serving.swap_remove(at);
        }
        drop(state);
        self.table.done.notify_all();
    }
}
