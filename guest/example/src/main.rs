//! A guest: says hello, takes blocks of memory, and gives back the first that it is
//! asked for.
#![no_std]
#![no_main]

use gracefault_guest::rt::{Event, Guest};
use gracefault_guest::{entry, println};

entry!(main);

fn main(guest: &mut Guest) -> u64 {
    println!("hello from vCPU {}", guest.vcpu());
    guest.join();
    while !guest.stop() {
        let Some(event) = guest.poll_event() else {
            guest.pause(1000);
            continue;
        };
        println!("{event:?}");
        guest.acknowledge(event);
        if matches!(event, Event::AskedBack(_)) {
            break;
        }
    }
    guest.leave();
    0
}
