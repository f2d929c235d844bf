//! The merge matrix: what is left and right of a change, times what the change is,
//! times why the two may not be merged. For each: what is mapped afterwards, and
//! that what was locked is what has changed.

use super::super::{VmaPin, WriteSection};
use super::*;

/// The same as another with the same number.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part(u64);

impl Payload for Part {
    fn same(&self, other: &Self) -> bool {
        self == other
    }
}

/// What is on one side of the change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Absent,
    Fits,
    OtherFlags,
    OtherOffset,
    OtherPayload,
    /// It fits, and is told apart by the flag that keeps it.
    NoMerge,
    /// It fits, and is pinned: a reader is at it.
    Read,
    /// It would fit, were it not for the page between.
    Away,
}

const SIDES: [Side; 8] = [
    Side::Absent,
    Side::Fits,
    Side::OtherFlags,
    Side::OtherOffset,
    Side::OtherPayload,
    Side::NoMerge,
    Side::Read,
    Side::Away,
];

/// The change, in the pages 4 to 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    New,
    Relocated,
    /// These pages get other flags.
    Protected(u64, u64),
}

const CHANGES: [Change; 6] = [
    Change::New,
    Change::Relocated,
    Change::Protected(4, 4),
    Change::Protected(4, 1),
    Change::Protected(5, 2),
    Change::Protected(7, 1),
];

fn pages(first: u64, count: u64) -> AddrRange {
    range(at(first), at(count))
}

/// Maps a neighbour, whose place is these pages.
fn put(mm: &AddressSpace<Part>, side: Side, place: AddrRange, away: AddrRange) {
    let flags = match side {
        Side::Absent => return,
        Side::OtherFlags => VmFlags::READ | VmFlags::EXEC,
        Side::NoMerge => RAM | VmFlags::NOMERGE,
        _ => RAM,
    };
    let place = if side == Side::Away { away } else { place };
    let offset = place.start() + u64::from(side == Side::OtherOffset);
    let payload = Part(u64::from(side == Side::OtherPayload));
    mm.map(place, flags, offset, payload).unwrap();
}

/// What is mapped: range, flags, and which section made it.
fn now(mm: &AddressSpace<Part>) -> Vec<(AddrRange, VmFlags, u64)> {
    let all = mm.vmas(mm.range());
    all.iter()
        .map(|vma| (vma.range, vma.flags, vma.generation))
        .collect()
}

/// Locks, publishes, and checks that what was locked is what has changed. Returns
/// what was locked.
fn commit(mm: &AddressSpace<Part>, section: WriteSection<'_, Part>) -> Vec<AddrRange> {
    let before = now(mm);
    let drained = section.lock().unwrap();
    let locked = drained.write_set();
    let done = drained.publish();
    let after = now(mm);
    let goes = before.iter().filter(|vma| !after.contains(vma));
    let changed: Vec<_> = goes.map(|vma| vma.0).collect();
    assert_eq!(locked, changed, "lock set = change set");
    assert_eq!(done.removed.len(), 0, "what is absorbed is not removed");
    let replaced: Vec<_> = done.replaced.iter().map(|vma| vma.range()).collect();
    assert_eq!(locked, replaced);
    locked
}

#[test]
fn the_merge_matrix() {
    for change in CHANGES {
        for prev in SIDES {
            for next in SIDES {
                try_out(change, prev, next);
            }
        }
    }
}

fn try_out(change: Change, prev: Side, next: Side) {
    let what = format!("{change:?} between {prev:?} and {next:?}");
    let mm = AddressSpace::new("matrix", range(0, at(100)));
    let (left, middle, right) = (pages(2, 2), pages(4, 4), pages(8, 2));
    put(&mm, prev, left, pages(1, 2));
    put(&mm, next, right, pages(9, 2));
    match change {
        Change::New => {}
        Change::Relocated => mm.map(pages(20, 4), RAM, at(4), Part(0)).unwrap(),
        Change::Protected(..) => mm.map(middle, ROM, at(4), Part(0)).unwrap(),
    }
    let pin = |side: Side, page| -> Option<VmaPin<Part>> {
        let held = (side == Side::Read).then(|| mm.lock_vma_under_rcu(at(page)).unwrap());
        held.map(|guard| guard.pin())
    };
    let pins = (pin(prev, 2), pin(next, 8));
    let mut section = mm.mmap_write_lock().unwrap();
    let changed = match change {
        Change::New => section.map(middle, RAM, at(4), Part(0)).map(|()| middle),
        Change::Relocated => section.relocate(pages(20, 4), at(4)).map(|()| middle),
        Change::Protected(first, count) => {
            let part = pages(first, count);
            section.protect(part, RAM).map(|()| part)
        }
    };
    let changed = changed.unwrap();
    let locked = commit(&mm, section);
    let with_left = prev == Side::Fits && changed.start() == at(4);
    let with_right = next == Side::Fits && changed.last() == at(8) - 1;
    let mut expected = Vec::new();
    expected.extend(with_left.then_some(left));
    expected.extend(matches!(change, Change::Protected(..)).then_some(middle));
    expected.extend(with_right.then_some(right));
    expected.extend((change == Change::Relocated).then_some(pages(20, 4)));
    assert_eq!(locked, expected, "{what}");
    let start = if with_left { left } else { changed }.start();
    let last = if with_right { right } else { changed }.last();
    let found = mm.lock_vma_under_rcu(changed.start()).unwrap();
    assert_eq!(
        found.range(),
        AddrRange::inclusive(start, last).unwrap(),
        "{what}"
    );
    assert_eq!((found.flags(), found.offset()), (RAM, start), "{what}");
    drop(pins);
}

/// Both have the flag, so that nothing but it keeps them apart.
#[test]
fn blocks_keep_their_identity() {
    let mm = AddressSpace::new("blocks", range(0, at(100)));
    let block = RAM | VmFlags::NOMERGE;
    for page in [1, 3, 2] {
        let mut section = mm.mmap_write_lock().unwrap();
        section
            .map(pages(page, 1), block, at(page), Part(0))
            .unwrap();
        assert!(commit(&mm, section).is_empty());
    }
    assert_eq!(now(&mm).len(), 3);
    // Without it they are merged, with each other and at once.
    let mut section = mm.mmap_write_lock().unwrap();
    let (set, clear) = (VmFlags::NONE, VmFlags::NOMERGE);
    section.change_flags(pages(1, 3), set, clear).unwrap();
    assert_eq!(commit(&mm, section).len(), 3);
    assert_eq!(now(&mm)[0].0, pages(1, 3));
}

/// What a VMA is, rather than what may be done with it.
#[test]
fn other_access_keeps_the_other_flags() {
    let mm = AddressSpace::new("kept", range(0, at(100)));
    let kept = VmFlags::IO | VmFlags::NOMERGE | VmFlags::EMBEDDER;
    mm.map(pages(1, 1), RAM | kept, at(1), Part(0)).unwrap();
    mm.map(pages(2, 1), RAM, at(2), Part(0)).unwrap();
    let flags = || mm.vmas(mm.range()).iter().map(|vma| vma.flags).collect();
    let all: [(VmFlags, Vec<_>); 4] = [
        (ROM, vec![ROM | kept, ROM]),
        // Nor does it set any of them.
        (
            VmFlags::EXEC | kept,
            vec![VmFlags::EXEC | kept, VmFlags::EXEC],
        ),
        (VmFlags::NONE, vec![kept, VmFlags::NONE]),
        (RAM, vec![RAM | kept, RAM]),
    ];
    for (access, expected) in all {
        let mut section = mm.mmap_write_lock().unwrap();
        section.protect(pages(1, 2), access).unwrap();
        assert_eq!(commit(&mm, section).len(), 2);
        let now: Vec<_> = flags();
        assert_eq!(now, expected);
    }
    let mut section = mm.mmap_write_lock().unwrap();
    section
        .protect(pages(1, 2), RAM | VmFlags::EMBEDDER)
        .unwrap();
    assert!(commit(&mm, section).is_empty(), "nothing is asked for");
    let mut section = mm.mmap_write_lock().unwrap();
    let (set, clear) = (VmFlags::IO, VmFlags::IO | VmFlags::EMBEDDER);
    section.change_flags(pages(1, 2), set, clear).unwrap();
    section.lock().unwrap().publish();
    let now: Vec<_> = flags();
    let io = VmFlags::IO;
    assert_eq!(now, [RAM | io | VmFlags::NOMERGE, RAM | io]);
}

#[test]
fn three_ways_and_back() {
    let mm = AddressSpace::new("split", range(0, at(100)));
    mm.map(pages(1, 9), RAM, at(1), Part(0)).unwrap();
    let protect = |part, flags| {
        let mut section = mm.mmap_write_lock().unwrap();
        section.protect(part, flags).unwrap();
        commit(&mm, section)
    };
    assert_eq!(protect(pages(4, 3), ROM), [pages(1, 9)]);
    let three = [pages(1, 3), pages(4, 3), pages(7, 3)];
    let ranges = || now(&mm).iter().map(|vma| vma.0).collect::<Vec<_>>();
    assert_eq!(ranges(), three);
    assert!(protect(pages(1, 3), RAM).is_empty(), "they are so already");
    assert_eq!(protect(pages(4, 3), RAM), three);
    assert_eq!(ranges(), [pages(1, 9)]);
    // And across VMAs: what has the flags already is not looked at.
    protect(pages(4, 3), ROM);
    protect(pages(5, 1), RAM);
    assert_eq!(ranges().len(), 5);
    assert_eq!(protect(pages(2, 7), RAM).len(), 5);
    assert_eq!(ranges(), [pages(1, 9)]);
}
