//! Counters, in the kernel's words.

/// What the lookups and the write sections of an address space have done so far.
/// The numbers of one snapshot are from slightly different moments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MmStats {
    /// Lookups that took the VMA at once.
    pub lookup_success: u64,
    /// Try-lookups that gave up because a writer was at work on the VMA.
    pub lookup_abort: u64,
    /// Lookups that found no VMA.
    pub lookup_miss: u64,
    /// Lookups that slept for the end of a write section.
    pub lookup_wait: u64,
    /// Times that a lookup began again, after it had waited for the map lock:
    /// strategy [`Retry`](super::Strategy::Retry) alone does.
    pub lookup_retry: u64,
    /// Lookups that were let in to a write-locked VMA because their thread held
    /// another member of the same write set.
    pub nested_admission: u64,
    /// Write sections that published something.
    pub sections: u64,
    /// Drains that had to wait.
    pub drains: u64,
    /// Readers that drains waited for.
    pub drained_readers: u64,
    /// Times that a drain ended its section with nothing changed, to let waiters
    /// in, and began again.
    pub drain_rounds: u64,
}
