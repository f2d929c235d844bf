//! What answers MMIO and PIO: the serial console and the devices of the guest
//! ABI ([`gracefault_guest::abi`]). No handler blocks: each takes a mutex of its
//! own for a few steps at most, and none is held across a lookup. (The DMA device
//! waits, as any access does, for a writer that changes what it copies.)

mod console;
mod dma;
mod exit;
mod hotplug;
mod serial;
mod test;

pub use console::{Console, ConsoleInput, ConsoleReport};
pub use dma::{DmaCounts, DmaDevice};
pub use exit::{ExitDevice, Fate};
pub use hotplug::{BlockPhase, HotplugController, NotReleased};
pub use serial::SerialConsole;
pub use test::TestDevice;

use crate::memory::DeviceError;
use gracefault_guest::abi;

/// The vCPU whose register bank `offset` lies in, and the offset in that bank.
fn bank(offset: u64, vcpus: usize) -> Result<(usize, u64), DeviceError> {
    let vcpu = (offset / abi::BANK) as usize;
    if vcpu < vcpus {
        Ok((vcpu, offset % abi::BANK))
    } else {
        Err(DeviceError::NoRegister)
    }
}

/// Bytes of pages that hold `vcpus` banks, `before` other bytes first.
fn banks_len(before: u64, vcpus: usize) -> u64 {
    (before + vcpus as u64 * abi::BANK).next_multiple_of(crate::memory::PAGE)
}
