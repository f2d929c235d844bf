//! Random sections against an oracle that knows every address by itself.
//!
//! `PROPTEST_CASES=100000` runs more than the default of 256.

use std::sync::Arc;

use proptest::prelude::*;

use super::super::Vma;
use super::*;

/// How many addresses there are.
const SIZE: u64 = 200;

/// A payload whose copies are counted.
#[derive(Clone)]
struct Counted(u64, #[allow(dead_code, reason = "counted")] Arc<()>);

impl Payload for Counted {}

/// What an address is: the payload, the offset in it, and the flags.
type Cell = Option<(u64, u64, VmFlags)>;

#[derive(Clone, Debug)]
enum Op {
    Map(AddrRange, u64),
    Unmap(AddrRange),
    Protect(AddrRange, VmFlags),
    Split(u64),
    Relocate(AddrRange, u64),
}

fn any_range() -> impl Strategy<Value = AddrRange> {
    (0..SIZE, 1..40_u64).prop_map(|(start, len)| range(start, len.min(SIZE - start)))
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (any_range(), 0..1000_u64).prop_map(|(range, offset)| Op::Map(range, offset)),
        2 => any_range().prop_map(Op::Unmap),
        2 => (any_range(), prop_oneof![Just(RAM), Just(ROM)])
            .prop_map(|(range, flags)| Op::Protect(range, flags)),
        1 => (0..SIZE).prop_map(Op::Split),
        1 => (any_range(), 0..SIZE).prop_map(|(range, to)| Op::Relocate(range, to)),
    ]
}

fn cells(range: AddrRange) -> std::ops::Range<usize> {
    range.start() as usize..range.last() as usize + 1
}

/// What `op` makes of the map; nothing if it has to be refused.
fn expect(map: &[Cell], op: &Op, tag: u64) -> Option<Vec<Cell>> {
    let mut map = map.to_vec();
    match *op {
        Op::Map(range, offset) => {
            for (i, cell) in map[cells(range)].iter_mut().enumerate() {
                if cell.is_some() {
                    return None;
                }
                *cell = Some((tag, offset + i as u64, RAM));
            }
        }
        Op::Unmap(range) => {
            let part = &mut map[cells(range)];
            part.iter().find(|cell| cell.is_some())?;
            part.fill(None);
        }
        Op::Protect(range, flags) => {
            for cell in &mut map[cells(range)] {
                cell.as_mut()?.2 = flags;
            }
        }
        Op::Split(addr) => {
            map[addr as usize]?;
        }
        Op::Relocate(range, to) => {
            let part = map[cells(range)].to_vec();
            if part.iter().any(Option::is_none) || to as usize + part.len() > map.len() {
                return None;
            }
            map[cells(range)].fill(None);
            for (cell, moved) in map[to as usize..].iter_mut().zip(part) {
                if cell.is_some() {
                    return None;
                }
                *cell = moved;
            }
        }
    }
    Some(map)
}

/// The map as its readers see it, with its claims about itself.
fn observe(mm: &AddressSpace<Counted>) -> Vec<Cell> {
    let map = mm.mmap_read_lock();
    let mut seen = vec![None; SIZE as usize];
    let mut after = 0;
    for vma in map.iter() {
        assert!(vma.range().start() >= after, "sorted and disjoint");
        after = vma.range().last() + 1;
        for addr in cells(vma.range()) {
            let offset = vma.offset_of(addr as u64).unwrap();
            seen[addr] = Some((vma.payload().0, offset, vma.flags()));
        }
    }
    for (addr, cell) in seen.iter().enumerate() {
        let found = mm.lock_vma_under_rcu(addr as u64);
        assert_eq!(found.is_some(), cell.is_some());
        let next = map.find_vma(addr as u64).map(|vma| vma.range().last());
        let expected = (addr..seen.len()).find(|i| seen[*i].is_some());
        assert_eq!(next.is_some(), expected.is_some());
    }
    let bare = mm.vmas(mm.range());
    assert_eq!(bare.len(), map.iter().count());
    seen
}

proptest! {
    #[test]
    fn sections_do_what_the_oracle_says(
        sections in prop::collection::vec(
            (prop::collection::vec(any_op(), 1..8), 0..8_u8),
            1..24,
        )
    ) {
        let alive = Arc::new(());
        {
            let mm = AddressSpace::new("oracle", range(0, SIZE));
            let mut map: Vec<Cell> = vec![None; SIZE as usize];
            let mut tag = 0;
            for (ops, fate) in sections {
                let mut section = mm.mmap_write_lock().unwrap();
                let mut planned = map.clone();
                for op in &ops {
                    tag += 1;
                    let done = match *op {
                        Op::Map(range, offset) => {
                            section.map(range, RAM, offset, Counted(tag, alive.clone()))
                        }
                        Op::Unmap(range) => section.unmap(range),
                        Op::Protect(range, flags) => section.protect(range, flags),
                        Op::Split(addr) => section.split(addr),
                        Op::Relocate(range, to) => section.relocate(range, to),
                    };
                    let expected = expect(&planned, op, tag);
                    prop_assert_eq!(done.is_ok(), expected.is_some(), "{:?}", op);
                    planned = expected.unwrap_or(planned);
                }
                // Given up before or after the drain, or published.
                match fate {
                    0 => drop(section),
                    1 => drop(section.lock().unwrap()),
                    _ => {
                        let drained = section.lock().unwrap();
                        let announced = drained.removed().count();
                        let done = drained.publish();
                        prop_assert_eq!(announced, done.removed.len());
                        let size = |vma: &Vma<Counted>| vma.range().len().unwrap();
                        let gone: u64 = done.removed.iter().map(size).sum();
                        let tags = |map: &[Cell]| {
                            map.iter().flatten().map(|c| (c.0, c.1)).collect::<Vec<_>>()
                        };
                        let left = tags(&planned);
                        let lost = tags(&map).iter().filter(|c| !left.contains(c)).count();
                        prop_assert_eq!(gone, lost as u64);
                        map = planned;
                    }
                }
                prop_assert_eq!(&observe(&mm), &map);
            }
        }
        prop_assert_eq!(Arc::strong_count(&alive), 1, "nothing leaked");
    }
}
