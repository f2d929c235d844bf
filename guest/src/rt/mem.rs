//! `memcpy` and its kin, which compiled Rust calls and no C library provides
//! here. String instructions, so that the compiler cannot turn a loop in
//! `memcpy` into a call of `memcpy`. For boot RAM only, like all compiled code.

use core::arch::asm;

/// Copies `n` bytes, ascending. Returns `to`.
///
/// # Safety
///
/// As `memcpy`; the ranges may overlap if `to` is not above `from`.
pub unsafe fn forward(to: *mut u8, from: *const u8, n: usize) -> *mut u8 {
    // SAFETY: the caller vouches for both ranges; the direction flag is clear, as
    // the calling convention demands.
    unsafe {
        asm!("rep movsb", inout("rcx") n => _, inout("rdi") to => _, inout("rsi") from => _,
            options(nostack, preserves_flags));
    }
    to
}

/// Copies `n` bytes between ranges that may overlap. Returns `to`.
///
/// # Safety
///
/// As `memmove`.
pub unsafe fn either(to: *mut u8, from: *const u8, n: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= n {
        // SAFETY: the caller vouches for the ranges; `to` is below `from` or past
        // its end, so ascending order reads each byte before it is overwritten.
        return unsafe { forward(to, from, n) };
    }
    // SAFETY: the caller vouches for the ranges; `n` is above 0 here, and the
    // direction flag is clear again afterwards.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rcx") n => _, inout("rdi") to.add(n - 1) => _,
            inout("rsi") from.add(n - 1) => _, options(nostack));
    }
    to
}

/// Sets `n` bytes. Returns `to`.
///
/// # Safety
///
/// As `memset`.
pub unsafe fn fill(to: *mut u8, byte: u8, n: usize) -> *mut u8 {
    // SAFETY: the caller vouches for the range; the direction flag is clear.
    unsafe {
        asm!("rep stosb", inout("rcx") n => _, inout("rdi") to => _, in("al") byte,
            options(nostack, preserves_flags));
    }
    to
}

/// Compares `n` bytes: below, equal to or above 0, like `memcmp`.
///
/// # Safety
///
/// As `memcmp`.
pub unsafe fn compare(a: *const u8, b: *const u8, n: usize) -> i32 {
    let (above, below): (u8, u8);
    // SAFETY: the caller vouches for both ranges, of which nothing is written;
    // `cmp` makes them equal where `rcx` is 0 and `repe cmpsb` sets no flag.
    unsafe {
        asm!("cmp rcx, rcx", "repe cmpsb", "seta {above}", "setb {below}", inout("rcx") n => _,
            inout("rsi") a => _, inout("rdi") b => _, above = lateout(reg_byte) above,
            below = lateout(reg_byte) below, options(nostack, readonly));
    }
    i32::from(above) - i32::from(below)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_ranges_that_overlap_either_way() {
        for (to, from) in [(0, 3), (3, 0), (2, 2), (0, 8), (8, 0)] {
            let mut bytes = core::array::from_fn::<u8, 16, _>(|i| i as u8);
            let mut expected = bytes;
            expected.copy_within(from..from + 8, to);
            let base = bytes.as_mut_ptr();
            // SAFETY: both ranges lie inside `bytes`.
            unsafe { either(base.add(to), base.add(from), 8) };
            assert_eq!(bytes, expected, "{from} to {to}");
        }
    }

    #[test]
    fn compares_unsigned_and_nothing_at_all() {
        let order = |a: &[u8], b: &[u8]| {
            // SAFETY: both slices are as long as is compared.
            unsafe { compare(a.as_ptr(), b.as_ptr(), a.len()) }.signum()
        };
        assert_eq!(order(&[], &[]), 0);
        assert_eq!(order(&[1, 2, 3], &[1, 2, 3]), 0);
        assert_eq!(order(&[1, 0x7f, 9], &[1, 0x80, 0]), -1);
        assert_eq!(order(&[1, 2, 4], &[1, 2, 3]), 1);
    }

    #[test]
    fn fills_no_more_than_asked() {
        let mut bytes = [1u8; 8];
        // SAFETY: bytes 2 to 5 lie inside the array.
        unsafe { fill(bytes.as_mut_ptr().add(2), 7, 3) };
        assert_eq!(bytes, [1, 1, 7, 7, 7, 1, 1, 1]);
    }
}
