//! Merging neighbours that are the same in all but extent.
//!
//! A plan notes the borders of what it maps, protects or relocates. Where the VMAs
//! on both sides of one are the same but for their extent, they become one. If both
//! come by the plan, or are made of what goes anyway, that costs nobody anything.
//! If one of them is a VMA of the tree that would otherwise stay, merging changes
//! it, so it must be write-locked; but merging is never worth a wait.
//!
//! So such a neighbour is not in the write set that is drained. When that set *is*
//! drained, however long it took, the neighbour is *tried*: marked in a way that
//! says so, one full fence, one scan. If a reader is at it, the mark is taken off
//! and the two stay apart; if none is, the mark becomes that of the section, and
//! the neighbour is locked and drained. No section number is spent on the attempt,
//! and readers of the neighbour are never delayed by a drain next door.
//!
//! Why the mark of a try is another one than that of a lock: who holds a member of
//! a write set is let in to the others, since the drain waits for that hold. The
//! drain is over here, and nobody waits for who holds a tried neighbour: were it
//! taken for a member, its holder would be let in to what is about to change.
//!
//! A lookup that finds a VMA tried does not sleep: it looks again until the mark is
//! another, for as long as one scan takes. If the mark is gone it takes what is
//! there with no further look at the lock, as one that has slept does: its walk was
//! published before it saw the mark, so before any later section scans.
//!
//! The next version of the tree is built before anything is locked, with the
//! neighbours that no reader is at by then, and once more in the rare case that
//! one has come meanwhile.

use std::collections::BTreeSet;

use super::core::Core;
use super::plan::Plan;
use super::slot::Slot;
use super::sync::{full_fence, mutant};
use super::{Payload, Vma, Window, tree};

/// A VMA beside a border, as planned.
struct Side<'a, T> {
    vma: &'a Vma<T>,
    /// Where it is in the tree, if it would stay there.
    kept: Option<*const Slot<T>>,
}

impl<T: Payload> Plan<T> {
    /// The VMAs of the tree that would stay, could they not be merged with
    /// something that comes; in order.
    pub(super) fn neighbours(&self) -> Vec<*const Slot<T>> {
        let mut found = Vec::new();
        for border in &self.borders {
            let left = border.checked_sub(1).and_then(|last| self.side(last));
            let (Some(left), Some(right)) = (left, self.side(*border)) else {
                continue;
            };
            // With both kept, nothing is left of what made this a border.
            if left.kept.is_some() && right.kept.is_some() {
                continue;
            }
            if left.vma.goes_on_as(right.vma) {
                found.extend(left.kept.or(right.kept));
            }
        }
        // One between two that come is found twice.
        found.dedup();
        found
    }

    /// The VMA that covers `addr`, as planned.
    fn side(&self, addr: u64) -> Option<Side<'_, T>> {
        let coming = self.comes.range(..=addr).next_back();
        if let Some((_, coming)) = coming
            && coming.vma.range().contains(addr)
        {
            let vma = &coming.vma;
            return Some(Side { vma, kept: None });
        }
        // SAFETY: the section has the map lock, so the version stays in force.
        let slot = unsafe { tree::find(self.root, addr) }?;
        if self.goes.contains_key(&slot.range().start()) {
            return None;
        }
        Some(Side {
            // SAFETY: as above.
            vma: unsafe { slot.vma() },
            kept: Some(slot),
        })
    }

    /// All that comes, in order, merged with itself and with `neighbours`. With
    /// `last` it is taken out of the plan, else copied.
    pub(super) fn merged(&mut self, neighbours: &[*const Slot<T>], last: bool) -> Vec<Vma<T>> {
        let mut all: Vec<Vma<T>> = if last {
            let comes = std::mem::take(&mut self.comes);
            comes.into_values().map(|coming| coming.vma).collect()
        } else {
            self.comes.values().map(|c| c.vma.clone()).collect()
        };
        all.extend(neighbours.iter().map(|slot| {
            // SAFETY: in the tree in force, under the map lock.
            unsafe { (**slot).vma() }.clone()
        }));
        if !neighbours.is_empty() {
            all.sort_by_key(|vma| vma.range().start());
        }
        let mut out: Vec<Vma<T>> = Vec::with_capacity(all.len());
        for vma in all {
            let wanted = self.borders.contains(&vma.range().start());
            match out.pop() {
                Some(left) if wanted && left.goes_on_as(&vma) => {
                    out.push(left.joined(&vma, self.seq));
                    self.dropped.push(vma);
                }
                left => {
                    out.extend(left);
                    out.push(vma);
                }
            }
        }
        out
    }
}

impl<T: Payload> Core<T> {
    /// Write-locks those of `slots` that no reader is at, and returns them. The
    /// calling thread has section `seq` open, and drained.
    pub(super) fn lock_unread(&self, slots: &[*const Slot<T>], seq: u64) -> Vec<*const Slot<T>> {
        if slots.is_empty() {
            return Vec::new();
        }
        self.window(Window::Drained);
        for slot in slots {
            // SAFETY: in the tree in force, under the map lock; so below.
            let slot = unsafe { &**slot };
            if mutant("merge-mark") {
                slot.mark(seq);
            } else {
                slot.try_mark(seq);
            }
        }
        if !mutant("merge-fence") {
            full_fence();
        }
        self.window(Window::Trying);
        let unread = self.unread(slots, seq);
        self.window(Window::Tried);
        for slot in slots {
            // SAFETY: as above.
            let this = unsafe { &**slot };
            if unread.contains(slot) {
                this.mark(seq);
            } else if !mutant("merge-unmark") {
                this.unmark();
            }
        }
        unread
    }

    /// Those of `slots` that no reader is at who would delay a drain of section
    /// `seq`, by one scan; none if a hold has moved meanwhile, since it may have
    /// moved past the scan.
    pub(super) fn unread(&self, slots: &[*const Slot<T>], seq: u64) -> Vec<*const Slot<T>> {
        if slots.is_empty() || mutant("merge-scan") {
            return slots.to_vec();
        }
        let moves = self.moves();
        let mut there = BTreeSet::new();
        for record in self.registry.records() {
            record.each_entry(|entry| {
                self.window(Window::Scanning);
                let (state, addr) = entry.load();
                if state.delays(seq) {
                    there.insert(addr);
                }
            });
        }
        let unread = slots.iter().filter(|slot| {
            // SAFETY: in the tree in force, under the map lock.
            let slot = unsafe { &***slot };
            let range = slot.range();
            // In this order: a hold is counted before its entry stops saying so.
            let read = there.range(range.start()..=range.last()).next().is_some();
            !read && (slot.is_uncounted() || mutant("merge-count"))
        });
        let unread = unread.copied().collect();
        if self.has_moved(moves) && !mutant("merge-moves") {
            return Vec::new();
        }
        unread
    }
}
