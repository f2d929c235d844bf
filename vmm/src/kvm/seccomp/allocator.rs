//! What an allocator puts off until it is too late.
//!
//! glibc's, when it first gives the top of a thread's heap back, reads
//! `/proc/sys/vm/overcommit_memory`: that is a file, and a confined thread opens none. It
//! does so once in a process, when more is free at a heap's top than a threshold, which
//! moves up to the size of a heap with what the program has freed before. So a heap is
//! filled and emptied before a thread is confined.

use std::sync::Once;
use std::thread::Builder;

/// Below the smallest size that gets a mapping of its own, and above the smallest that
/// has the top of a heap looked at.
const PIECE: usize = 100 << 10;
/// Nearly as much as a heap can hold, 64 MiB.
const ALL: usize = 62 << 20;

/// A little more than the threshold is at first.
const SOME: usize = 400 << 10;

/// Has the process's allocator do what it does once, if nobody has. Takes some
/// milliseconds, on a thread of its own, so that it is a heap like those of the threads
/// that are to be confined; blocks until it is done.
pub(super) fn settle_process() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let thread = Builder::new().name("allocator".to_owned());
        // Where no thread can be started, no vCPU's can.
        if let Ok(thread) = thread.spawn(|| fill_and_empty(ALL)) {
            let _ = thread.join();
        }
    });
}

/// The same for the calling thread's heap, should that be of another kind: as far as it
/// goes in microseconds.
pub(super) fn settle_thread() {
    fill_and_empty(SOME);
}

/// Takes address space; of the memory, only what the allocator writes to.
fn fill_and_empty(bytes: usize) {
    let mut pieces: Vec<Vec<u8>> = Vec::with_capacity(bytes / PIECE);
    while pieces.len() < bytes / PIECE {
        let mut piece = Vec::new();
        // Where there is no memory for it, nobody will have had so much.
        if piece.try_reserve_exact(PIECE).is_err() {
            break;
        }
        pieces.push(std::hint::black_box(piece));
    }
    // From the top down, so that what is free there grows.
    while pieces.pop().is_some() {}
}
