//! The ways a vCPU ends: with a status, or as panicked. (A crash, the third, is
//! [`super::idt`]'s.) No instruction after the last write is executed.

use crate::abi::{BANK, EXIT_GPA, exit};
use crate::rt::mov::Word;
use crate::rt::report::{self, Field};
use crate::rt::{Device, Guest};

/// Closes the report and ends the vCPU with `status`; 0 means that all is well.
pub fn finish(guest: &mut Guest, status: u64) -> ! {
    let register = u64::from(guest.vcpu()) * BANK + exit::STATUS;
    // Counted by hand: the report must be final before the access that ends us.
    report::add(Field::accesses(Device::Exit), 1);
    report::close();
    // SAFETY: a `Guest` exists only inside a guest; the register is this vCPU's.
    unsafe { status.store(EXIT_GPA + register) };
    halt()
}

/// Ends the vCPU as panicked. The report stays open: it was cut short.
pub(super) fn panicked() -> ! {
    let register = report::get(Field::VCPU) * BANK + exit::PANIC;
    report::add(Field::accesses(Device::Exit), 1);
    // SAFETY: the read through `gs` above has faulted if this is no guest; the
    // register is this vCPU's.
    unsafe { 1u64.store(EXIT_GPA + register) };
    halt()
}

/// `hlt` faults at CPL 3, so this is how to do nothing for ever. Reached only
/// under a VMM that goes on after the vCPU has ended.
fn halt() -> ! {
    loop {
        core::hint::spin_loop();
    }
}
