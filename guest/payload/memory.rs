//! The memory part of a round: sweeps over this vCPU's part of boot RAM and over
//! the blocks it holds, in turn, for as long as a round may take; and a canary,
//! a page that is written once and must stay as it is.

use gracefault_guest::abi::CANARY_ROUND;
use gracefault_guest::rt::Guest;
use gracefault_guest::rt::report::{self, Field};
use gracefault_guest::rt::time::Deadline;

use crate::blocks::Blocks;
use crate::page;
use crate::sweep::{Pages, Sweep};
use crate::window::Window;

/// Takes a page off the window and writes the canary's pattern to it. `None` for
/// an empty window.
pub fn canary(window: &mut Window) -> Option<u64> {
    let page = window.take(page::SIZE, 0u8)?;
    let gpa = page.as_mut_ptr().expose_provenance() as u64;
    // SAFETY: the page has just been taken for this.
    unsafe { page::fill(gpa, CANARY_ROUND) };
    report::set(Field::CANARY, gpa);
    Some(gpa)
}

pub struct Memory {
    canary: Option<u64>,
    boot: Pages,
    sweep: Sweep,
    /// What to go on with: 0 is boot RAM, the others the held blocks.
    next: usize,
}

impl Memory {
    /// Sweeps over what the window has left, and watches the canary.
    pub fn new(canary: Option<u64>, window: &Window) -> Self {
        let count = u32::try_from(window.pages()).unwrap_or(u32::MAX);
        let boot = Pages {
            base: window.start(),
            first: 0,
            stride: 1,
            count,
        };
        Self {
            canary,
            boot,
            sweep: Sweep::new(),
            next: 0,
        }
    }

    /// One round's part. Ends when its time is over, or when everything has been
    /// done once.
    pub fn round(&mut self, guest: &Guest, mut blocks: Option<&mut Blocks>, round: u64) {
        let deadline = Deadline::after_us(guest, guest.params().round_us);
        if let Some(gpa) = self.canary {
            // SAFETY: the page is this vCPU's own.
            unsafe { page::verify(gpa, CANARY_ROUND, round) };
        }
        let targets = 1 + blocks.as_ref().map_or(0, |blocks| blocks.len());
        let mut done_in_a_row = 0;
        while done_in_a_row < targets {
            if self.next >= targets {
                self.next = 0;
            }
            let worked = match (&mut blocks, self.next) {
                (Some(blocks), index @ 1..) => blocks.step(index - 1, round),
                // SAFETY: the pages are what this vCPU's window had left.
                _ => unsafe { self.sweep.step(&self.boot, round) },
            };
            self.next += 1;
            done_in_a_row = if worked { 0 } else { done_in_a_row + 1 };
            if deadline.passed() {
                break;
            }
        }
    }
}
