//! The DMA part of a round: has the device copy a page of a held block to boot RAM,
//! and compares. A block that is to be read only may vanish meanwhile.

use gracefault_guest::abi::{Mismatch, VOLATILE_ROUND, dma, pattern};
use gracefault_guest::rt::mov::Word;
use gracefault_guest::rt::report;
use gracefault_guest::rt::{Device, Guest};

use crate::blocks::Blocks;
use crate::page;
use crate::window::Window;

pub struct Dma {
    /// The address of the descriptor, in a page of its own.
    descriptor: u64,
    /// The page that is copied to.
    target: u64,
    /// The block to copy from next.
    next: usize,
}

impl Dma {
    /// Takes two pages off the window; `None` if it has not got them.
    pub fn new(window: &mut Window) -> Option<Self> {
        let pages = window.take(2 * page::SIZE, 0u8)?;
        let descriptor = pages.as_mut_ptr().expose_provenance() as u64;
        Some(Self {
            descriptor,
            target: descriptor + page::SIZE,
            next: 0,
        })
    }

    /// One round's part: one copy, of this vCPU's first page of the next block.
    pub fn round(&mut self, guest: &mut Guest, blocks: &Blocks, round: u64) {
        self.next = if self.next < blocks.len() {
            self.next
        } else {
            0
        };
        let Some(source) = blocks.source(self.next) else {
            return;
        };
        self.next += 1;
        for (word, at) in [source.gpa, self.target, page::SIZE, 0]
            .into_iter()
            .zip((self.descriptor..).step_by(8))
        {
            // SAFETY: the page was taken for this.
            unsafe { word.store(at) };
        }
        guest.write(Device::Dma, dma::START, self.descriptor);
        // SAFETY: as above.
        let status = unsafe { u64::load(self.descriptor + dma::STATUS) };
        match (source.volatile, status) {
            (false, dma::COMPLETE) => self.compare(source.gpa, round),
            (true, dma::COMPLETE) => self.expect(pattern(source.gpa, VOLATILE_ROUND), round),
            (true, dma::INCOMPLETE) => self.expect(u64::MAX, round),
            (_, found) => report::mismatch(Mismatch {
                gpa: self.descriptor + dma::STATUS,
                expected: dma::COMPLETE,
                found,
                round,
            }),
        }
    }

    /// Compares all of the target with the page that it was copied from, which only
    /// this vCPU writes.
    fn compare(&self, source: u64, round: u64) {
        for at in (0..page::SIZE).step_by(8) {
            // SAFETY: a page of a block that is held, and one taken for this.
            let (expected, found) =
                unsafe { (u64::load(source + at), u64::load(self.target + at)) };
            self.check(at, expected, found, round);
        }
    }

    /// Compares the first word of the target.
    fn expect(&self, expected: u64, round: u64) {
        // SAFETY: the page was taken for this.
        let found = unsafe { u64::load(self.target) };
        self.check(0, expected, found, round);
    }

    fn check(&self, at: u64, expected: u64, found: u64, round: u64) {
        if expected != found {
            report::mismatch(Mismatch {
                gpa: self.target + at,
                expected,
                found,
                round,
            });
        }
    }
}
