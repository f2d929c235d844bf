//! A VMA of memory as a `vm-memory` region.

use std::io;

use vm_memory::bitmap::Bitmap;
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryError, GuestMemoryRegion, GuestMemoryRegionBytes,
    GuestMemoryResult, GuestUsize, MemoryRegionAddress, VolatileSlice,
};

use crate::memory::mapping::{DirtyPages, DirtySlice};
use crate::memory::{Backing, HostMemory, LazyRam, Mapping};
use crate::mm::Vma;

#[cold]
fn put_in(ram: &LazyRam) -> GuestMemoryResult<()> {
    let put_in = ram.slot.put_in().map_err(io::Error::other);
    put_in.map_err(GuestMemoryError::IOError)?;
    Ok(())
}

/// The host address of `count` bytes of a region, and where they are in its memory,
/// which is returned too: KVM has or now gets a slot for it. Fails, as `vm-memory`'s own
/// regions do, unless all of them are in the region.
#[inline]
fn locate(
    vma: &Vma<Backing>,
    at: MemoryRegionAddress,
    count: usize,
) -> GuestMemoryResult<(&Mapping, u64)> {
    let found = find(vma, at, count)?;
    match vma.payload() {
        Backing::Lazy(ram) if count > 0 => put_in(ram)?,
        _ => {}
    }
    Ok(found)
}

/// The same, and nothing is put in: the bytes must not be reached by it.
#[inline]
pub(super) fn find(
    vma: &Vma<Backing>,
    at: MemoryRegionAddress,
    count: usize,
) -> GuestMemoryResult<(&Mapping, u64)> {
    let memory = vma.payload().memory();
    let memory = memory.ok_or(GuestMemoryError::HostAddressNotAvailable)?;
    let len = vma.range().last() - vma.range().start();
    let count = count as u64;
    // Of a VMA, and of its memory: who maps by hand may have got the lengths wrong.
    let fits = |end: u64| end <= len + 1 && vma.offset().saturating_add(end) <= memory.len();
    match at.0.checked_add(count) {
        Some(end) if fits(end) => Ok((memory, vma.offset() + at.0)),
        _ => Err(GuestMemoryError::InvalidBackendAddress),
    }
}

/// Bytes of a mapping that `vma` has.
///
/// # Safety
///
/// They are inside of it.
#[inline(always)]
unsafe fn slice_of(memory: &Mapping, at: u64, count: usize) -> VolatileSlice<'_, DirtySlice<'_>> {
    // SAFETY: says the caller; and they are mapped as long as the mapping is borrowed.
    unsafe {
        let dirty = memory.dirty_pages().slice_at(at as usize);
        let start = memory.host_addr().add(at as usize);
        VolatileSlice::with_bitmap(start, count, dirty, None)
    }
}

/// What nearly all ask for: some bytes that are there, and that KVM has had from the
/// start. Small enough to be a part of whatever asks.
#[inline(always)]
fn plain_slice(
    vma: &Vma<Backing>,
    at: u64,
    count: usize,
) -> Option<VolatileSlice<'_, DirtySlice<'_>>> {
    let (Backing::Ram(memory) | Backing::Rom(memory)) = vma.payload() else {
        return None;
    };
    // Of none of 0 bytes there is a last one.
    let last = at.wrapping_add(count as u64).wrapping_sub(1);
    let is_in_vma = at <= last && last <= vma.range().last() - vma.range().start();
    let end = vma.offset().checked_add(last)?;
    // SAFETY: from `at` to `last` in the VMA, which is up to `end` in its mapping.
    (is_in_vma && end < memory.len()).then(|| unsafe { slice_of(memory, vma.offset() + at, count) })
}

#[cold]
fn other_slice(
    vma: &Vma<Backing>,
    at: MemoryRegionAddress,
    count: usize,
) -> GuestMemoryResult<VolatileSlice<'_, DirtySlice<'_>>> {
    let (memory, at) = locate(vma, at, count)?;
    // SAFETY: just located.
    Ok(unsafe { slice_of(memory, at, count) })
}

/// A VMA of memory, held while it is used. The bytes are those of its mapping; a VMA
/// of lazy RAM has its memslot put in before they are reached.
///
/// A page that the host cannot give (a file that was cut short, poison) is SIGBUS, as
/// with `vm-memory`'s own regions: the copy is that crate's code. Where it is to be an
/// error, use [`GuestSpace::read`](crate::memory::GuestSpace::read) and `write`.
impl GuestMemoryRegion for Vma<Backing> {
    type B = DirtyPages;

    #[inline]
    fn len(&self) -> GuestUsize {
        // Not all of 2^64: memory is shorter.
        self.range().last() - self.range().start() + 1
    }

    #[inline]
    fn start_addr(&self) -> GuestAddress {
        GuestAddress(self.range().start())
    }

    #[inline]
    fn last_addr(&self) -> GuestAddress {
        GuestAddress(self.range().last())
    }

    fn bitmap(&self) -> DirtySlice<'_> {
        let memory = self.payload().memory()?;
        memory.dirty_pages().slice_at(self.offset() as usize)
    }

    fn get_host_address(&self, addr: MemoryRegionAddress) -> GuestMemoryResult<*mut u8> {
        let (memory, at) = locate(self, addr, 1)?;
        Ok(memory.host_addr().wrapping_add(at as usize))
    }

    /// `None` also of a part that does not begin where its memory does: what was split
    /// off has no offset of its own to lend. [`Vma::offset`] tells.
    fn file_offset(&self) -> Option<&FileOffset> {
        let memory = self.payload().memory()?;
        memory.file_offset().filter(|_| self.offset() == 0)
    }

    #[inline(always)]
    fn get_slice(
        &self,
        offset: MemoryRegionAddress,
        count: usize,
    ) -> GuestMemoryResult<VolatileSlice<'_, DirtySlice<'_>>> {
        match plain_slice(self, offset.0, count) {
            Some(slice) => Ok(slice),
            None => other_slice(self, offset, count),
        }
    }

    fn is_hugetlbfs(&self) -> Option<bool> {
        self.payload().memory()?.is_hugetlbfs()
    }
}

impl GuestMemoryRegionBytes for Vma<Backing> {}
