//! The tree in force, read.
//!
//! Every function here works on one version of the tree, given by its root, and
//! returns slots of that version. Whoever calls them keeps that version from being
//! freed: a reader by a published walk, the writer by the map lock.

use super::AddrRange;
use super::node::Child;
use super::slot::Slot;

/// The slot that covers `addr`.
///
/// # Safety
///
/// `root` is null or the root of a tree that is not freed while the result is in
/// use. This holds for all functions of this file.
#[inline(always)]
pub(super) unsafe fn find<'a, T>(root: Child<T>, addr: u64) -> Option<&'a Slot<T>> {
    if root.is_small() {
        // SAFETY: passed on.
        return unsafe { find_in_small(root, addr) };
    }
    if root.is_null() {
        return None;
    }
    let mut node = root;
    while !node.is_leaf() {
        // SAFETY: an inner node's children are nodes of the same version.
        node = unsafe { &*node.inner() }.child(addr);
    }
    // SAFETY: a leaf's children are slots of the same version.
    let slot = unsafe { &*(*node.leaf()).child(addr).slot() };
    slot.range().contains(addr).then_some(slot)
}

/// The slot that covers `addr`, in a tree that is small.
///
/// # Safety
///
/// As for [`find`]; and the tree is [small](Child::is_small).
#[inline(always)]
unsafe fn find_in_small<'a, T>(root: Child<T>, addr: u64) -> Option<&'a Slot<T>> {
    // SAFETY: a leaf's children are slots of the same version.
    let slot = unsafe { &*(*root.small()).child_of_small(addr).slot() };
    slot.range().contains(addr).then_some(slot)
}

/// The slot that covers `addr`, or else the first one after it.
///
/// # Safety
///
/// As for [`find`].
pub(super) unsafe fn at_or_after<'a, T>(root: Child<T>, addr: u64) -> Option<&'a Slot<T>> {
    if root.is_null() {
        return None;
    }
    // SAFETY: as said of the root, so of what is below it.
    let node = unsafe { &*root.node() };
    // Nothing before that place reaches as far as `addr`.
    let mut candidates = node.items().skip(node.position(addr));
    if root.is_leaf() {
        candidates
            // SAFETY: a leaf's children are slots.
            .map(|(_, child)| unsafe { &*child.slot() })
            .find(|slot| slot.range().last() >= addr)
    } else {
        // SAFETY: an inner node's children are nodes.
        candidates.find_map(|(_, child)| unsafe { at_or_after(child, addr) })
    }
}

/// The slot that covers `addr`, or else the last one before it.
///
/// # Safety
///
/// As for [`find`].
pub(super) unsafe fn at_or_before<'a, T>(root: Child<T>, addr: u64) -> Option<&'a Slot<T>> {
    if root.is_null() {
        return None;
    }
    let mut node = root;
    while !node.is_leaf() {
        // SAFETY: an inner node's children are nodes. Keys are the first addresses
        // below, so what starts at or before `addr` is in this child if anywhere.
        node = unsafe { &*node.node() }.child(addr);
    }
    // SAFETY: a leaf's children are slots.
    let slot = unsafe { &*(*node.node()).child(addr).slot() };
    (slot.range().start() <= addr).then_some(slot)
}

/// All slots that overlap `within`, in order, from either end. Allocates nothing.
pub(super) struct Slots<'a, T> {
    root: Child<T>,
    left: Option<AddrRange>,
    of: std::marker::PhantomData<&'a Slot<T>>,
}

/// The slots of a version that overlap `within`.
///
/// # Safety
///
/// As for [`find`], for as long as the iterator or what it returned is in use.
pub(super) unsafe fn slots<'a, T>(root: Child<T>, within: AddrRange) -> Slots<'a, T> {
    Slots {
        root,
        left: Some(within),
        of: std::marker::PhantomData,
    }
}

impl<'a, T> Iterator for Slots<'a, T> {
    type Item = &'a Slot<T>;

    fn next(&mut self) -> Option<&'a Slot<T>> {
        let left = self.left.take()?;
        // SAFETY: promised where the iterator was made.
        let slot = unsafe { at_or_after(self.root, left.start()) }?;
        let range = slot.range();
        if range.start() > left.last() {
            return None;
        }
        let next = range.last().checked_add(1);
        self.left = next.and_then(|next| AddrRange::inclusive(next, left.last()));
        Some(slot)
    }
}

impl<T> DoubleEndedIterator for Slots<'_, T> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let left = self.left.take()?;
        // SAFETY: promised where the iterator was made.
        let slot = unsafe { at_or_before(self.root, left.last()) }?;
        let range = slot.range();
        if range.last() < left.start() {
            return None;
        }
        let before = range.start().checked_sub(1);
        self.left = before.and_then(|before| AddrRange::inclusive(left.start(), before));
        Some(slot)
    }
}
