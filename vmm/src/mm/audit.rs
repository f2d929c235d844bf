//! The claims that a tree makes about itself, checked one by one.

use super::AddrRange;
use super::node::{Child, WIDTH};
use super::room::Room;

/// What a tree that keeps all its claims looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shape {
    /// How many nodes lie on the way to a slot.
    pub(super) depth: usize,
    pub(super) nodes: usize,
    pub(super) slots: usize,
}

/// What lies below a child.
struct Below {
    first: u64,
    last: u64,
    room: Room,
    shape: Shape,
}

/// Checks that slots are in order and disjoint and equally deep; that keys are
/// first addresses; that every number about room is what the slots make it; that no
/// node is empty or overfull, none that has few children lies beside one that would
/// take them, and no root has a single node below it.
///
/// # Safety
///
/// `root` is null or the root of a tree that is not freed meanwhile.
pub(super) unsafe fn audit<T>(root: Child<T>) -> Shape {
    if root.is_null() {
        return Shape::default();
    }
    // SAFETY: says the caller.
    let below = unsafe { node(root) };
    // SAFETY: says the caller.
    let len = unsafe { &*root.node() }.len();
    assert!(root.is_leaf() || len > 1, "collapsed");
    below.shape
}

unsafe fn node<T>(child: Child<T>) -> Below {
    let leaf = child.is_leaf();
    // SAFETY: says the caller of `audit`.
    let node = unsafe { &*child.node() };
    assert!((1..=WIDTH).contains(&node.len()));
    let below: Vec<_> = (node.items())
        .map(|(key, child)| {
            let below = match leaf {
                // SAFETY: as above, and a leaf's children are slots.
                true => slot(unsafe { &*child.slot() }.range()),
                // SAFETY: as above, and an inner node's children are nodes.
                false => unsafe { self::node(child) },
            };
            assert_eq!(below.first, key, "keys are first addresses");
            below
        })
        .collect();
    let mut shape = Shape {
        depth: below[0].shape.depth + 1,
        nodes: 1,
        slots: 0,
    };
    let mut room = Room::NONE;
    for (i, this) in below.iter().enumerate() {
        assert_eq!(this.shape.depth + 1, shape.depth, "equally deep");
        shape.nodes += this.shape.nodes;
        shape.slots += this.shape.slots;
        let mut here = this.room;
        if let Some(next) = below.get(i + 1) {
            assert!(this.last < next.first, "in order and disjoint");
            let free = AddrRange::new(this.last.wrapping_add(1), next.first - this.last - 1);
            here = free.map_or(here, |free| here.or(Room::of(free)));
            // SAFETY: as above.
            assert_eq!(unsafe { node.gap_after(i, leaf) }, free);
        }
        assert_eq!(node.room(i), here, "room at child {i}");
        room = room.or(here);
    }
    if !leaf {
        let items: Vec<_> = node.items().collect();
        for pair in items.windows(2) {
            // SAFETY: as above.
            let [l, r] = [0, 1].map(|i| unsafe { &*pair[i].1.node() }.len());
            let few = l.min(r) < super::edit::FEW;
            assert!(!few || l + r > WIDTH, "{l} and {r} side by side");
        }
    }
    let (first, last) = (below[0].first, below[below.len() - 1].last);
    assert_eq!((node.first(), node.last()), (first, last));
    Below {
        first,
        last,
        room,
        shape,
    }
}

fn slot(range: AddrRange) -> Below {
    let shape = Shape {
        slots: 1,
        ..Shape::default()
    };
    Below {
        first: range.start(),
        last: range.last(),
        room: Room::NONE,
        shape,
    }
}
