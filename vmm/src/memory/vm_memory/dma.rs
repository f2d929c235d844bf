//! What a device sees: memory, as far as it may read or write it.

use std::io;
use std::iter::FusedIterator;

use vm_memory::guest_memory::GuestMemorySliceIterator;
use vm_memory::{
    GuestAddress, GuestMemory, GuestMemoryError, GuestMemoryRegion, GuestMemoryResult,
    MemoryRegionAddress, Permissions, VolatileSlice,
};

use super::{RamView, region};
use crate::memory::Backing;
use crate::memory::mapping::{DirtyPages, DirtySlice};
use crate::mm::{VmFlags, Vma};

/// As [`RamView`], but each access is checked: what the guest may not write, ROM, no
/// device of its writes either.
#[derive(Clone, Debug)]
pub struct DmaView {
    ram: RamView,
}

impl DmaView {
    #[inline]
    pub(super) fn new(ram: RamView) -> Self {
        Self { ram }
    }
}

/// Whether a region may be accessed so.
#[inline(always)]
fn allows(vma: &Vma<Backing>, access: Permissions) -> bool {
    let flags = vma.flags();
    let rom = matches!(vma.payload(), Backing::Rom(_));
    (flags.contains(VmFlags::READ) || !access.allow(Permissions::Read))
        && ((flags.contains(VmFlags::WRITE) && !rom) || !access.has_write())
}

impl GuestMemory for DmaView {
    type PhysicalMemory = RamView;
    type Bitmap = DirtyPages;

    fn check_range(&self, addr: GuestAddress, count: usize, access: Permissions) -> bool {
        let mut slices = self.slices(addr, count, access);
        while slices.left > 0 {
            // Asking puts no slot of lazy RAM in.
            let is_there = |(vma, at, len)| region::find(vma, at, len).map(drop);
            if slices.step().and_then(is_there).is_err() {
                return false;
            }
        }
        true
    }

    #[inline]
    fn get_slices<'a>(
        &'a self,
        addr: GuestAddress,
        count: usize,
        access: Permissions,
    ) -> GuestMemoryResult<impl GuestMemorySliceIterator<'a, DirtySlice<'a>>> {
        Ok(self.slices(addr, count, access))
    }

    /// All memory, unchecked.
    fn physical_memory(&self) -> Option<&RamView> {
        Some(&self.ram)
    }
}

impl DmaView {
    #[inline]
    fn slices(&self, addr: GuestAddress, count: usize, access: Permissions) -> DmaSlices<'_> {
        DmaSlices {
            ram: &self.ram,
            addr: addr.0,
            left: count,
            access,
        }
    }
}

/// The parts of a range, one in each region. Ends with the first error.
#[derive(Debug)]
struct DmaSlices<'a> {
    ram: &'a RamView,
    addr: u64,
    left: usize,
    access: Permissions,
}

impl<'a> DmaSlices<'a> {
    #[inline(always)]
    fn part(&mut self) -> GuestMemoryResult<VolatileSlice<'a, DirtySlice<'a>>> {
        let (vma, at, len) = self.step()?;
        vma.get_slice(at, len)
    }

    /// The next region, and what is wanted of it.
    #[inline(always)]
    fn step(&mut self) -> GuestMemoryResult<(&'a Vma<Backing>, MemoryRegionAddress, usize)> {
        let (ram, addr) = (self.ram, self.addr);
        let vma = ram
            .find(addr)
            .ok_or(GuestMemoryError::InvalidGuestAddress(GuestAddress(addr)))?;
        if !allows(vma, self.access) {
            return Err(denied(addr, self.access));
        }
        let at = addr - vma.range().start();
        let here = (vma.range().last() - addr).saturating_add(1);
        let len = here.min(self.left as u64) as usize;
        self.left -= len;
        match addr.checked_add(len as u64) {
            Some(next) => self.addr = next,
            None if self.left == 0 => {}
            None => return Err(GuestMemoryError::GuestAddressOverflow),
        }
        Ok((vma, MemoryRegionAddress(at), len))
    }
}

#[cold]
fn denied(addr: u64, access: Permissions) -> GuestMemoryError {
    let what = format!("guest address {addr:#x}: no {access:?} access (as to ROM)");
    GuestMemoryError::IOError(io::Error::new(io::ErrorKind::PermissionDenied, what))
}

impl<'a> Iterator for DmaSlices<'a> {
    type Item = GuestMemoryResult<VolatileSlice<'a, DirtySlice<'a>>>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let part = self.part();
        if part.is_err() {
            self.left = 0;
        }
        Some(part)
    }
}

impl FusedIterator for DmaSlices<'_> {}

impl<'a> GuestMemorySliceIterator<'a, DirtySlice<'a>> for DmaSlices<'a> {
    #[inline(always)]
    fn stop_on_error(
        mut self,
    ) -> GuestMemoryResult<impl Iterator<Item = VolatileSlice<'a, DirtySlice<'a>>>> {
        let first = match self.left {
            0 => None,
            _ => Some(self.part()?),
        };
        Ok(DmaParts { first, rest: self })
    }
}

/// The slices up to the first error. What is there at once, which is most often all,
/// is in `first`: the trait's own way of doing this moves each slice some times more.
struct DmaParts<'a> {
    first: Option<VolatileSlice<'a, DirtySlice<'a>>>,
    rest: DmaSlices<'a>,
}

impl<'a> Iterator for DmaParts<'a> {
    type Item = VolatileSlice<'a, DirtySlice<'a>>;

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        match self.first.take() {
            None if self.rest.left > 0 => self.rest.next()?.ok(),
            first => first,
        }
    }
}
