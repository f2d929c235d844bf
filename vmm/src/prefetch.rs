//! Telling the processor what will be needed.

/// Has the line at `at` loaded while the program goes on, if there is one: a hint, which
/// changes nothing and cannot fail.
#[inline(always)]
pub(crate) fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        #[allow(
            unused_unsafe,
            reason = "safe in later versions of Rust than the oldest we take"
        )]
        // SAFETY: every x86-64 processor has the instruction, which takes any address.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(at.cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}
