//! The IDT: what tells the VMM where a guest crashed. Without one a fault in the
//! guest is a triple fault, which on AMD resets the registers and the `rip` with
//! them.
//!
//! The handlers run at CPL 3, on the stack of the code that crashed, and never
//! return. They write vector, error code, `rsp` and `rip` to this vCPU's bank of
//! the exit device. A crash that has ruined the stack pointer still ends as a
//! triple fault.

use core::arch::naked_asm;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::abi::{BANK, CODE_SELECTOR, EXIT_GPA, IDT_GPA, Report, device, exit};

/// The vectors of the CPU's own exceptions. No other has a gate: on hardware,
/// `int 0x80`, say, arrives as vector 13 with the missing gate in its error code.
const VECTORS: usize = 32;
/// The vectors for which the CPU pushes an error code, as a bit mask.
const HAS_ERROR: u32 = 1 << 8
    | 1 << 10
    | 1 << 11
    | 1 << 12
    | 1 << 13
    | 1 << 14
    | 1 << 17
    | 1 << 21
    | 1 << 29
    | 1 << 30;
/// Bytes from one vector's stub to the next.
const STUB: usize = 16;
/// A present interrupt gate of DPL 3, so that CPL 3 may raise its vector.
const GATE: u64 = 0xee00 << 32;

/// Fills in the IDT. Every vCPU does: they all write the same, so it matters
/// neither who is first nor who crashes meanwhile.
///
/// # Safety
///
/// Must run in a guest started as [`crate::abi`] says.
pub(super) unsafe fn install() {
    let idt = core::ptr::with_exposed_provenance_mut::<[AtomicU64; 2]>(IDT_GPA as usize);
    // SAFETY: the ABI sets the page aside for 256 gates, aligned and mapped, and
    // vCPUs access it as atomics only.
    let idt = unsafe { core::slice::from_raw_parts(idt, VECTORS) };
    for (vector, [low, high]) in idt.iter().enumerate() {
        let handler = (stubs as *const () as usize + vector * STUB) as u64;
        let low_word = handler & 0xffff
            | u64::from(CODE_SELECTOR) << 16
            | GATE
            | (handler >> 16 & 0xffff) << 48;
        high.store(handler >> 32, Ordering::Relaxed);
        low.store(low_word, Ordering::Relaxed);
    }
}

/// The stubs, one every [`STUB`] bytes. Each leaves vector and error code on the
/// stack, under what the CPU pushed: rip, cs, rflags, rsp, ss.
#[unsafe(naked)]
extern "C" fn stubs() {
    naked_asm!(
        ".set vector, 0",
        ".rept {vectors}",
        ".balign {stub}",
        ".if (({has_error} >> vector) & 1) == 0",
        "push 0",
        ".endif",
        "push vector",
        "jmp {crash}",
        ".set vector, vector + 1",
        ".endr",
        vectors = const VECTORS,
        stub = const STUB,
        has_error = const HAS_ERROR,
        crash = sym crash,
    )
}

/// Reports the crash, counting each of its writes.
#[unsafe(naked)]
extern "C" fn crash() {
    naked_asm!(
        "mov rcx, qword ptr gs:[{vcpu}]",
        "imul rcx, rcx, {bank}",
        "mov eax, {exit}",
        "add rcx, rax",
        "mov rax, [rsp]",
        "inc qword ptr gs:[{count}]",
        "mov [rcx + {vector}], rax",
        "mov rax, [rsp + 8]",
        "inc qword ptr gs:[{count}]",
        "mov [rcx + {error}], rax",
        "mov rax, [rsp + 40]",
        "inc qword ptr gs:[{count}]",
        "mov [rcx + {rsp}], rax",
        "mov rax, [rsp + 16]",
        "inc qword ptr gs:[{count}]",
        "mov [rcx + {rip}], rax",
        "2: pause",
        "jmp 2b",
        vcpu = const offset_of!(Report, vcpu),
        count = const offset_of!(Report, accesses) + 8 * device::EXIT,
        bank = const BANK,
        exit = const EXIT_GPA,
        vector = const exit::VECTOR,
        error = const exit::ERROR,
        rsp = const exit::RSP,
        rip = const exit::CRASH,
    )
}
