//! Random sections against two oracles: one that knows every address by itself,
//! and `rangemap`'s. Sections are given up wherever that can happen.
//!
//! `PROPTEST_CASES=100000` runs more than the default of 256, and
//! `GRACEFAULT_CORPUS=10000000` that many operations of a [corpus](corpus).

mod corpus;
mod fate;
mod ops;
mod world;

use std::cell::Cell as StdCell;
use std::panic::resume_unwind;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use fate::{ALL, Fate};
use ops::{Op, any_op};
use world::World;

/// A payload whose copies are counted, and whose copying and comparing may be made to
/// panic. It is the same as others of its mapping, if it is so at all.
struct Counted {
    tag: u64,
    merges: bool,
    _alive: Arc<()>,
}

impl Payload for Counted {
    fn same(&self, other: &Self) -> bool {
        may_panic();
        self.merges && self.tag == other.tag
    }
}

thread_local! {
    /// Which call of these from now on panics: 1 for the next one, 0 for none.
    static PANICS: StdCell<u64> = const { StdCell::new(0) };
}

fn may_panic() {
    match PANICS.get() {
        0 => {}
        // Past the hook, which would print it.
        1 => {
            PANICS.set(0);
            resume_unwind(Box::new("no copy"))
        }
        n => PANICS.set(n - 1),
    }
}

impl Clone for Counted {
    fn clone(&self) -> Self {
        may_panic();
        Self {
            tag: self.tag,
            merges: self.merges,
            _alive: self._alive.clone(),
        }
    }
}

fn any_sections() -> impl Strategy<Value = Vec<Vec<Op>>> {
    prop::collection::vec(prop::collection::vec(any_op(SIZE), 1..8), 1..12)
}

/// How many addresses there are.
const SIZE: u64 = 200;

proptest! {
    #[test]
    fn sections_do_what_the_oracle_says(
        sections in any_sections(), at_the_end: bool, merges: bool,
    ) {
        let mut world = World::new(SIZE, at_the_end, merges);
        for ops in sections {
            world.section(&ops, Fate::Published);
            world.check();
        }
        world.end();
    }

    /// Each section first fails in every way there is, at every step.
    #[test]
    fn what_is_given_up_leaves_no_trace(sections in any_sections(), merges: bool) {
        let mut world = World::new(SIZE, false, merges);
        for ops in sections {
            for steps in 0..ops.len() {
                world.section(&ops[..steps], Fate::Planned);
                world.check();
            }
            for fate in ALL {
                world.section(&ops, fate);
                world.check();
            }
            for call in 1.. {
                let ended = world.section(&ops, Fate::PayloadPanics(call));
                world.check();
                if ended {
                    break;
                }
            }
            world.section(&ops, Fate::Published);
            world.check();
        }
        world.end();
    }
}

#[test]
fn a_corpus_from_a_seed() {
    corpus::run();
}
