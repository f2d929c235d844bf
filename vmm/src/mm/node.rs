//! Nodes of the tree, and the search inside one.

use std::marker::PhantomData;
use std::ptr;

use super::slot::Slot;
use super::sync::Life;

/// How many children a node has at most: a power of 4.
pub(super) const WIDTH: usize = if cfg!(loom) { 4 } else { 16 };

/// A node of the tree. Never changes once it is published.
///
/// A leaf's children are slots, an inner node's are nodes; the key of a child is
/// the first address mapped below it. Unused keys are `u64::MAX` and unused
/// children repeat the last one in use, so that a search needs to know neither
/// how many there are nor whether the last address is meant.
#[repr(C, align(64))]
pub(super) struct Node<T> {
    keys: [u64; WIDTH],
    children: [Child<T>; WIDTH],
    len: u16,
    life: Life,
}

/// A pointer to a node or a slot. What it points to says the place where it was
/// found, but for one bit of its own: whether a node is a leaf.
pub(super) struct Child<T> {
    ptr: *mut (),
    of: PhantomData<*mut Slot<T>>,
}

impl<T> Clone for Child<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Child<T> {}

impl<T> PartialEq for Child<T> {
    fn eq(&self, other: &Self) -> bool {
        self.ptr == other.ptr
    }
}

const LEAF: usize = 1;

impl<T> Child<T> {
    pub(super) fn null() -> Self {
        Self::from_raw(ptr::null_mut())
    }

    #[inline]
    pub(super) fn from_raw(ptr: *mut ()) -> Self {
        let of = PhantomData;
        Self { ptr, of }
    }

    #[inline]
    pub(super) fn into_raw(self) -> *mut () {
        self.ptr
    }

    #[inline]
    pub(super) fn is_null(self) -> bool {
        self.ptr.is_null()
    }

    pub(super) fn from_slot(slot: *const Slot<T>) -> Self {
        Self::from_raw(slot.cast_mut().cast())
    }

    /// The slot, where a leaf has said that it is one.
    #[inline]
    pub(super) fn slot(self) -> *const Slot<T> {
        self.ptr.cast_const().cast()
    }

    /// Whether a node is a leaf.
    #[inline]
    pub(super) fn is_leaf(self) -> bool {
        self.ptr.addr() & LEAF != 0
    }

    /// The node, where a slot is out of question.
    #[inline]
    pub(super) fn node(self) -> *mut Node<T> {
        self.ptr.map_addr(|addr| addr & !LEAF).cast()
    }
}

impl<T> Node<T> {
    /// A node with these children, 1 to [`WIDTH`] of them, in the order of their
    /// keys.
    pub(super) fn make(items: &[(u64, Child<T>)], leaf: bool) -> Child<T> {
        let last = items[items.len() - 1].1;
        let mut keys = [u64::MAX; WIDTH];
        let mut children = [last; WIDTH];
        for (i, (key, child)) in items.iter().enumerate() {
            keys[i] = *key;
            children[i] = *child;
        }
        let node = Box::into_raw(Box::new(Self {
            keys,
            children,
            len: items.len() as u16,
            life: Life::begin(),
        }));
        let tag = if leaf { LEAF } else { 0 };
        Child::from_raw(node.cast::<()>().map_addr(|addr| addr | tag))
    }

    /// The child that `addr` belongs to: the last one whose key is not above it,
    /// or the first one. No branch depends on an address.
    #[inline]
    pub(super) fn child(&self, addr: u64) -> Child<T> {
        self.life.touch();
        self.children[search(&self.keys, addr)]
    }

    /// The place of that child among [`items`](Self::items).
    pub(super) fn position(&self, addr: u64) -> usize {
        search(&self.keys, addr).min(self.len() - 1)
    }

    pub(super) fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// The children in use and their keys, in order.
    pub(super) fn items(&self) -> impl DoubleEndedIterator<Item = (u64, Child<T>)> + '_ {
        self.life.touch();
        let keys = self.keys[..self.len()].iter().copied();
        keys.zip(self.children[..self.len()].iter().copied())
    }

    /// Called by whoever frees it.
    #[cfg_attr(not(loom), allow(dead_code, reason = "the models'"))]
    pub(super) fn end(&self) {
        self.life.end();
    }
}

/// How many of the keys but the first are not above `addr`. In each round three
/// comparisons that depend on nothing but each other's round find the quarter.
#[inline(always)]
fn search(keys: &[u64; WIDTH], addr: u64) -> usize {
    let mut base = 0;
    let mut step = WIDTH / 4;
    while step > 0 {
        // In bounds: base + 3 * step is at most 3/4 + 3/16 + ... of the width.
        let here = |i: usize| usize::from(keys[(base + i * step) % WIDTH] <= addr);
        base += step * (here(1) + here(2) + here(3));
        step /= 4;
    }
    base
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn search_finds_what_counting_finds() {
        for len in 1..=WIDTH {
            let mut keys = [u64::MAX; WIDTH];
            for (i, key) in keys[..len].iter_mut().enumerate() {
                *key = 10 * (i as u64 + 1);
            }
            for addr in 0..10 * (len as u64 + 2) {
                let counted = keys[1..len].iter().filter(|key| **key <= addr).count();
                assert_eq!(search(&keys, addr), counted, "{addr} among {len}");
            }
        }
    }
}
