//! Loads and stores that are one `mov` each, from or to a general register: the
//! only instructions that may touch device memory or memory that can be
//! unplugged, because KVM emulates them and few others.

use core::arch::asm;

mod sealed {
    pub trait Sealed {}
}

/// A value that one `mov` moves: `u8`, `u16`, `u32` or `u64`.
pub trait Word: Copy + Eq + Into<u64> + sealed::Sealed {
    /// Bytes of it.
    const LEN: u64 = size_of::<Self>() as u64;

    /// The low bytes of `value`.
    fn truncate(value: u64) -> Self;

    /// Loads from `address`, at any alignment.
    ///
    /// # Safety
    ///
    /// Must run in a guest whose identity map covers the bytes.
    unsafe fn load(address: u64) -> Self;

    /// Stores to `address`, at any alignment.
    ///
    /// # Safety
    ///
    /// As [`Word::load`]; and nothing that Rust knows of may live there.
    unsafe fn store(self, address: u64);
}

macro_rules! word {
    ($type:ty, $class:ident, $load:literal, $store:literal) => {
        impl sealed::Sealed for $type {}
        impl Word for $type {
            #[inline]
            fn truncate(value: u64) -> Self {
                value as Self
            }

            #[inline]
            unsafe fn load(address: u64) -> Self {
                let value;
                // SAFETY: the caller vouches that the bytes are mapped.
                unsafe {
                    asm!($load, a = in(reg) address, v = out($class) value,
                        options(nostack, preserves_flags));
                }
                value
            }

            #[inline]
            unsafe fn store(self, address: u64) {
                // SAFETY: the caller vouches that the bytes are mapped and that no
                // Rust object is among them.
                unsafe {
                    asm!($store, a = in(reg) address, v = in($class) self,
                        options(nostack, preserves_flags));
                }
            }
        }
    };
}
word!(
    u8,
    reg_byte,
    "mov {v}, byte ptr [{a}]",
    "mov byte ptr [{a}], {v}"
);
word!(
    u16,
    reg,
    "mov {v:x}, word ptr [{a}]",
    "mov word ptr [{a}], {v:x}"
);
word!(
    u32,
    reg,
    "mov {v:e}, dword ptr [{a}]",
    "mov dword ptr [{a}], {v:e}"
);
word!(
    u64,
    reg,
    "mov {v}, qword ptr [{a}]",
    "mov qword ptr [{a}], {v}"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_as_many_bytes_as_the_type_has() {
        let mut bytes = [0xffu8; 16];
        let at = bytes.as_mut_ptr().expose_provenance() as u64 + 1;
        // SAFETY: every access lies inside `bytes`, whose provenance is exposed.
        unsafe {
            0x1122_3344_5566_7788u64.store(at);
            assert_eq!(u64::load(at), 0x1122_3344_5566_7788);
            assert_eq!(u32::load(at + 1), 0x4455_6677);
            assert_eq!(u16::load(at + 2), 0x5566);
            assert_eq!(u8::load(at + 7), 0x11);
            0xaabbu16.store(at + 1);
            0xccu8.store(at);
            0xdeu32.store(at + 4);
        }
        assert_eq!(
            bytes[..10],
            [0xff, 0xcc, 0xbb, 0xaa, 0x55, 0xde, 0, 0, 0, 0xff]
        );
    }
}
