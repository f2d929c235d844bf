//! The gap search in one version of the tree.
//!
//! Every node knows, for each child, how much [`Room`] there is from the child's
//! first address up to the next child's, and goes down only where that may hold
//! what is wanted. Lookups load none of it.
//!
//! **What it costs.** A range that is aligned to its own size (a block for
//! hotplug) or wants no alignment is found, or found to be nowhere, in one way
//! down and at most one on either edge of the window: a [`Room`] that holds such a
//! range has it. With any other size and alignment the search enters in vain only
//! gaps that are long enough, have an aligned address and a large enough aligned
//! block in them, and yet no place: those where less than an alignment is to
//! spare. The worst case is a map full of just these, and linear in their number;
//! an alignment that is no power of two counts for the largest that divides it.

use super::node::{Child, Node};
use super::room::Room;
use super::{AddrRange, Gap};

/// The lowest or highest place for `gap` that is free and in `window`, whatever
/// the window of `gap` itself.
///
/// # Safety
///
/// `root` is null or the root of a tree that is not freed meanwhile.
pub(super) unsafe fn find<T>(root: Child<T>, gap: &Gap, window: AddrRange) -> Option<AddrRange> {
    if gap.len == 0 || root.is_null() {
        return gap.fit(window);
    }
    // SAFETY: says the caller.
    let node = unsafe { &*root.node() };
    let before = node.first().checked_sub(1);
    let before = before.and_then(|last| AddrRange::inclusive(0, last));
    let after = node.last().checked_add(1);
    let after = after.and_then(|start| AddrRange::inclusive(start, u64::MAX));
    let wanted = Wanted {
        gap,
        need: Room::needed(gap.len, gap.align),
        window,
    };
    // SAFETY: passed on.
    let between = || unsafe { wanted.below(root) };
    match gap.highest {
        false => (wanted.fit(before).or_else(between)).or_else(|| wanted.fit(after)),
        true => (wanted.fit(after).or_else(between)).or_else(|| wanted.fit(before)),
    }
}

struct Wanted<'a> {
    gap: &'a Gap,
    need: Room,
    window: AddrRange,
}

impl Wanted<'_> {
    /// The place in `free`, if it is in the window too.
    fn fit(&self, free: Option<AddrRange>) -> Option<AddrRange> {
        self.gap.fit(free?.intersection(self.window)?)
    }

    /// The place between VMAs of the tree below `child`.
    ///
    /// # Safety
    ///
    /// `child` is a node of a tree that is not freed meanwhile.
    unsafe fn below<T>(&self, child: Child<T>) -> Option<AddrRange> {
        // SAFETY: says the caller.
        let node = unsafe { &*child.node() };
        // What is free after a child begins above its key; so no child after that
        // of the window's last address matters, and none before its first's.
        let mut places = node.position(self.window.start())..=node.position(self.window.last());
        // SAFETY: passed on.
        let at = |i| unsafe { self.at(node, i, child.is_leaf()) };
        match self.gap.highest {
            false => places.find_map(at),
            true => places.rev().find_map(at),
        }
    }

    /// The place below or right after the child at `i`.
    ///
    /// # Safety
    ///
    /// `node` is one of a tree that is not freed meanwhile, and `leaf` says
    /// whether it is a leaf.
    unsafe fn at<T>(&self, node: &Node<T>, i: usize, leaf: bool) -> Option<AddrRange> {
        if !node.room(i).holds(self.need) {
            return None;
        }
        // SAFETY: passed on.
        let after = || self.fit(unsafe { node.gap_after(i, leaf) });
        if leaf {
            return after();
        }
        let child = node.at(i);
        // SAFETY: an inner node's children are nodes of the same tree.
        let inside = || unsafe { self.below(child) };
        match self.gap.highest {
            false => inside().or_else(after),
            true => after().or_else(inside),
        }
    }
}
