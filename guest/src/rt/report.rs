//! This vCPU's [`Report`], through the `gs` segment, whose base is its address:
//! no pointer to pass around, and a panic or crash handler reaches it as well.
//! Every field is stored by one `mov`, so the VMM may read along at any time.

use core::arch::asm;
use core::mem::offset_of;

use crate::abi::{MAX_MISMATCHES, Mismatch, REPORT_DONE, Report};
use crate::rt::mmio::Device;

/// A field of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field(usize);

impl Field {
    /// [`Report::serial_bytes`].
    pub const SERIAL_BYTES: Self = Self(offset_of!(Report, serial_bytes));
    /// [`Report::absent_reads`].
    pub const ABSENT_READS: Self = Self(offset_of!(Report, absent_reads));
    /// [`Report::volatile_reads`].
    pub const VOLATILE_READS: Self = Self(offset_of!(Report, volatile_reads));
    /// [`Report::rounds`].
    pub const ROUNDS: Self = Self(offset_of!(Report, rounds));
    /// [`Report::bytes_written`].
    pub const BYTES_WRITTEN: Self = Self(offset_of!(Report, bytes_written));
    /// [`Report::bytes_verified`].
    pub const BYTES_VERIFIED: Self = Self(offset_of!(Report, bytes_verified));
    /// [`Report::blocks_taken`].
    pub const BLOCKS_TAKEN: Self = Self(offset_of!(Report, blocks_taken));
    /// [`Report::blocks_released`].
    pub const BLOCKS_RELEASED: Self = Self(offset_of!(Report, blocks_released));
    /// [`Report::canary`].
    pub const CANARY: Self = Self(offset_of!(Report, canary));
    /// [`Report::mismatches`].
    pub const MISMATCHES: Self = Self(offset_of!(Report, mismatches));
    pub(super) const VCPU: Self = Self(offset_of!(Report, vcpu));
    const DONE: Self = Self(offset_of!(Report, done));

    /// The count of accesses to `device` in [`Report::accesses`].
    pub const fn accesses(device: Device) -> Self {
        Self(offset_of!(Report, accesses) + 8 * device.index())
    }
}

/// Reads a field.
#[inline]
pub fn get(field: Field) -> u64 {
    let value;
    // SAFETY: `gs` is based at this vCPU's report and a `Field` is an aligned
    // offset inside it. Outside a guest this faults.
    unsafe {
        asm!("mov {v}, qword ptr gs:[{f}]", f = in(reg) field.0, v = out(reg) value,
            options(nostack, preserves_flags, readonly));
    }
    value
}

/// Writes a field.
#[inline]
pub fn set(field: Field, value: u64) {
    // SAFETY: as in `get`; no Rust object of this guest lies in a report.
    unsafe {
        asm!("mov qword ptr gs:[{f}], {v}", f = in(reg) field.0, v = in(reg) value,
            options(nostack, preserves_flags));
    }
}

/// Adds to a field. Only this vCPU writes its report, so this needs no `lock`.
#[inline]
pub fn add(field: Field, by: u64) {
    set(field, get(field).wrapping_add(by));
}

/// Counts a value that was not what it had to be, and describes it if there is
/// room. The count goes last: what it counts is there.
#[cold]
pub fn mismatch(found: Mismatch) {
    let n = get(Field::MISMATCHES);
    if (n as usize) < MAX_MISMATCHES {
        let at = offset_of!(Report, first) + n as usize * size_of::<Mismatch>();
        set(Field(at + offset_of!(Mismatch, gpa)), found.gpa);
        set(Field(at + offset_of!(Mismatch, expected)), found.expected);
        set(Field(at + offset_of!(Mismatch, found)), found.found);
        set(Field(at + offset_of!(Mismatch, round)), found.round);
    }
    add(Field::MISMATCHES, 1);
}

/// Closes the report: nothing in it changes from here on. x86 stores become
/// visible in order, and the `asm!` above keeps the compiler from moving any.
pub(super) fn close() {
    set(Field::DONE, REPORT_DONE);
}
