//! Grace periods: when nodes and slots that are no longer in force may be freed.
//!
//! A reader may be inside an old version of the tree while its entry says that it
//! walks or waits (a waiter walks again as soon as it is awake), and never while
//! the entry is empty or holds. So what was retired may be freed once every entry
//! has been seen, after the retiring store and a full fence, in one of the latter
//! states: each at a moment of its own, since a walk that begins later begins at a
//! root that is newer.
//!
//! No writer waits for that. A section that finds somebody walking leaves its
//! batch behind, with the list of the entries it has not yet seen at rest, and
//! later sections look at those again. A vCPU in guest mode has nothing in its
//! entries. A thread that sleeps in a waiting lookup delays the freeing (of a few
//! nodes and husks for each section; what a VMA carried is handed back at once),
//! never a writer.

use super::Payload;
use super::core::Core;
use super::edit;
use super::entry::Entry;
use super::node::Child;
use super::slot::Slot;
use super::sync::{full_fence, lock, mutant};

/// How many batches are kept, overwritten, in a build of mutants.
#[cfg(all(gracefault_mutants, not(any(loom, shuttle))))]
const GRAVE: usize = 4096;

/// What sections have retired and nobody has freed yet.
pub(super) struct Grace<T> {
    batches: Vec<Batch<T>>,
    /// In a model the dead are kept, so that who comes too late is caught.
    #[cfg(any(loom, shuttle))]
    dead: Vec<Batch<T>>,
    /// In a build of mutants the last dead lie here, overwritten, so that who comes
    /// too late dies of it.
    #[cfg(gracefault_mutants)]
    grave: std::collections::VecDeque<Batch<T>>,
}

struct Batch<T> {
    nodes: Vec<Child<T>>,
    /// Husks: their VMAs have been taken.
    slots: Vec<*const Slot<T>>,
    /// Entries of the space's registry that were not yet seen at rest.
    unseen: Vec<*const Entry>,
}

// SAFETY: nodes and husks belong to the batch alone; entries are shared and
// atomic.
unsafe impl<T: Send + Sync> Send for Grace<T> {}

impl<T> Grace<T> {
    pub(super) fn new() -> Self {
        Self {
            batches: Vec::new(),
            #[cfg(any(loom, shuttle))]
            dead: Vec::new(),
            #[cfg(gracefault_mutants)]
            grave: Default::default(),
        }
    }

    fn poll(&mut self) {
        let mut i = 0;
        while i < self.batches.len() {
            let batch = &mut self.batches[i];
            // SAFETY: entries live as long as the registry, which the space keeps.
            batch
                .unseen
                .retain(|entry| unsafe { &**entry }.load().0.walks());
            if batch.unseen.is_empty() {
                let batch = self.batches.swap_remove(i);
                self.bury(batch);
            } else {
                i += 1;
            }
        }
    }

    fn bury(&mut self, batch: Batch<T>) {
        #[cfg(any(loom, shuttle))]
        {
            // SAFETY: not freed yet.
            let node = |node: &Child<T>| unsafe { &*node.node() }.end();
            batch.nodes.iter().for_each(node);
            // SAFETY: not freed yet.
            let slot = |slot: &*const Slot<T>| unsafe { &**slot }.end();
            batch.slots.iter().for_each(slot);
            self.dead.push(batch);
        }
        #[cfg(all(gracefault_mutants, not(any(loom, shuttle))))]
        let batch = {
            batch.overwrite();
            self.grave.push_back(batch);
            if self.grave.len() < GRAVE {
                return;
            }
            self.grave.pop_front().expect("not empty")
        };
        #[cfg(not(any(loom, shuttle)))]
        // SAFETY: no entry walks that may have found any of it.
        unsafe {
            batch.free();
        }
    }
}

impl<T> Batch<T> {
    /// Makes an end of whoever still looks at it: as a pointer, the pattern is one
    /// that no memory can have.
    #[cfg(all(gracefault_mutants, not(any(loom, shuttle))))]
    fn overwrite(&self) {
        const PATTERN: u8 = 0xa5;
        for node in &self.nodes {
            // SAFETY: this batch's alone, and freed without a look at it. (Unless a
            // mutant is on, whose end this is.)
            unsafe { node.node().write_bytes(PATTERN, 1) };
        }
        for slot in &self.slots {
            // SAFETY: as above; its VMA has been taken.
            unsafe { slot.cast_mut().write_bytes(PATTERN, 1) };
        }
    }

    /// # Safety
    ///
    /// Nobody looks at any of it any more.
    unsafe fn free(self) {
        for node in self.nodes {
            // SAFETY: retired once, by the section that left it out.
            unsafe { edit::free(node) };
        }
        for slot in self.slots {
            // SAFETY: made from a box; detached once, so retired once.
            drop(unsafe { Box::from_raw(slot.cast_mut()) });
        }
    }
}

impl<T> Drop for Grace<T> {
    fn drop(&mut self) {
        #[allow(unused_mut, reason = "a model adds to it")]
        let mut all = std::mem::take(&mut self.batches);
        #[cfg(any(loom, shuttle))]
        all.append(&mut self.dead);
        #[cfg(gracefault_mutants)]
        all.extend(self.grave.drain(..));
        for batch in all {
            // SAFETY: the space is being dropped; nobody uses it.
            unsafe { batch.free() };
        }
    }
}

impl<T: Payload> Core<T> {
    /// Takes what a section has left out of the tree, which is published, and
    /// frees it when the time has come. Blocks for no reader.
    pub(super) fn retire(&self, nodes: Vec<Child<T>>, slots: Vec<*const Slot<T>>) {
        if !mutant("grace-fence") {
            full_fence();
        }
        let mut grace = lock(&self.grace);
        if !nodes.is_empty() || !slots.is_empty() {
            let mut unseen = Vec::new();
            for record in self.registry.records() {
                record.each_entry(|entry| {
                    if entry.load().0.walks() && !mutant("grace") {
                        unseen.push(std::ptr::from_ref(entry));
                    }
                });
            }
            grace.batches.push(Batch {
                nodes,
                slots,
                unseen,
            });
        }
        grace.poll();
    }

    /// How many batches wait for their grace period.
    #[cfg(all(test, not(loom)))]
    pub(super) fn retired(&self) -> usize {
        lock(&self.grace).batches.len()
    }
}
