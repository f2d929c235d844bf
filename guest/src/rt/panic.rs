//! What a panic does: its message goes out by the serial port, then the vCPU
//! ends through the exit device's PANIC register.

use core::panic::PanicInfo;

use crate::rt::exit;
use crate::rt::report::{self, Field};

/// Prints the message and ends the vCPU. Called by the panic handler that
/// [`entry!`](crate::entry) defines.
pub fn report(info: &PanicInfo<'_>) -> ! {
    crate::println!("guest: vCPU {}: {info}", report::get(Field::VCPU));
    exit::panicked()
}
