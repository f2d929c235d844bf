//! Host memory that stands behind guest addresses.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use vm_memory::bitmap::{AtomicBitmap, BS, Bitmap};
use vm_memory::{FileOffset, VolatileSlice};

use super::faults::{self, Step};
use super::paging::Pager;
use super::ram::{FilePart, Leaves, map_memory};
use super::sigbus;

/// Bytes in a page.
pub const PAGE: u64 = 4096;

/// Host memory that can be mapped into a guest.
///
/// # Safety
///
/// The implementor promises that `host_addr()..host_addr() + len()` stays mapped
/// readable and writable at that address, and belongs to nothing else, for as
/// long as the value lives; both functions always return the same.
pub unsafe trait HostMemory: Send + Sync + 'static {
    /// The first byte; page-aligned.
    fn host_addr(&self) -> *mut u8;

    /// Bytes; a multiple of the page size, not 0.
    fn len(&self) -> u64;

    /// Never: memory of no length cannot be made.
    fn is_empty(&self) -> bool {
        false
    }

    /// If this maps a file of KVM's own, that file and the offset in it: the guest
    /// then gets its pages from there. Always the same.
    fn guest_memfd(&self) -> Option<(BorrowedFd<'_>, u64)> {
        None
    }

    /// The pages that the VMM has written to, if they are tracked: a bit for each page
    /// of this memory.
    fn dirty_pages(&self) -> Option<&AtomicBitmap> {
        None
    }
}

/// Memory that this value owns: given back to the host when it is dropped, or by
/// [`Mapping::unmap`], which also tells how that went. It comes from a
/// [`RamSource`](super::RamSource), or simply from [`Mapping::anonymous`].
#[derive(Debug)]
pub struct Mapping {
    addr: NonNull<u8>,
    /// A multiple of the page size, not 0.
    len: usize,
    /// The part of a file that is mapped, if any.
    part: Option<FilePart>,
    /// The same, as `vm-memory` calls it.
    file: Option<FileOffset>,
    /// Who brings its pages, if it does not come whole.
    pager: Option<Arc<Pager>>,
    /// Whether it is made of huge pages of the host's pool, where that is known.
    hugetlb: Option<bool>,
    /// The advice that makes the host take its pages, where `munmap` fails.
    discard: libc::c_int,
    dirty: DirtyPages,
}

/// Which pages have been written to, a bit each, if that is tracked.
pub type DirtyPages = Option<AtomicBitmap>;

/// [`DirtyPages`] from some page on.
pub type DirtySlice<'a> = BS<'a, DirtyPages>;

// SAFETY: the memory belongs to the process, not to a thread, and is touched
// through volatile accesses only.
unsafe impl Send for Mapping {}
// SAFETY: as above; guest memory is shared with the vCPUs by its nature.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` zeroed bytes of private memory. Nothing is reserved up front:
    /// pages come with the first touch. Fails with `InvalidInput` unless `len` is a
    /// multiple of the page size and not 0, and with the system's error if the
    /// host refuses.
    pub fn anonymous(len: u64) -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        Self::new(len, PAGE, flags, None)
    }

    /// Maps `len` bytes at a multiple of `align`, a power of two; of a file if there
    /// is `part`, which `flags` must agree with.
    pub(super) fn new(
        len: u64,
        align: u64,
        flags: i32,
        part: Option<FilePart>,
    ) -> io::Result<Self> {
        let bytes = usize::try_from(len)
            .ok()
            .filter(|&n| n != 0 && len.is_multiple_of(PAGE));
        let Some(bytes) = bytes else {
            let what = format!("cannot map {len} bytes: not a multiple of {PAGE}, or none");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        };
        let file = part.as_ref().map(|p| (p.file.as_raw_fd(), p.offset));
        faults::check(Step::MapMemory)?;
        let addr = map_memory(bytes, align as usize, flags, file)?;
        let len = bytes;
        let hugetlb = match &part {
            // Where it lies is the user's choice.
            Some(part) if part.leaves != Leaves::Hole => None,
            _ => Some(flags & libc::MAP_HUGETLB != 0),
        };
        // Memory that is shared outlives the page tables that it is dropped from; where
        // a file is behind it, that is seen to.
        let discard = match flags & libc::MAP_SHARED != 0 && part.is_none() {
            true => libc::MADV_REMOVE,
            false => libc::MADV_DONTNEED,
        };
        let file_offset = |part: &FilePart| FileOffset::from_arc(part.file.clone(), part.offset);
        Ok(Self {
            addr,
            len,
            file: part.as_ref().map(file_offset),
            part,
            pager: None,
            hugetlb,
            discard,
            dirty: None,
        })
    }

    /// The same, which `pager` has in its table.
    pub(super) fn paged_by(mut self, pager: Arc<Pager>) -> Self {
        self.pager = Some(pager);
        self
    }

    /// The same, with a record of the pages that are written to through this value or
    /// [the `vm-memory` traits](super::vm_memory). What a guest writes is added to it
    /// by `MemSlot::take_dirty_pages`, of a slot that logs.
    pub fn with_dirty_pages(mut self) -> Self {
        const PAGE_SIZE: NonZeroUsize = NonZeroUsize::new(PAGE as usize).expect("not 0");
        self.dirty = Some(AtomicBitmap::new(self.len, PAGE_SIZE));
        self
    }

    /// The pages that have been written to, if they are [tracked](Self::with_dirty_pages).
    pub fn dirty_pages(&self) -> &DirtyPages {
        &self.dirty
    }

    /// The file that is mapped, and where it begins there.
    pub fn file_offset(&self) -> Option<&FileOffset> {
        self.file.as_ref()
    }

    /// Whether it is made of huge pages of the host's pool; `None` of a file that the
    /// user named.
    pub fn is_hugetlbfs(&self) -> Option<bool> {
        self.hugetlb
    }

    /// Where it is, for advice to the host.
    pub(super) fn raw(&self) -> (NonNull<u8>, usize) {
        (self.addr, self.len)
    }

    /// The bytes, for volatile access.
    pub fn as_volatile(&self) -> VolatileSlice<'_, DirtySlice<'_>> {
        // SAFETY: the mapping is `len` bytes long and lives as long as `self`,
        // which the slice borrows.
        unsafe {
            let dirty = self.dirty.slice_at(0);
            VolatileSlice::with_bitmap(self.addr.as_ptr(), self.len, dirty, None)
        }
    }

    /// Copies from the memory at `offset` into `data`. Fails with [`sigbus::Fault`] if
    /// the host has no page to give there.
    pub fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), sigbus::Fault> {
        let part = self.part(offset, data.len());
        // SAFETY: the part is as long as the data, and mapped while `self` is borrowed.
        unsafe { sigbus::read(part.ptr_guard().as_ptr(), data) }
    }

    /// Copies `data` into the memory at `offset`; fails as [`Mapping::read`] does.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<(), sigbus::Fault> {
        let part = self.part(offset, data.len());
        // SAFETY: as in `read`.
        let written = unsafe { sigbus::write(part.ptr_guard_mut().as_ptr(), data) };
        // Also where it was ended: some of it may be there.
        part.bitmap().mark_dirty(0, data.len());
        written
    }

    /// # Panics
    ///
    /// If the bytes do not lie inside the mapping: VMAs and their mappings are
    /// made with one length.
    fn part(&self, offset: u64, len: usize) -> VolatileSlice<'_, DirtySlice<'_>> {
        let offset = usize::try_from(offset).expect("an offset into host memory");
        self.as_volatile()
            .subslice(offset, len)
            .expect("inside the mapping")
    }

    /// Gives the memory back to the host. The part of a file behind it becomes a
    /// hole, unless the user named the file and wants it kept. If `munmap` fails (it may need one more
    /// mapping than `vm.max_map_count` allows) the pages are discarded all the
    /// same, the addresses stay reserved, and the error is returned.
    pub fn unmap(self) -> io::Result<()> {
        let mut this = std::mem::ManuallyDrop::new(self);
        this.release(true)
    }

    /// The last thing that happens to it.
    fn release(&mut self, on_purpose: bool) -> io::Result<()> {
        if let Some(pager) = self.pager.take() {
            pager.retire(self.addr.as_ptr() as u64, self.len as u64);
        }
        let addr = self.addr.as_ptr().cast();
        // SAFETY: the mapping is ours, and its owner gives it up: `unmap` takes
        // it by value, `drop` comes last.
        let unmap = || done(unsafe { libc::munmap(addr, self.len) });
        // SAFETY: as above; the range is still mapped, since `munmap` failed.
        let discard = || done(unsafe { libc::madvise(addr, self.len, self.discard) });
        let unmapped = faults::check(Step::UnmapMemory).and_then(|()| unmap());
        let unmapped = unmapped.map_err(|error| {
            match faults::check(Step::DiscardMemory).and_then(|()| discard()) {
                Ok(()) => error,
                Err(kept) => {
                    io::Error::other(format!("{error}, and the host keeps the pages: {kept}"))
                }
            }
        });
        // Taken, since nobody drops the fields after `unmap`.
        (self.file, self.dirty) = (None, None);
        let punched = self.part.take().map_or(Ok(()), |part| match part.leaves {
            Leaves::HoleIfUnmapped if on_purpose => part.punch(self.len),
            Leaves::Hole => part.punch(self.len),
            Leaves::Contents | Leaves::HoleIfUnmapped => Ok(()),
        });
        unmapped.and(punched)
    }
}

/// What a system call that returns 0 if all went well has returned.
fn done(returned: libc::c_int) -> io::Result<()> {
    match returned {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

// SAFETY: the mapping is made by the constructor and goes with the value.
unsafe impl HostMemory for Mapping {
    fn host_addr(&self) -> *mut u8 {
        self.addr.as_ptr()
    }

    fn len(&self) -> u64 {
        self.len as u64
    }

    fn guest_memfd(&self) -> Option<(BorrowedFd<'_>, u64)> {
        let part = self.part.as_ref().filter(|part| part.is_guest_memfd)?;
        Some((part.file.as_fd(), part.offset))
    }

    fn dirty_pages(&self) -> Option<&AtomicBitmap> {
        self.dirty.as_ref()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if let Err(error) = self.release(false) {
            log::warn!(
                "{} bytes of guest memory were not given back as they should: {error}",
                self.len
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_zeroed_and_keeps_what_is_written() {
        let mapping = Mapping::anonymous(2 * PAGE).unwrap();
        let mut data = [1; 8];
        mapping.read(PAGE - 4, &mut data).unwrap();
        assert_eq!(data, [0; 8]);
        mapping.write(PAGE - 4, &[1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
        mapping.read(PAGE - 2, &mut data[..4]).unwrap();
        assert_eq!(data[..4], [3, 4, 5, 6]);
        mapping.unmap().unwrap();
    }

    #[test]
    fn refuses_what_is_no_number_of_pages() {
        for len in [0, 1, PAGE + 1, u64::MAX] {
            let error = Mapping::anonymous(len).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{len}");
        }
    }

    #[test]
    fn refuses_more_than_the_address_space() {
        let error = Mapping::anonymous(1 << 60).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOMEM));
    }
}
