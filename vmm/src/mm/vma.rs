//! One region of an address space.

use super::{AddrRange, VmFlags};

/// What a VMA carries: whatever stands behind its addresses.
///
/// A split leaves two VMAs that carry the same, at different offsets; hence
/// `Clone`, which should be cheap (an `Arc`).
pub trait Payload: Clone + Send + Sync + 'static {
    /// Whether the two are one and the same thing, so that two neighbouring VMAs
    /// that carry them, at offsets that follow each other, may be merged. The
    /// default is that nothing is ever merged.
    fn same(&self, other: &Self) -> bool {
        let _ = other;
        false
    }
}

/// One region of an address space: a range of addresses, what may be done with
/// them, and what stands behind them (Linux: `vm_area_struct`).
///
/// A `Vma` never changes: a change of bounds, flags or payload makes a new one.
#[derive(Clone, Debug)]
pub struct Vma<T> {
    range: AddrRange,
    flags: VmFlags,
    offset: u64,
    generation: u64,
    payload: T,
}

impl<T> Vma<T> {
    pub(super) fn new(
        range: AddrRange,
        flags: VmFlags,
        offset: u64,
        generation: u64,
        payload: T,
    ) -> Self {
        Self {
            range,
            flags,
            offset,
            generation,
            payload,
        }
    }

    /// The addresses.
    pub fn range(&self) -> AddrRange {
        self.range
    }

    /// What may be done with them.
    pub fn flags(&self) -> VmFlags {
        self.flags
    }

    /// Where in the payload the first address is (Linux: `vm_pgoff`, but in the
    /// unit of the addresses).
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The write section that made this VMA: an odd number that grows from
    /// section to section, so that two VMAs which cover the same address one
    /// after the other are told apart.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// What stands behind the addresses.
    pub fn payload(&self) -> &T {
        &self.payload
    }

    /// Where in the payload `addr` is; `None` if it lies outside the range.
    pub fn offset_of(&self, addr: u64) -> Option<u64> {
        self.range
            .contains(addr)
            .then(|| self.offset + (addr - self.range.start()))
    }

    /// Takes the payload out.
    pub fn into_payload(self) -> T {
        self.payload
    }
}
