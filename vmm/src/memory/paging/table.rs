//! What is served: host address to offset in the image.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
struct State {
    /// By the first address: the address after the last, and the first's offset in
    /// the image. No two overlap.
    regions: BTreeMap<u64, (u64, u64)>,
    /// The pages that handlers are at.
    serving: Vec<u64>,
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
        self.lock().regions.insert(start, (start + len, offset));
    }

    /// Begins to serve the page at `addr`; `None` if it is no longer in the table.
    pub(super) fn serve(&self, addr: u64) -> Option<Serving<'_>> {
        let mut state = self.lock();
        let (&start, &(end, offset)) = state.regions.range(..=addr).next_back()?;
        if addr >= end {
            return None;
        }
        state.serving.push(addr);
        Some(Serving {
            table: self,
            addr,
            offset: offset + (addr - start),
        })
    }

    /// Takes the region that begins at `start` out, and returns when no handler is
    /// at a page of it: its addresses can then be somebody else's. Blocks for as
    /// long as reading a page of the image takes, and only if one is being read.
    pub(super) fn remove(&self, start: u64) {
        let mut state = self.lock();
        let Some((end, _)) = state.regions.remove(&start) else {
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
