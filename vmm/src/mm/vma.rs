//! One region of an address space.

use super::{AddrRange, VmFlags};

/// What a VMA carries: whatever stands behind its addresses.
///
/// A split leaves two VMAs that carry the same, at different offsets; hence
/// `Clone`, which should be cheap (an `Arc`).
pub trait Payload: Clone + Send + Sync + 'static {
    /// Whether the two are one and the same thing, so that two neighbouring VMAs
    /// that carry them, with the same flags and at offsets that follow each other,
    /// are merged when a section maps, protects or relocates one of them: as far as
    /// [readers allow](super#merging). The default is that nothing is ever merged.
    ///
    /// Asked with the map lock taken: do not use the map.
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
// In this order, so that what every access asks for lies together.
#[repr(C)]
pub struct Vma<T> {
    range: AddrRange,
    payload: T,
    flags: VmFlags,
    offset: u64,
    generation: u64,
}

/// What a bare walk sees of a VMA: all but the payload. It may be out of date by
/// the time it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmaInfo {
    /// The addresses.
    pub range: AddrRange,
    /// What may be done with them.
    pub flags: VmFlags,
    /// Where in the payload the first address is.
    pub offset: u64,
    /// The write section that made the VMA.
    pub generation: u64,
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
    #[inline]
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
    #[inline]
    pub fn payload(&self) -> &T {
        &self.payload
    }

    /// Where in the payload `addr` is; `None` if it lies outside the range.
    #[inline]
    pub fn offset_of(&self, addr: u64) -> Option<u64> {
        self.range
            .contains(addr)
            .then(|| self.offset + (addr - self.range.start()))
    }

    /// Whether the two are the same in all but extent, and `next` goes on where this
    /// one ends.
    pub(super) fn goes_on_as(&self, next: &Self) -> bool
    where
        T: Payload,
    {
        let offset = self
            .range
            .len()
            .and_then(|len| self.offset.checked_add(len));
        self.range.end() == Some(next.range.start())
            && self.flags == next.flags
            && !self.flags.contains(VmFlags::NOMERGE)
            && offset == Some(next.offset)
            && self.payload.same(&next.payload)
    }

    /// The same, up to the end of `next`, as section `generation` makes it.
    pub(super) fn joined(self, next: &Self, generation: u64) -> Self {
        let range = AddrRange::inclusive(self.range.start(), next.range.last());
        Self {
            range: range.expect("the caller has checked"),
            generation,
            ..self
        }
    }

    /// The addresses of `vma`, none of which is looked at but these.
    ///
    /// # Safety
    ///
    /// `vma` may be read, its range is initialised and nobody writes to it.
    #[inline(always)]
    pub(super) unsafe fn range_of(vma: *const Self) -> AddrRange {
        // SAFETY: says the caller; no reference is made to the whole.
        unsafe { (&raw const (*vma).range).read() }
    }

    /// What `vma` is, but for its payload, which is not looked at.
    ///
    /// # Safety
    ///
    /// `vma` may be read, all but its payload is initialised and nobody writes to
    /// it.
    pub(super) unsafe fn info_of(vma: *const Self) -> VmaInfo {
        // SAFETY: says the caller; no reference is made to the whole.
        unsafe {
            VmaInfo {
                range: (&raw const (*vma).range).read(),
                flags: (&raw const (*vma).flags).read(),
                offset: (&raw const (*vma).offset).read(),
                generation: (&raw const (*vma).generation).read(),
            }
        }
    }

    /// The part of it that is in `range`, as section `generation` makes it.
    pub(super) fn part(&self, range: AddrRange, generation: u64) -> Self
    where
        T: Clone,
    {
        Self {
            range,
            flags: self.flags,
            // As in `offset_of`; a payload's offsets may wrap as they please.
            offset: self
                .offset
                .wrapping_add(range.start().wrapping_sub(self.range.start())),
            generation,
            payload: self.payload.clone(),
        }
    }

    /// The same with other flags.
    pub(super) fn with_flags(self, flags: VmFlags, generation: u64) -> Self {
        Self {
            flags,
            generation,
            ..self
        }
    }

    /// The same from `start` on, which leaves room for it.
    pub(super) fn moved_to(self, start: u64, generation: u64) -> Self {
        let last = start + (self.range.last() - self.range.start());
        let range = AddrRange::inclusive(start, last).expect("the caller has checked");
        Self {
            range,
            generation,
            ..self
        }
    }

    /// Takes the payload out.
    pub fn into_payload(self) -> T {
        self.payload
    }
}
