//! The built-in guest: every vCPU runs the workload that the parameter page
//! names, by itself; no vCPU waits for another for long.
//!
//! A mismatch is counted and stops nothing: the status is 0 all the same, and the
//! VMM judges by the reports. A workload that does not exist is a panic.
#![no_std]
#![no_main]

mod blocks;
mod dma;
mod hello;
mod memory;
mod mmio;
mod page;
mod rounds;
mod sweep;
mod window;

use gracefault_guest::abi::Workload;
use gracefault_guest::rt::Guest;

gracefault_guest::entry!(main);

fn main(guest: &mut Guest) -> u64 {
    const HELLO: u32 = Workload::Hello as u32;
    const MMIO: u32 = Workload::Mmio as u32;
    const MEMORY: u32 = Workload::Memory as u32;
    const HOTPLUG: u32 = Workload::Hotplug as u32;
    match guest.params().workload {
        HELLO => hello::run(guest),
        MMIO => rounds::mmio(guest),
        MEMORY => rounds::memory(guest),
        HOTPLUG => rounds::hotplug(guest),
        unknown => panic!("the parameter page names workload {unknown}, which this guest has not"),
    }
    0
}
