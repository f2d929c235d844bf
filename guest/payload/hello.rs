//! Hello: a line from each vCPU, one after the other.

use core::sync::atomic::{AtomicU32, Ordering};

use gracefault_guest::println;
use gracefault_guest::rt::Guest;
use gracefault_guest::rt::time::Deadline;

/// How long a vCPU waits for its turn: one that never started must not keep the
/// others from ending.
const PATIENCE_US: u64 = 1_000_000;

/// The vCPU whose turn it is to print, so that the bytes of a line stay together.
static TURN: AtomicU32 = AtomicU32::new(0);

pub fn run(guest: &mut Guest) {
    let (vcpu, vcpus) = (guest.vcpu(), guest.params().vcpus);
    let patience = Deadline::after_us(guest, PATIENCE_US);
    while TURN.load(Ordering::Acquire) < vcpu && !patience.passed() {
        core::hint::spin_loop();
    }
    println!("hello from vCPU {vcpu} of {vcpus}");
    TURN.fetch_max(vcpu + 1, Ordering::Release);
}
