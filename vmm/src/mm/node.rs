//! Nodes of the tree, and the search inside one.

use std::marker::PhantomData;
use std::ptr;

use super::AddrRange;
use super::room::Room;
use super::slot::Slot;
use super::sync::{Life, MODEL};

/// How many children a node has at most: a power of 2. With 32, the 32 768 slots of
/// KVM are three levels deep.
pub(super) const WIDTH: usize = if MODEL { 4 } else { 32 };

/// How many children the root has at most in a [small](Child::is_small) tree.
const SMALL: usize = if MODEL { 1 } else { WIDTH / 2 };

/// A node of the tree. Never changes once it is published.
///
/// A leaf's children are slots, an inner node's are nodes; the key of a child is
/// the first address mapped below it. Unused keys are `u64::MAX` and unused
/// children repeat the last one in use, so that a search needs to know neither
/// how many there are nor whether the last address is meant.
///
/// After these comes what only writers look at, on lines that no lookup loads: the
/// [`Room`] from each child's key up to the next child's, which for the last child
/// is that below it.
#[repr(C, align(64))]
pub(super) struct Node<T> {
    keys: [u64; WIDTH],
    children: [Child<T>; WIDTH],
    lens: [u64; WIDTH],
    orders: [u8; WIDTH],
    zeros: [u8; WIDTH],
    /// That between all that is below the node.
    room: Room,
    /// The last address mapped below it.
    last: u64,
    len: u16,
    life: Life,
}

/// A child that is to be in a node.
pub(super) struct Item<T> {
    pub(super) key: u64,
    pub(super) child: Child<T>,
    /// The node that it comes from, and its place there: what that says of it is
    /// right as long as the same key follows. Null if it comes from none.
    from: *const Node<T>,
    place: usize,
}

impl<T> Clone for Item<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Item<T> {}

impl<T> Item<T> {
    /// One that comes from no node.
    pub(super) fn new(key: u64, child: Child<T>) -> Self {
        let (from, place) = (ptr::null(), 0);
        Self {
            key,
            child,
            from,
            place,
        }
    }

    /// Whether `next` follows it in the node that both come from.
    pub(super) fn leads(&self, next: &Self) -> bool {
        !self.from.is_null() && self.from == next.from && self.place + 1 == next.place
    }

    /// The last address mapped below it.
    ///
    /// # Safety
    ///
    /// Neither the child nor the node that it comes from is freed; the child is a
    /// slot if `leaf` says that it is for a leaf, or else a node.
    unsafe fn last(&self, leaf: bool) -> u64 {
        // SAFETY: says the caller.
        let from = unsafe { self.from.as_ref() };
        match from.and_then(|from| from.last_at(self.place, leaf)) {
            Some(last) => last,
            // SAFETY: says the caller.
            None if leaf => unsafe { &*self.child.slot() }.range().last(),
            // SAFETY: says the caller.
            None => unsafe { &*self.child.node() }.last,
        }
    }

    /// The room from its key up to `next`, or below it if nothing follows.
    ///
    /// # Safety
    ///
    /// As for [`last`](Self::last).
    unsafe fn room(&self, next: Option<u64>, leaf: bool) -> Room {
        // SAFETY: says the caller.
        if let Some(from) = unsafe { self.from.as_ref() }
            && from.next(self.place) == next
        {
            return from.room(self.place);
        }
        let below = match leaf {
            true => Room::NONE,
            // SAFETY: says the caller.
            false => unsafe { &*self.child.node() }.room,
        };
        // SAFETY: passed on.
        let after = next.and_then(|next| between(unsafe { self.last(leaf) }, next));
        after.map_or(below, |free| below.or(Room::of(free)))
    }
}

/// What is free between an address that is mapped and the next one.
fn between(last: u64, next: u64) -> Option<AddrRange> {
    AddrRange::inclusive(last.checked_add(1)?, next.checked_sub(1)?)
}

/// A pointer to a node or a slot. What it points to says the place where it was
/// found, but for bits of its own: whether a node is a leaf; and, in a root alone,
/// whether that is all of a [small](Child::is_small) tree.
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
const ALL: usize = 2;

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
        self.ptr.map_addr(|addr| addr & !(LEAF | ALL)).cast()
    }

    /// The same of a leaf that is not all of a small tree: on the way of a lookup, to
    /// take a known bit off costs nothing, to take any bit off a step.
    #[inline]
    pub(super) fn leaf(self) -> *mut Node<T> {
        debug_assert_eq!(self.ptr.addr() & (LEAF | ALL), LEAF);
        self.ptr.map_addr(|addr| addr - LEAF).cast()
    }

    /// The same of a node that is no leaf.
    #[inline]
    pub(super) fn inner(self) -> *mut Node<T> {
        debug_assert_eq!(self.ptr.addr() & (LEAF | ALL), 0);
        self.ptr.cast()
    }

    /// The same of all of a small tree.
    #[inline]
    pub(super) fn small(self) -> *mut Node<T> {
        debug_assert_eq!(self.ptr.addr() & (LEAF | ALL), LEAF | ALL);
        self.ptr.map_addr(|addr| addr - LEAF - ALL).cast()
    }

    /// Whether a root is a leaf with few children, and so all of a tree that lookups
    /// may search in fewer steps.
    #[inline]
    pub(super) fn is_small(self) -> bool {
        self.ptr.addr() & ALL != 0
    }

    /// It as a root.
    ///
    /// # Safety
    ///
    /// It is null or a node that is not freed.
    pub(super) unsafe fn into_root(self) -> Self {
        // SAFETY: says the caller.
        let all = self.is_leaf() && unsafe { &*self.node() }.len() <= SMALL;
        let tag = if all { ALL } else { 0 };
        Self::from_raw(self.ptr.map_addr(|addr| addr | tag))
    }
}

impl<T> Node<T> {
    /// A node with these children, 1 to [`WIDTH`] of them, in the order of their
    /// keys.
    ///
    /// # Safety
    ///
    /// Neither the children nor the nodes that they come from are freed; they are
    /// slots for a leaf, or else nodes.
    pub(super) unsafe fn make(items: &[Item<T>], leaf: bool) -> Child<T> {
        let end = items[items.len() - 1];
        let mut node = Box::new(Self {
            keys: [u64::MAX; WIDTH],
            children: [end.child; WIDTH],
            lens: [0; WIDTH],
            orders: [0; WIDTH],
            zeros: [0; WIDTH],
            room: Room::NONE,
            // SAFETY: passed on.
            last: unsafe { end.last(leaf) },
            len: items.len() as u16,
            life: Life::begin(),
        });
        for (i, item) in items.iter().enumerate() {
            node.keys[i] = item.key;
            node.children[i] = item.child;
            let next = items.get(i + 1).map(|next| next.key);
            // SAFETY: passed on.
            let room = unsafe { item.room(next, leaf) };
            (node.lens[i], node.orders[i], node.zeros[i]) = (room.len, room.order, room.zeros);
            node.room = node.room.or(room);
        }
        let node = Box::into_raw(node);
        let tag = if leaf { LEAF } else { 0 };
        Child::from_raw(node.cast::<()>().map_addr(|addr| addr | tag))
    }

    /// The child that `addr` belongs to: the last one whose key is not above it,
    /// or the first one. No branch depends on an address.
    #[inline]
    pub(super) fn child(&self, addr: u64) -> Child<T> {
        self.life.touch();
        self.children[search::<WIDTH>(&self.keys, addr)]
    }

    /// The same where the tree is small.
    #[inline]
    pub(super) fn child_of_small(&self, addr: u64) -> Child<T> {
        self.life.touch();
        self.children[search::<SMALL>(&self.keys, addr)]
    }

    /// The place of that child among [`items`](Self::items).
    pub(super) fn position(&self, addr: u64) -> usize {
        search::<WIDTH>(&self.keys, addr).min(self.len() - 1)
    }

    pub(super) fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// The first address mapped below it.
    pub(super) fn first(&self) -> u64 {
        self.keys[0]
    }

    /// The last address mapped below it.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// The child at place `i`.
    pub(super) fn at(&self, i: usize) -> Child<T> {
        self.life.touch();
        self.children[i]
    }

    /// The room from the key of the child at place `i` up to the next.
    pub(super) fn room(&self, i: usize) -> Room {
        Room {
            len: self.lens[i],
            order: self.orders[i],
            zeros: self.zeros[i],
        }
    }

    /// The key of the child after that at place `i`.
    fn next(&self, i: usize) -> Option<u64> {
        self.keys[..self.len()].get(i + 1).copied()
    }

    /// What is free between the child at place `i` and the next, where there is
    /// one.
    ///
    /// # Safety
    ///
    /// The node's children are not freed; `leaf` says whether it is a leaf.
    pub(super) unsafe fn gap_after(&self, i: usize, leaf: bool) -> Option<AddrRange> {
        let next = self.next(i)?;
        let last = self.last_at(i, leaf);
        // SAFETY: says the caller.
        let last = last.unwrap_or_else(|| unsafe { &*self.children[i].node() }.last);
        between(last, next)
    }

    /// The last address mapped below the child at place `i`, where the node knows:
    /// always, if it is a leaf.
    fn last_at(&self, i: usize, leaf: bool) -> Option<u64> {
        match self.next(i) {
            None => Some(self.last),
            // Of a slot there is no inside: this is all the room there is.
            Some(next) => leaf.then(|| next - self.lens[i] - 1),
        }
    }

    /// The children in use, in order, for nodes that take the place of this one.
    pub(super) fn to_items(&self) -> impl Iterator<Item = Item<T>> + '_ {
        let from = ptr::from_ref(self);
        (self.items().enumerate()).map(move |(place, (key, child))| Item {
            key,
            child,
            from,
            place,
        })
    }

    /// The children in use and their keys, in order.
    pub(super) fn items(&self) -> impl DoubleEndedIterator<Item = (u64, Child<T>)> + '_ {
        self.life.touch();
        let keys = self.keys[..self.len()].iter().copied();
        keys.zip(self.children[..self.len()].iter().copied())
    }

    /// Called by whoever frees it.
    #[cfg_attr(not(any(loom, shuttle)), allow(dead_code, reason = "the models'"))]
    pub(super) fn end(&self) {
        self.life.end();
    }
}

/// How many of the first `N` keys, but for the very first, are not above `addr`. In
/// each round three comparisons that depend on nothing but each other's round find
/// the quarter.
#[inline(always)]
fn search<const N: usize>(keys: &[u64; WIDTH], addr: u64) -> usize {
    const { assert!(N.is_power_of_two() && N <= WIDTH) }
    let mut base = 0_u32;
    let mut left = N as u32;
    // In bounds: what is added in all rounds together is below N. Narrow numbers, which
    // the compiler adds up before it makes an address of them.
    let here = |i: u32| u32::from(keys[i as usize % WIDTH] <= addr);
    while left >= 4 {
        left /= 4;
        base += left * (here(base + left) + here(base + 2 * left) + here(base + 3 * left));
    }
    if left == 2 {
        base += here(base + 1);
    }
    base as usize
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
                assert_eq!(search::<WIDTH>(&keys, addr), counted, "{addr} among {len}");
                if len <= SMALL {
                    assert_eq!(search::<SMALL>(&keys, addr), counted, "{addr} among {len}");
                }
            }
        }
    }
}
