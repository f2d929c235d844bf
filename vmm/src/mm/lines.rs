//! What a lookup will load.

use crate::prefetch::prefetch;

/// The first lines that a lookup of a thread loads, as addresses: the space's, the thread's
/// record's, and those of what it looked up last.
///
/// For who has just come from where others have had the caches, as a vCPU's thread from
/// the guest. A lookup loads these one after the other, each when it knows from the one
/// before where it is, and some only after its fence; loaded together they take as long as
/// one. They say nothing about what is there: stale ones cost some time, no more. See
/// [`OwnedReader::lines`](super::OwnedReader::lines).
#[derive(Clone, Copy, Debug, Default)]
pub struct Lines(pub(super) [usize; 3]);

impl Lines {
    /// Has them loaded while the caller does something else.
    #[inline(always)]
    pub fn prefetch(self) {
        for line in self.0 {
            prefetch(std::ptr::without_provenance::<u8>(line));
        }
    }
}
