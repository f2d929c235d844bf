//! What an allocator puts off until it is too late.
//!
//! glibc's, when it first gives the top of a thread's heap back, reads
//! `/proc/sys/vm/overcommit_memory`: that is a file, and a confined thread opens none. It
//! does so once in a process, when more is free at a heap's top than a threshold, which
//! moves up to the size of a heap with what the program has freed before. So a thread
//! that is about to be confined fills a heap, and empties it.

/// Below the smallest size that gets a mapping of its own, and above the smallest that
/// has the top of a heap looked at.
const PIECE: usize = 100 << 10;
/// Nearly as much as a heap can hold, 64 MiB.
const ALL: usize = 62 << 20;

/// Has the calling thread's allocator do what it does once. Takes some milliseconds, and
/// address space; of the memory, only what the allocator writes to.
pub(super) fn settle() {
    let mut pieces: Vec<Vec<u8>> = Vec::with_capacity(ALL / PIECE);
    while pieces.len() < ALL / PIECE {
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
