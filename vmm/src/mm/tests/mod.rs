//! Tests of the map on real threads. What they wait for is a state, never a time.

mod basic;
mod half;
mod lines;
mod matrix;
mod merge;
mod observer;
mod oracle;
mod parked;
mod pin_sets;
mod readers;
mod regressions;
mod storm;
mod strategies;
mod trees;
mod writers;

use std::sync::Arc;
use std::time::Duration;

use super::core::Pace;
use super::{AddrRange, AddressSpace, Payload, VmFlags};

/// A payload that is the same as another when it says the same.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tag(u64);

impl Payload for Tag {}

type Space = AddressSpace<Tag>;

const RAM: VmFlags = VmFlags::READ.union(VmFlags::WRITE);
const ROM: VmFlags = VmFlags::READ;

fn range(start: u64, len: u64) -> AddrRange {
    AddrRange::new(start, len).unwrap()
}

fn space() -> Arc<Space> {
    Arc::new(AddressSpace::new("test", range(0, 1 << 40)))
}

/// With pages mapped at each of these numbers.
fn space_with(pages: impl IntoIterator<Item = u64>) -> Arc<Space> {
    let mm = space();
    for number in pages {
        mm.map(page(number), RAM, 0, Tag(number)).unwrap();
    }
    mm
}

fn page(number: u64) -> AddrRange {
    range(number << 12, 1 << 12)
}

fn at(number: u64) -> u64 {
    number << 12
}

/// Slices too long to be what ends a drain.
fn patient() -> Pace {
    Pace {
        round: Duration::from_secs(3600),
        slice: (Duration::from_secs(3600), Duration::from_secs(3600)),
    }
}

/// As [`space_with`], whose drains take one round.
fn patient_space_with(pages: impl IntoIterator<Item = u64>) -> Arc<Space> {
    let mm = Space::starting_at(
        "patient",
        range(0, 1 << 40),
        super::Strategy::Native,
        0,
        patient(),
    );
    for number in pages {
        mm.map(page(number), RAM, 0, Tag(number)).unwrap();
    }
    Arc::new(mm)
}

fn until(mut what: impl FnMut() -> bool) {
    while !what() {
        std::thread::yield_now();
    }
}
