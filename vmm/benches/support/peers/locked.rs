//! A tree behind one lock: with the region copied out, or, as Cloud Hypervisor has
//! it, with an `Arc` that outlives the lock.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use super::super::contender::Map;
use super::{Region, regions};

/// The covering entry of a tree.
fn covering<V>(tree: &BTreeMap<u64, V>, addr: u64) -> Option<&V> {
    tree.range(..=addr).next_back().map(|(_, region)| region)
}

macro_rules! locked_tree {
    ($type:ident, $name:literal, $lock:ty, $wrap:path, $($unpoison:tt)*) => {
        pub(crate) struct $type($lock);

        impl $type {
            pub(crate) fn new(count: usize) -> Self {
                let tree: BTreeMap<_, _> = regions(count).map(|r| (r.start, $wrap(r))).collect();
                Self(<$lock>::new(tree))
            }
        }

        impl Map for $type {
            type Handle<'a> = &'a Self;

            fn name(&self) -> &'static str {
                $name
            }

            fn handle(&self) -> &Self {
                self
            }

            #[inline]
            fn lookup(handle: &mut &Self, addr: u64) -> Option<u64> {
                let tree = handle.0.read()$($unpoison)*;
                // A copy, or an `Arc`: what goes on being used after the lock.
                #[allow(clippy::clone_on_copy, reason = "an Arc in one of the three")]
                let region = covering(&tree, addr)?.clone();
                drop(tree);
                region.number_at(addr)
            }

            fn replace(&self, index: usize) {
                let region = Region::new(index);
                let mut tree = self.0.write()$($unpoison)*;
                tree.remove(&region.start);
                tree.insert(region.start, $wrap(region));
            }

            fn unmap_map(&self, index: usize) {
                let region = Region::new(index);
                self.0.write()$($unpoison)*.remove(&region.start);
                self.0.write()$($unpoison)*.insert(region.start, $wrap(region));
            }
        }
    };
}

type Values = BTreeMap<u64, Region>;
type Arcs = BTreeMap<u64, Arc<Region>>;

locked_tree!(StdValues, "rwlock-btreemap", RwLock<Values>, std::convert::identity, .unwrap());
locked_tree!(StdArcs, "rwlock-btreemap-arc", RwLock<Arcs>, Arc::new, .unwrap());
locked_tree!(
    ParkingLot,
    "parking-lot-btreemap",
    parking_lot::RwLock<Values>,
    std::convert::identity,
);
