//! The workloads that run in rounds, until [`Params::rounds`] are done or
//! [`Params::stop`] is set.
//!
//! [`Params::rounds`]: gracefault_guest::abi::Params::rounds
//! [`Params::stop`]: gracefault_guest::abi::Params::stop

use gracefault_guest::abi::{BANK, Mismatch, hotplug as controller};
use gracefault_guest::rt::report::{self, Field};
use gracefault_guest::rt::time::Deadline;
use gracefault_guest::rt::{Device, Event, Guest};

use crate::blocks::{Blocks, Work};
use crate::dma::Dma;
use crate::memory::{self, Memory};
use crate::mmio::Mmio;
use crate::sweep::{Sweep, Walk};
use crate::window::Window;

/// Passes of the MMIO part in a round that does nothing else.
const MMIO_PASSES: u64 = 8;

pub fn mmio(guest: &mut Guest) {
    let mut mmio = Mmio::new(guest);
    rounds(guest, |guest, round| mmio.round(guest, MMIO_PASSES, round));
}

pub fn memory(guest: &mut Guest) {
    hotplugged(guest, |_| None, |_, _| ());
}

pub fn hotplug(guest: &mut Guest) {
    let mut mmio = Mmio::new(guest);
    hotplugged(guest, Dma::new, |guest, round| mmio.round(guest, 1, round));
}

/// Rounds of events, `extra`, DMA if there is to be any, and memory. A window too small for the table of
/// blocks makes a vCPU that takes no part in hotplug.
fn hotplugged(
    guest: &mut Guest,
    dma: impl FnOnce(&mut Window) -> Option<Dma>,
    mut extra: impl FnMut(&mut Guest, u64),
) {
    // SAFETY: a workload runs once per vCPU.
    let mut window = unsafe { Window::of(guest) };
    let canary = memory::canary(&mut window);
    let mut blocks = Blocks::new(guest, &mut window);
    let mut dma = dma(&mut window);
    let mut memory = Memory::new(canary, &window);
    if blocks.is_some() {
        guest.join();
    }
    rounds(guest, |guest, round| {
        let end = Deadline::after_us(guest, guest.params().round_us);
        if let Some(blocks) = &mut blocks {
            drain(guest, blocks, round);
        }
        extra(guest, round);
        if let (Some(dma), Some(blocks)) = (&mut dma, &blocks) {
            dma.round(guest, blocks, round);
        }
        memory.round(guest, blocks.as_mut(), round);
        // Little memory is soon done, but asking for events costs an exit: let
        // the round last.
        while blocks.is_some() && !end.passed() && !guest.stop() {
            core::hint::spin_loop();
        }
    });
    if blocks.is_some() {
        guest.leave();
    }
}

/// Runs `round` for 1, 2, 3, ... and counts.
fn rounds(guest: &mut Guest, mut round: impl FnMut(&mut Guest, u64)) {
    let last = match guest.params().rounds {
        0 => u64::MAX,
        rounds => rounds,
    };
    for number in 1..=last {
        if guest.stop() {
            break;
        }
        round(guest, number);
        report::add(Field::ROUNDS, 1);
    }
}

/// Does what the controller asks, until it asks for nothing more.
fn drain(guest: &mut Guest, blocks: &mut Blocks, round: u64) {
    while let Some(event) = guest.poll_event() {
        match event {
            Event::Offered(block) if blocks.exists(block) => {
                if blocks.insert(block, Work::Sweep(Sweep::new())) {
                    report::add(Field::BLOCKS_TAKEN, 1);
                }
            }
            Event::AskedBack(block) if blocks.exists(block) => {
                if blocks.remove(block) {
                    report::add(Field::BLOCKS_RELEASED, 1);
                }
            }
            Event::OfferedVolatile(block) if blocks.exists(block) => {
                blocks.insert(block, Work::Walk(Walk::new()));
            }
            Event::Gone(block) if blocks.exists(block) => {
                blocks.remove(block);
            }
            strange => {
                let gpa =
                    Device::Hotplug.gpa() + u64::from(guest.vcpu()) * BANK + controller::EVENT;
                report::mismatch(Mismatch {
                    gpa,
                    expected: 0,
                    found: strange.encode(),
                    round,
                });
                // Nothing to acknowledge; and a machine without a controller answers
                // like this for ever.
                break;
            }
        }
        guest.acknowledge(event);
        if guest.stop() {
            break;
        }
    }
}
