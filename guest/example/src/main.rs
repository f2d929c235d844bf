//! A guest: says hello, reads a device, takes one block of memory and gives it
//! back when asked.
#![no_std]
#![no_main]

use gracefault_guest::abi::test;
use gracefault_guest::rt::{Device, Event, Guest};
use gracefault_guest::{entry, println};

entry!(main);

fn main(guest: &mut Guest) -> u64 {
    println!("hello from vCPU {}", guest.vcpu());

    let byte: u8 = guest.read(Device::Test, test::KNOWN + 3);
    assert_eq!(byte, test::known(3), "the test device answers wrongly");

    guest.join();
    while !guest.stop() {
        match guest.poll_event() {
            Some(event) => {
                println!("{event:?}");
                guest.acknowledge(event);
                if matches!(event, Event::AskedBack(_)) {
                    break;
                }
            }
            None => guest.pause(1000),
        }
    }
    guest.leave();
    0
}
