//! One page of patterns: written, and read back. By `mov`s alone, since the page
//! may be one that KVM has to emulate accesses to.

use gracefault_guest::abi::{Mismatch, pattern};
use gracefault_guest::rt::mov::Word;
use gracefault_guest::rt::report::{self, Field};

/// Bytes of a page.
pub const SIZE: u64 = 4096;

/// Writes the pattern of `tag` all over the page at `gpa`.
///
/// # Safety
///
/// The page must be this vCPU's to write: of its part of the window, or of a
/// block that it has taken, and nothing of Rust's own.
pub unsafe fn fill(gpa: u64, tag: u64) {
    for at in (gpa..gpa + SIZE).step_by(8) {
        // SAFETY: the caller owns the page; the map covers window and blocks.
        unsafe { pattern(at, tag).store(at) };
    }
    report::add(Field::BYTES_WRITTEN, SIZE);
}

/// Compares the page at `gpa` with the pattern of `tag`.
///
/// # Safety
///
/// As [`fill`].
pub unsafe fn verify(gpa: u64, tag: u64, round: u64) {
    for at in (gpa..gpa + SIZE).step_by(8) {
        // SAFETY: as in `fill`.
        let found = unsafe { u64::load(at) };
        let expected = pattern(at, tag);
        if found != expected {
            report::mismatch(Mismatch {
                gpa: at,
                expected,
                found,
                round,
            });
        }
    }
    report::add(Field::BYTES_VERIFIED, SIZE);
}
