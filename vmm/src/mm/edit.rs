//! The next version of the tree: path copying.
//!
//! A change makes new nodes for what differs and shares the rest, so that nothing
//! which a reader may be looking at is ever written. All of a section's edits go
//! into one new version, published by one store of its root.

use std::collections::BTreeSet;

use super::node::{Child, Item, Node, WIDTH};
use super::slot::Slot;

/// A node with fewer children than this is joined with a neighbour when it is
/// made.
pub(super) const FEW: usize = WIDTH / 4 + 1;

/// One address at which the next version differs.
pub(super) struct Edit<T> {
    /// The first address of the slot that comes or goes.
    pub(super) key: u64,
    /// What comes; nothing for what goes.
    pub(super) slot: Option<*const Slot<T>>,
}

/// A version of the tree that is not yet in force.
pub(super) struct Version<T> {
    /// Its root, null for an empty tree.
    pub(super) root: Child<T>,
    /// The nodes that it has and its predecessor has not.
    fresh: BTreeSet<*mut ()>,
    /// The nodes that its predecessor has and it has not.
    stale: Vec<Child<T>>,
}

impl<T> Version<T> {
    /// The version that differs from that of `root` by `edits`, which are in the
    /// order of their keys, one for each.
    ///
    /// # Safety
    ///
    /// `root` is null or the root of a tree that is not freed meanwhile.
    pub(super) unsafe fn new(root: Child<T>, edits: &[Edit<T>]) -> Self {
        let mut this = Self {
            root,
            fresh: BTreeSet::new(),
            stale: Vec::new(),
        };
        if edits.is_empty() {
            return this;
        }
        let mut level = Vec::new();
        let mut leaf = true;
        if root.is_null() {
            let new = edits.iter().filter_map(Edit::item).collect();
            this.pack(new, true, true, &mut level);
        } else {
            leaf = root.is_leaf();
            // SAFETY: passed on.
            unsafe { this.rewrite(root, edits, &mut level) };
        }
        while level.len() > 1 {
            leaf = false;
            let items = std::mem::take(&mut level);
            this.pack(items, false, true, &mut level);
        }
        this.root = level.first().map_or(Child::null(), |item| item.child);
        // An inner root with one child says nothing that the child does not.
        while !leaf && !this.root.is_null() && !this.root.is_leaf() {
            // SAFETY: a node of this version.
            let node = unsafe { &*this.root.node() };
            if node.len() > 1 {
                break;
            }
            let only = node.items().next().map(|(_, child)| child);
            let outer = this.root;
            this.root = only.unwrap_or(Child::null());
            this.discard(outer);
        }
        // SAFETY: null, or a node of this version.
        this.root = unsafe { this.root.into_root() };
        this
    }

    /// Gives the version up: none of it was published.
    pub(super) fn abandon(self) {
        for node in self.fresh {
            // SAFETY: made here, and never seen by anybody else.
            unsafe { free(Child::<T>::from_raw(node)) };
        }
    }

    /// The version is in force: returns what nobody new will find.
    pub(super) fn into_stale(self) -> Vec<Child<T>> {
        self.stale
    }

    /// Appends what becomes of `child` to `out`: nothing, one node or several.
    ///
    /// # Safety
    ///
    /// `child` is a node that is not freed meanwhile.
    unsafe fn rewrite(&mut self, child: Child<T>, edits: &[Edit<T>], out: &mut Vec<Item<T>>) {
        // SAFETY: says the caller.
        let node = unsafe { &*child.node() };
        let old: Vec<Item<T>> = node.to_items().collect();
        let mut new = Vec::with_capacity(old.len() + edits.len());
        // Ranges that only ever grow upwards leave full nodes behind.
        let appends = old.last().is_some_and(|item| edits[0].key > item.key);
        if child.is_leaf() {
            merge(&old, edits, &mut new);
            self.pack(new, true, appends, out);
        } else {
            let mut rest = edits;
            for (i, below) in old.iter().enumerate() {
                let mine = match old.get(i + 1) {
                    Some(next) => rest.partition_point(|edit| edit.key < next.key),
                    None => rest.len(),
                };
                let (here, later) = rest.split_at(mine);
                rest = later;
                if here.is_empty() {
                    new.push(*below);
                } else {
                    // SAFETY: an inner node's children are nodes of its version.
                    unsafe { self.rewrite(below.child, here, &mut new) };
                }
            }
            self.join_small(&mut new);
            self.pack(new, false, appends, out);
        }
        self.discard(child);
    }

    /// Joins nodes that have few children with a neighbour. Looks at pairs that were
    /// none before: since a node is new, or what lay between them is gone, or their
    /// parents were joined.
    fn join_small(&mut self, level: &mut Vec<Item<T>>) {
        let mut i = 0;
        while i + 1 < level.len() {
            if level[i].leads(&level[i + 1]) {
                i += 1;
                continue;
            }
            let (left, right) = (level[i].child, level[i + 1].child);
            // SAFETY: nodes of this version, which nobody frees but us.
            let (l, r) = unsafe { (&*left.node(), &*right.node()) };
            if l.len().min(r.len()) < FEW && l.len() + r.len() <= WIDTH {
                let mut items: Vec<_> = l.to_items().chain(r.to_items()).collect();
                let leaf = left.is_leaf();
                if !leaf {
                    self.join_small(&mut items);
                }
                let joined = self.make(&items, leaf);
                self.discard(left);
                self.discard(right);
                level[i] = Item::new(items[0].key, joined);
                level.remove(i + 1);
            } else {
                i += 1;
            }
        }
    }

    /// Makes nodes of `items` and appends them to `out`. They are filled one after
    /// the other, or evenly.
    fn pack(&mut self, items: Vec<Item<T>>, leaf: bool, fill: bool, out: &mut Vec<Item<T>>) {
        let nodes = items.len().div_ceil(WIDTH);
        if nodes == 0 {
            return;
        }
        let each = if fill {
            WIDTH
        } else {
            items.len().div_ceil(nodes)
        };
        for chunk in items.chunks(each) {
            let node = self.make(chunk, leaf);
            out.push(Item::new(chunk[0].key, node));
        }
    }

    fn make(&mut self, items: &[Item<T>], leaf: bool) -> Child<T> {
        // SAFETY: slots that stay or come, or nodes of this version; a node that
        // they come from is discarded after the call.
        let node = unsafe { Node::make(items, leaf) };
        self.fresh.insert(node.into_raw());
        node
    }

    /// The version does not have `node` after all.
    fn discard(&mut self, node: Child<T>) {
        if self.fresh.remove(&node.into_raw()) {
            // SAFETY: made here, never published, and in no other node.
            unsafe { free(node) };
        } else {
            self.stale.push(node);
        }
    }
}

impl<T> Edit<T> {
    fn item(&self) -> Option<Item<T>> {
        self.slot
            .map(|slot| Item::new(self.key, Child::from_slot(slot)))
    }
}

/// Appends the children of a leaf, edited, to `new`.
fn merge<T>(old: &[Item<T>], edits: &[Edit<T>], new: &mut Vec<Item<T>>) {
    let mut old = old.iter().peekable();
    for edit in edits {
        while let Some(item) = old.next_if(|item| item.key < edit.key) {
            new.push(*item);
        }
        old.next_if(|item| item.key == edit.key);
        new.extend(edit.item());
    }
    new.extend(old);
}

/// Frees a node, and nothing below it.
///
/// # Safety
///
/// Made by [`Node::make`], freed once, and nobody looks at it any more.
pub(super) unsafe fn free<T>(node: Child<T>) {
    // SAFETY: says the caller.
    drop(unsafe { Box::from_raw(node.node()) });
}

/// Calls `each` for every slot of a tree and frees its nodes.
///
/// # Safety
///
/// `root` is null or the root of a tree that nobody looks at any more.
pub(super) unsafe fn dismantle<T>(root: Child<T>, each: &mut impl FnMut(*const Slot<T>)) {
    if root.is_null() {
        return;
    }
    // SAFETY: says the caller.
    for (_, child) in unsafe { &*root.node() }.items() {
        if root.is_leaf() {
            each(child.slot());
        } else {
            // SAFETY: as said of the root, so of what is below it.
            unsafe { dismantle(child, each) };
        }
    }
    // SAFETY: says the caller; its children were copied out.
    unsafe { free(root) };
}

#[cfg(test)]
mod tests {
    use super::super::audit::audit;
    use super::super::{AddrRange, VmFlags, Vma, tree};
    use super::*;

    fn slot(key: u64) -> *const Slot<()> {
        let range = AddrRange::new(key, 1).unwrap();
        Box::into_raw(Slot::new(Vma::new(range, VmFlags::NONE, 0, 1, ())))
    }

    fn check(root: Child<()>) -> usize {
        // SAFETY: the test's own tree.
        unsafe { audit(root) }.depth
    }

    /// Grows and shrinks a tree by batches of edits.
    fn storm(batch: usize, keys: u64, rounds: usize) {
        let mut random = 88_172_645_463_325_252_u64;
        let mut next = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        let mut root = Child::null();
        let mut oracle = std::collections::BTreeMap::new();
        for round in 0..rounds {
            // Grow for a while, then shrink for a while.
            let grows = if (round / 64) % 2 == 0 { 9 } else { 1 };
            let chosen: BTreeSet<u64> = (0..batch).map(|_| 2 * next(keys)).collect();
            let mut gone = Vec::new();
            let edits: Vec<_> = chosen
                .into_iter()
                .filter_map(|key| {
                    let slot = if next(10) < grows {
                        let slot = slot(key);
                        gone.extend(oracle.insert(key, slot));
                        Some(slot)
                    } else {
                        gone.push(oracle.remove(&key)?);
                        None
                    };
                    Some(Edit { key, slot })
                })
                .collect();
            // SAFETY: the test's own tree, on one thread.
            let version = unsafe { Version::new(root, &edits) };
            root = version.root;
            for node in version.into_stale() {
                // SAFETY: in no version that is left.
                unsafe { free(node) };
            }
            check(root);
            let all = AddrRange::inclusive(0, u64::MAX).unwrap();
            // SAFETY: the test's own tree, on one thread.
            let there: Vec<_> = unsafe { tree::slots(root, all) }
                .map(std::ptr::from_ref)
                .collect();
            assert_eq!(there, oracle.values().copied().collect::<Vec<_>>());
            // SAFETY: as above.
            let mut back: Vec<_> = unsafe { tree::slots(root, all) }
                .rev()
                .map(std::ptr::from_ref)
                .collect();
            back.reverse();
            assert_eq!(there, back);
            for _ in 0..20 {
                let addr = next(2 * keys + 2);
                // SAFETY: as above.
                let found = unsafe { tree::find(root, addr) }.map(std::ptr::from_ref);
                assert_eq!(found, oracle.get(&addr).copied());
            }
            for slot in gone {
                // SAFETY: in no version that is left.
                drop(unsafe { Box::from_raw(slot.cast_mut()) });
            }
        }
        // SAFETY: the test's own tree.
        unsafe {
            dismantle(root, &mut |slot| drop(Box::from_raw(slot.cast_mut())));
        }
    }

    #[test]
    fn versions_hold_what_their_edits_say() {
        storm(1, 40, 600);
        storm(5, 200, 600);
        storm(70, 2000, 300);
    }

    #[test]
    fn growing_upwards_fills_the_nodes() {
        let mut root = Child::null();
        for key in 0..(WIDTH * WIDTH) as u64 {
            let edits = [Edit {
                key,
                slot: Some(slot(key)),
            }];
            // SAFETY: the test's own tree, on one thread.
            let version = unsafe { Version::new(root, &edits) };
            root = version.root;
            for node in version.into_stale() {
                // SAFETY: in no version that is left.
                unsafe { free(node) };
            }
        }
        assert_eq!(check(root), 2);
        // SAFETY: the test's own tree.
        unsafe {
            dismantle(root, &mut |slot| drop(Box::from_raw(slot.cast_mut())));
        }
    }
}
