//! A copy that a fault can end.
//!
//! The fault's handler must make an access succeed that the host has no page for, or
//! keep it from being made again. A page put there to let it succeed would stay, and
//! the guest, or the next copy, would read zeroes where it should meet an error. So
//! the handler sends the copy to its end instead, and the memory stays as it is. That
//! takes a copy of which every instruction is known: one function that keeps nothing
//! on the stack, so that its end can be jumped to from anywhere in it.

use std::ffi::c_void;

/// Copies, with one load and one store for each 8, 4, 2 or 1 bytes, in that order,
/// if it is not long; returns true if a handler [ended](end_copy) it early.
///
/// # Safety
///
/// Both ranges are mapped, `dst` writable, though either may fault, and they do not
/// overlap. Others may access what is guest memory of it at the same time.
pub(super) unsafe fn copy(src: *const u8, dst: *mut u8, len: usize) -> bool {
    // SAFETY: as the caller promises; nobody in Rust relies on what either copy does
    // to memory beyond these ranges.
    unsafe { arch::copy(dst, src, len) != 0 }
}

/// Has the copy that was interrupted by the signal with this `context` return at
/// once, if it was one. Async-signal-safe.
///
/// # Safety
///
/// `context` is the third argument of a handler that was installed with
/// `SA_SIGINFO`, and which is still running.
pub(super) unsafe fn end_copy(context: *mut c_void) -> bool {
    // SAFETY: as the caller promises.
    unsafe { arch::end_copy(context) }
}

#[cfg(target_arch = "x86_64")]
mod arch {
    use std::arch::naked_asm;
    use std::ffi::c_void;

    /// Bytes of [`copy`]'s code, filled up.
    const CODE: usize = 128;

    /// From this length on the processor's own loop is faster.
    const LONG: usize = 128;

    /// # Safety
    ///
    /// See [`super::copy`].
    #[unsafe(naked)]
    pub(super) unsafe extern "sysv64" fn copy(dst: *mut u8, src: *const u8, len: usize) -> usize {
        naked_asm!(
            "20:",
            "cmp rdx, {long}",
            "jae 7f",
            "2:",
            "sub rdx, 8",
            "jb 3f",
            "mov rax, [rsi]",
            "mov [rdi], rax",
            "add rsi, 8",
            "add rdi, 8",
            "jmp 2b",
            // What is left is in the low three bits, now of a negative number.
            "3:",
            "test dl, 4",
            "jz 4f",
            "mov eax, [rsi]",
            "mov [rdi], eax",
            "add rsi, 4",
            "add rdi, 4",
            "4:",
            "test dl, 2",
            "jz 5f",
            "movzx eax, word ptr [rsi]",
            "mov [rdi], ax",
            "add rsi, 2",
            "add rdi, 2",
            "5:",
            "test dl, 1",
            "jz 6f",
            "movzx eax, byte ptr [rsi]",
            "mov [rdi], al",
            "6:",
            "xor eax, eax",
            "ret",
            "7:",
            "mov rcx, rdx",
            "rep movsb",
            "xor eax, eax",
            "ret",
            // No room for it would be an error here.
            ".org 20b + {code}, 0xcc",
            long = const LONG,
            code = const CODE,
        )
    }

    /// Where an ended copy goes on: it has the stack of [`copy`], which is as at its
    /// call.
    #[unsafe(naked)]
    extern "sysv64" fn ended() {
        naked_asm!("mov eax, 1", "ret")
    }

    /// # Safety
    ///
    /// See [`super::end_copy`].
    pub(super) unsafe fn end_copy(context: *mut c_void) -> bool {
        let start = copy as *const () as usize;
        // SAFETY: the caller's, which is a `ucontext_t` of this thread, alone ours
        // while the handler runs.
        let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
        let rip = &mut registers[libc::REG_RIP as usize];
        let is_copy = (start..start + CODE).contains(&(*rip as usize));
        if is_copy {
            *rip = ended as *const () as i64;
        }
        is_copy
    }
}

/// Elsewhere a fault is not turned into an error yet: it ends the process, as it
/// would without a handler.
#[cfg(not(target_arch = "x86_64"))]
mod arch {
    use std::ffi::c_void;

    /// # Safety
    ///
    /// See [`super::copy`].
    pub(super) unsafe fn copy(dst: *mut u8, src: *const u8, len: usize) -> usize {
        use vm_memory::VolatileSlice;
        // SAFETY: as the caller promises; the slices go before this returns.
        unsafe {
            VolatileSlice::new(src.cast_mut(), len)
                .copy_to_volatile_slice(VolatileSlice::new(dst, len));
        }
        0
    }

    /// # Safety
    ///
    /// None is needed.
    pub(super) unsafe fn end_copy(_context: *mut c_void) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_every_length_at_every_alignment_and_no_byte_beside() {
        let src: Vec<u8> = (0..400).map(|i| i as u8 | 1).collect();
        for from in 0..9 {
            for to in 0..9 {
                for len in (0..40).chain([63, 64, 65, 127, 128, 129, 255, 300]) {
                    let mut dst = vec![0; 400];
                    // SAFETY: both are inside their vectors.
                    let ended = unsafe { copy(src[from..].as_ptr(), dst[to..].as_mut_ptr(), len) };
                    assert!(!ended);
                    assert_eq!(
                        dst[to..to + len],
                        src[from..from + len],
                        "{from} {to} {len}"
                    );
                    assert!(dst[..to].iter().chain(&dst[to + len..]).all(|b| *b == 0));
                }
            }
        }
    }
}
