//! The way into a guest: [`entry!`](crate::entry), which defines `_start` and
//! what `core` wants from a program without an operating system, and [`Guest`],
//! which `main` gets.

use core::sync::atomic::Ordering;

use crate::abi::{ABI_VERSION, PARAMS_MAGIC, Params};
use crate::rt::{exit, idt};

/// One vCPU of a running guest. Having one proves that the code runs inside a
/// guest that was started as [`crate::abi`] says.
#[derive(Debug)]
pub struct Guest {
    params: &'static Params,
    vcpu: u32,
}

impl Guest {
    /// The parameter page.
    pub fn params(&self) -> &'static Params {
        self.params
    }

    /// This vCPU's number, from 0.
    pub fn vcpu(&self) -> u32 {
        self.vcpu
    }

    /// Whether the VMM wants the guest to come to an end.
    pub fn stop(&self) -> bool {
        self.params.stop.load(Ordering::Acquire) != 0
    }
}

/// Runs `main` and ends the vCPU with what it returns. Called by the `_start`
/// that [`entry!`](crate::entry) defines.
///
/// # Panics
///
/// When the parameter page is not one of this ABI's version.
///
/// # Safety
///
/// To be called once per vCPU, in a guest, first of all, with the registers that
/// [`crate::abi`] lists: `params` and `vcpu` are what was in `rdi` and `rsi`.
pub unsafe fn start(params: *const Params, vcpu: u64, main: fn(&mut Guest) -> u64) -> ! {
    // SAFETY: the caller vouches for being in a guest, where the page at IDT_GPA
    // is set aside for this.
    unsafe { idt::install() };
    // SAFETY: the VMM filled the page in before it started this vCPU and keeps it
    // for the life of the guest; it changes `stop` alone, which is atomic.
    let params = unsafe { &*params };
    assert!(
        params.magic == PARAMS_MAGIC,
        "no parameter page at {params:p}: the magic is {:#x}",
        params.magic
    );
    assert!(
        params.version == ABI_VERSION,
        "this guest was built for ABI version {ABI_VERSION}, the VMM speaks {}: build it again",
        params.version
    );
    let mut guest = Guest {
        params,
        vcpu: vcpu as u32,
    };
    let status = main(&mut guest);
    exit::finish(&mut guest, status)
}

/// Makes a program a guest: `entry!(main);`, where `main` is a
/// `fn(&mut Guest) -> u64`. Every vCPU runs it; what it returns is the status
/// that the VMM gets.
///
/// It defines `_start`, the panic handler, and the few symbols that the
/// precompiled `core` wants (`memcpy` and its kin, `rust_eh_personality`). They
/// are defined in the program and not in this library, so that a host program
/// that uses [`crate::abi`] does not get them a second time.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        #[unsafe(no_mangle)]
        extern "C" fn _start(params: *const $crate::abi::Params, vcpu: u64) -> ! {
            // SAFETY: the VMM enters the image here, once per vCPU, with the
            // registers that the ABI lists; nobody else calls `_start`.
            unsafe { $crate::rt::entry::start(params, vcpu, $main) }
        }

        #[panic_handler]
        fn panic(info: &::core::panic::PanicInfo<'_>) -> ! {
            $crate::rt::panic::report(info)
        }

        #[unsafe(no_mangle)]
        extern "C" fn rust_eh_personality() {}

        #[unsafe(no_mangle)]
        unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, n: usize) -> *mut u8 {
            // SAFETY: the caller keeps memcpy's contract, which is `forward`'s.
            unsafe { $crate::rt::mem::forward(to, from, n) }
        }

        #[unsafe(no_mangle)]
        unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, n: usize) -> *mut u8 {
            // SAFETY: the caller keeps memmove's contract.
            unsafe { $crate::rt::mem::either(to, from, n) }
        }

        #[unsafe(no_mangle)]
        unsafe extern "C" fn memset(to: *mut u8, byte: i32, n: usize) -> *mut u8 {
            // SAFETY: the caller keeps memset's contract.
            unsafe { $crate::rt::mem::fill(to, byte as u8, n) }
        }

        #[unsafe(no_mangle)]
        unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, n: usize) -> i32 {
            // SAFETY: the caller keeps memcmp's contract.
            unsafe { $crate::rt::mem::compare(a, b, n) }
        }

        #[unsafe(no_mangle)]
        unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, n: usize) -> i32 {
            // SAFETY: the caller keeps bcmp's contract.
            unsafe { $crate::rt::mem::compare(a, b, n) }
        }
    };
}
