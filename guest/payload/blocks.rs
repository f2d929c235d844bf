//! The blocks that this vCPU holds, and how far it has got with each. Kept in
//! boot RAM: a dense list, to go through in turn, and the place of each block in
//! it, to find one by its number.

use gracefault_guest::abi::{Mismatch, Params, VOLATILE_PAGES, VOLATILE_ROUND, pattern};
use gracefault_guest::rt::Guest;
use gracefault_guest::rt::mov::Word;
use gracefault_guest::rt::report::{self, Field};

use crate::page;
use crate::sweep::{Pages, Sweep, Walk};
use crate::window::Window;

#[derive(Clone, Copy)]
struct Held {
    block: u32,
    work: Work,
}

/// What to do with a block, and how far this vCPU has got.
#[derive(Clone, Copy)]
pub enum Work {
    /// Write and verify.
    Sweep(Sweep),
    /// Only read: it may vanish.
    Walk(Walk),
}

/// A page to copy from.
pub struct Source {
    pub gpa: u64,
    /// It may vanish.
    pub volatile: bool,
}

pub struct Blocks {
    params: &'static Params,
    vcpu: u64,
    list: &'static mut [Held],
    len: usize,
    /// By block: its place in `list` plus 1, or 0 for a block that is not held.
    place: &'static mut [u32],
}

impl Blocks {
    /// With room for every block there can be, or `None` if the window has not
    /// got it or there can be none.
    pub fn new(guest: &Guest, window: &mut Window) -> Option<Self> {
        let params = guest.params();
        let none = Held {
            block: 0,
            work: Work::Walk(Walk::new()),
        };
        let room = params.hotplug_blocks;
        if room == 0 || room >= u64::from(u32::MAX) {
            return None;
        }
        let list = window.take(room, none)?;
        let place = window.take(room, 0)?;
        Some(Self {
            params,
            vcpu: guest.vcpu().into(),
            list,
            len: 0,
            place,
        })
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there can be a block of this number.
    pub fn exists(&self, block: u32) -> bool {
        (block as usize) < self.place.len()
    }

    /// Takes a block in, which must exist. `false` if it was held already.
    pub fn insert(&mut self, block: u32, work: Work) -> bool {
        if self.place[block as usize] != 0 {
            return false;
        }
        self.list[self.len] = Held { block, work };
        self.len += 1;
        self.place[block as usize] = self.len as u32;
        true
    }

    /// Gives a block up, which must exist. `false` if it was not held.
    pub fn remove(&mut self, block: u32) -> bool {
        let place = core::mem::replace(&mut self.place[block as usize], 0) as usize;
        if place == 0 {
            return false;
        }
        let last = self.list[self.len - 1];
        self.len -= 1;
        if last.block != block {
            self.list[place - 1] = last;
            self.place[last.block as usize] = place as u32;
        }
        true
    }

    /// A page of the held block at `index` that this vCPU may have copied: its first
    /// one. `None` if there is no such block, or it has no page for this vCPU.
    pub fn source(&self, index: usize) -> Option<Source> {
        let held = self.list[..self.len].get(index)?;
        let base = self.params.hotplug_start + u64::from(held.block) * self.params.block_size;
        let (page, volatile) = match held.work {
            Work::Sweep(_) => (self.vcpu, false),
            Work::Walk(_) => (0, true),
        };
        let there = page < self.params.block_size / page::SIZE;
        there.then_some(Source {
            gpa: base + page * page::SIZE,
            volatile,
        })
    }

    /// Works on a few pages of the held block at `index`. `false` when nothing is
    /// left to do there in this round.
    pub fn step(&mut self, index: usize, round: u64) -> bool {
        let held = &mut self.list[index];
        let base = self.params.hotplug_start + u64::from(held.block) * self.params.block_size;
        let in_block = self.params.block_size / page::SIZE;
        match &mut held.work {
            Work::Sweep(sweep) => {
                // Page p is vCPU p % vcpus's.
                let (first, stride) = (self.vcpu, u64::from(self.params.vcpus.max(1)));
                let count = in_block.saturating_sub(first).div_ceil(stride) as u32;
                // SAFETY: the block is held, and its pages are dealt out among the
                // vCPUs; it stays so until `remove`, after which nothing of it is
                // touched.
                unsafe {
                    sweep.step(
                        &Pages {
                            base,
                            first,
                            stride,
                            count,
                        },
                        round,
                    )
                }
            }
            Work::Walk(walk) => {
                let pages = walk.step(in_block.min(VOLATILE_PAGES) as u32, round);
                for page in pages.clone() {
                    check_volatile(base + u64::from(page) * page::SIZE, round);
                }
                !pages.is_empty()
            }
        }
    }
}

/// Reads the first bytes of a volatile block's page, which are the VMM's pattern
/// or, if the block has gone, all ones.
fn check_volatile(gpa: u64, round: u64) {
    // SAFETY: the map covers the blocks, and reading changes nothing.
    let found = unsafe { u64::load(gpa) };
    let expected = pattern(gpa, VOLATILE_ROUND);
    if found == expected {
        report::add(Field::VOLATILE_READS, 1);
    } else if found == u64::MAX {
        report::add(Field::ABSENT_READS, 1);
    } else {
        report::mismatch(Mismatch {
            gpa,
            expected,
            found,
            round,
        });
    }
}
