//! The operations, and what each makes of a map that knows every address.

use proptest::prelude::*;

use super::super::super::Gap;
use super::super::*;

/// What an address is: the payload, the offset in it, and the flags.
pub(super) type Cell = Option<(u64, u64, VmFlags)>;

/// One step of a section. Addresses count from the first of the space.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Map(AddrRange, u64),
    /// At a gap, if there is one.
    MapAt(Gap),
    Unmap(AddrRange),
    Protect(AddrRange, VmFlags),
    Split(u64),
    Relocate(AddrRange, u64),
}

fn any_range(size: u64) -> impl Strategy<Value = AddrRange> {
    (0..size, 1..40_u64).prop_map(move |(start, len)| range(start, len.min(size - start)))
}

fn any_gap(size: u64) -> impl Strategy<Value = Gap> {
    (1..20_u64, 0..17_u64, any_range(size), 0..4_u8).prop_map(move |(len, align, part, how)| Gap {
        len,
        align,
        window: if how & 2 == 0 { part } else { range(0, size) },
        highest: how & 1 == 0,
    })
}

pub(super) fn any_op(size: u64) -> impl Strategy<Value = Op> {
    let flags = prop_oneof![Just(RAM), Just(ROM)];
    prop_oneof![
        4 => (any_range(size), 0..1000_u64).prop_map(|(range, offset)| Op::Map(range, offset)),
        3 => any_gap(size).prop_map(Op::MapAt),
        2 => any_range(size).prop_map(Op::Unmap),
        2 => (any_range(size), flags).prop_map(|(range, flags)| Op::Protect(range, flags)),
        1 => (0..size).prop_map(Op::Split),
        1 => (any_range(size), 0..size).prop_map(|(range, to)| Op::Relocate(range, to)),
    ]
}

pub(super) fn cells(range: AddrRange) -> std::ops::Range<usize> {
    range.start() as usize..range.last() as usize + 1
}

/// Where `gap` is to be found, if the map begins at `base`.
pub(super) fn expect_gap(map: &[Cell], base: u64, gap: Gap) -> Option<AddrRange> {
    let window = cells(gap.window);
    // How many free addresses there are from each one on, up to the window's end.
    let mut free = vec![0; window.end + 1];
    for i in window.clone().rev() {
        free[i] = if map[i].is_none() { free[i + 1] + 1 } else { 0 };
    }
    let mut fits = window.filter(|i| {
        let aligned = (base + *i as u64).is_multiple_of(gap.align.max(1));
        aligned && gap.len > 0 && free[*i] >= gap.len
    });
    let start = if gap.highest {
        fits.next_back()
    } else {
        fits.next()
    };
    AddrRange::new(start? as u64, gap.len)
}

/// What `op` makes of the map; nothing if it has to be refused.
pub(super) fn expect(map: &[Cell], base: u64, op: &Op, tag: u64) -> Option<Vec<Cell>> {
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
        Op::MapAt(gap) => {
            let range = expect_gap(&map, base, gap)?;
            return expect(&map, base, &Op::Map(range, 0), tag);
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
