//! A stack that begins with a page.
//!
//! Where a thread's frames lie in pages is a matter of how many bytes the functions
//! before them happened to take. After the guest has had the processor each page that an
//! exit touches has to be found anew, so what answers it had better lie on one.
use std::hint::black_box;

/// Calls `f` with a stack that begins with a page: what `f` and those whom it calls keep
/// there is on that page, as long as it is no more. (What `f` has captured is not; it may
/// take that over.)
#[inline(never)]
pub(super) fn on_own_page<R>(f: impl FnOnce() -> R) -> R {
    /// The smallest pages that there are; where they are larger this does no harm.
    #[repr(align(4096))]
    struct Page(#[expect(dead_code, reason = "it is here to take room")] [u8; 1]);
    let page = Page([0]);
    // In use up to the end, so that it is there.
    black_box(&page);
    let result = call(f);
    black_box(&page);
    result
}

/// The frames that are to begin there: not the caller's, which is above.
#[inline(never)]
fn call<R>(f: impl FnOnce() -> R) -> R {
    let result = f();
    // Not as the last thing, in a frame that is this one's no more.
    black_box(());
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(never)]
    fn deeper(depth: usize) -> usize {
        let here = [0_u8; 256];
        let at = black_box(&raw const here).addr();
        match depth {
            0 => at,
            _ => black_box(deeper(depth - 1)),
        }
    }

    #[test]
    fn what_is_kept_there_is_on_one_page() {
        #[inline(never)]
        fn with<const BEFORE: usize>() -> (usize, usize) {
            let before = [0_u8; BEFORE];
            black_box(&before);
            on_own_page(|| (deeper(0), deeper(2)))
        }
        for (first, last) in [with::<1>(), with::<1500>(), with::<3000>()] {
            assert_eq!(first / 4096, last / 4096, "{first:#x}, {last:#x}");
            assert!(first % 4096 > 3072, "{first:#x}");
        }
    }
}
