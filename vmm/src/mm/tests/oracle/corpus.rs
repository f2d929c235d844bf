//! A corpus of random sections, as long as one likes.
//!
//! `GRACEFAULT_CORPUS` says how many operations, `GRACEFAULT_SEED` which: the same
//! seed makes the same operations and ends in the same hash.

use super::super::super::Gap;
use super::super::*;
use super::fate::{ALL, Fate};
use super::ops::Op;
use super::world::World;

/// How many operations one map sees.
const EPOCH: u64 = 5000;

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(value) => value.parse().unwrap_or_else(|_| panic!("{name}={value}")),
        Err(_) => default,
    }
}

pub(super) fn run() {
    let total = number("GRACEFAULT_CORPUS", 10_000);
    let seed = number("GRACEFAULT_SEED", 1);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let (mut done, mut sections, mut given_up, mut merged, mut deepest) = (0, 0, 0, 0, 0);
    while done < total {
        let size = [40, 200, 1000][random.usize(..3)];
        let mut world = World::new(size, random.bool(), random.bool());
        let longest = if random.bool() { 2 } else { random.u64(2..=40) };
        let end = total.min(done + EPOCH);
        while done < end {
            // Fills up for a while, then is taken down.
            let maps = if (done / 1000).is_multiple_of(2) {
                16
            } else {
                4
            };
            let count = random.u64(1..=16).min(end - done);
            let ops: Vec<_> = (0..count)
                .map(|_| op(&mut random, size, longest, maps))
                .collect();
            let published = world.section(&ops, fate(&mut random));
            let shape = world.check_some(random.usize(1..=size as usize));
            deepest = shape.depth.max(deepest);
            for word in [u64::from(published), shape.slots as u64, shape.nodes as u64] {
                hash = (hash ^ word).wrapping_mul(0x0100_0000_01b3);
            }
            done += count;
            sections += 1;
        }
        given_up += world.given_up;
        merged += world.merged;
        world.end();
    }
    println!(
        "{done} operations in {sections} sections of seed {seed}, {given_up} given up, {merged} merged, depth {deepest}, hash {hash:016x}"
    );
    assert!(given_up > 0 && merged > 0 && deepest > 1, "vacuous");
}

fn fate(random: &mut fastrand::Rng) -> Fate {
    match random.usize(..16) {
        i if i < ALL.len() => ALL[i],
        5 => Fate::PayloadPanics(random.u64(1..8)),
        _ => Fate::Published,
    }
}

/// `maps` of 20 or so are to map something.
fn op(random: &mut fastrand::Rng, size: u64, longest: u64, maps: u64) -> Op {
    let start = random.u64(..size);
    let part = range(start, random.u64(1..=longest).min(size - start));
    let kind = random.u64(..24);
    if kind < maps {
        return match random.bool() {
            true => Op::Map(part, random.u64(..1000)),
            false => Op::MapAt(Gap {
                len: random.u64(1..=longest),
                align: random.u64(..17),
                window: if random.bool() { range(0, size) } else { part },
                highest: random.bool(),
            }),
        };
    }
    match random.u64(..8) {
        0..4 => Op::Unmap(part),
        4 => Op::Protect(part, RAM),
        5 => Op::Protect(part, ROM),
        6 => Op::Split(start),
        _ => Op::Relocate(part, random.u64(..size)),
    }
}
