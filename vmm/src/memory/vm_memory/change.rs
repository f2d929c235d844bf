//! Adding and removing regions.

use std::sync::Arc;
use std::time::Instant;

use vm_memory::{GuestAddress, GuestUsize};

use super::GuestRam;
use crate::memory::{Backing, HostMemory, Mapping, PAGE};
use crate::mm::{AddrRange, DrainReport, Vma, WriteError, WriteSection};

/// Why a region was not added, removed or replaced. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegionError {
    /// It does not begin at a page.
    #[error("a region at {base:#x}: regions begin at a multiple of {PAGE}")]
    Unaligned {
        /// The first address.
        base: u64,
    },
    /// It goes past 2^64, or has no bytes.
    #[error("a region of {size} bytes at {base:#x}: it has to end below 2^64 and not be empty")]
    NoRange {
        /// The first address.
        base: u64,
        /// Bytes.
        size: u64,
    },
    /// There is no region with just these addresses.
    #[error(
        "there is no memory region at {base:#x} of {size} bytes: give the base and size of a \
         whole one"
    )]
    NotARegion {
        /// The first address.
        base: u64,
        /// Bytes.
        size: u64,
    },
    /// It is RAM with a memslot that is put in when it is first missed, which is one with
    /// its memory.
    #[error(
        "the region at {base:#x} is lazy RAM, whose memslot is for its own memory: remove it, \
         and add the other"
    )]
    Lazy {
        /// The first address.
        base: u64,
    },
    /// It overlaps another, or lies outside the space; or a reader did not let go of it
    /// by the deadline, and is named.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// A region that is gone.
#[derive(Debug)]
pub struct RemovedRegion {
    /// Its memory, which nobody reaches through the map or a handle any more. With the
    /// last owner it goes back to the host ([`Mapping::unmap`]).
    pub memory: Arc<Mapping>,
    /// Who held it, and for how long that was waited for.
    pub drain: DrainReport,
}

impl GuestRam {
    /// Adds RAM from `base` on, in a write section of its own: any number of threads may
    /// do this at once, and none undoes what another does. Waits for no reader.
    ///
    /// # Errors
    /// See [`RegionError`].
    pub fn insert_region(
        &self,
        base: GuestAddress,
        memory: Arc<Mapping>,
    ) -> Result<(), RegionError> {
        let range = range(base, memory.len())?;
        Ok(self.space().map_ram(range, memory)?)
    }

    /// Adds memory that neither the guest nor its devices may write; as
    /// [`insert_region`](Self::insert_region).
    ///
    /// # Errors
    /// See [`RegionError`].
    pub fn insert_rom(&self, base: GuestAddress, memory: Arc<Mapping>) -> Result<(), RegionError> {
        let range = range(base, memory.len())?;
        Ok(self.space().map_rom(range, memory)?)
    }

    /// Removes a region: when this returns, no handle and no vCPU of the VMM's own reads
    /// or writes it any more. Waits for those that do, or have it pinned, at most until
    /// `deadline`; others are not held up, and do not hold it up.
    ///
    /// A memslot that lies over it has to go between the wait and the removal: see
    /// [`remove_region_with`](Self::remove_region_with).
    ///
    /// With a handle of its own thread that has pinned the region it waits for ever, or
    /// until the deadline: drop the handle first.
    ///
    /// # Errors
    /// See [`RegionError`]; at the deadline [`WriteError::TimedOut`], with the names of
    /// the threads.
    pub fn remove_region(
        &self,
        base: GuestAddress,
        size: GuestUsize,
        deadline: Option<Instant>,
    ) -> Result<RemovedRegion, RegionError> {
        self.remove_region_with(base, size, deadline, || Ok(()))
    }

    /// As [`remove_region`](Self::remove_region); `last` is called when nobody reads or
    /// writes the region any more, and the map still has it: to take a memslot out, or
    /// to tell another process. If it fails, nothing has changed.
    ///
    /// # Errors
    /// What `last` returned, or a [`RegionError`].
    pub fn remove_region_with<E: From<RegionError>>(
        &self,
        base: GuestAddress,
        size: GuestUsize,
        deadline: Option<Instant>,
        last: impl FnOnce() -> Result<(), E>,
    ) -> Result<RemovedRegion, E> {
        let range = range(base, size)?;
        let (section, _) = self.without(range, deadline)?;
        publish(section, deadline, last)
    }

    /// Puts other memory, of the same size, in the place of a region, in one step: no
    /// access finds nothing there. What may be done with the region stays: ROM is ROM.
    /// Otherwise as [`remove_region`](Self::remove_region).
    ///
    /// Where a memslot lies over it, use
    /// [`replace_region_with`](Self::replace_region_with): the guest has the old memory
    /// otherwise, and the devices the new.
    ///
    /// # Errors
    /// See [`RegionError`]; [`RegionError::Lazy`] for lazy RAM.
    pub fn replace_region(
        &self,
        base: GuestAddress,
        memory: Arc<Mapping>,
        deadline: Option<Instant>,
    ) -> Result<RemovedRegion, RegionError> {
        self.replace_region_with(base, memory, deadline, || Ok(()))
    }

    /// As [`replace_region`](Self::replace_region); `last` is called when nobody reads
    /// or writes the region any more, and the map still has the old memory: to take its
    /// memslot out, and one for the other in. If it fails, nothing has changed.
    ///
    /// # Errors
    /// What `last` returned, or a [`RegionError`].
    pub fn replace_region_with<E: From<RegionError>>(
        &self,
        base: GuestAddress,
        memory: Arc<Mapping>,
        deadline: Option<Instant>,
        last: impl FnOnce() -> Result<(), E>,
    ) -> Result<RemovedRegion, E> {
        let range = range(base, memory.len())?;
        let (mut section, old) = self.without(range, deadline)?;
        let other = match old.payload() {
            Backing::Ram(_) => Backing::Ram(memory),
            Backing::Rom(_) => Backing::Rom(memory),
            Backing::Lazy(_) => return Err(RegionError::Lazy { base: base.0 }.into()),
            Backing::Mmio(_) => unreachable!("looked at by `without`"),
        };
        let planned = section.map(range, old.flags(), 0, other);
        // Nobody else has it after the section.
        drop(old);
        planned.map_err(RegionError::from)?;
        publish(section, deadline, last)
    }

    /// A section that plans the removal of the region with these addresses, and the
    /// region.
    fn without(
        &self,
        range: AddrRange,
        deadline: Option<Instant>,
    ) -> Result<(WriteSection<'_, Backing>, Vma<Backing>), RegionError> {
        let mm = self.space().mm();
        let mut section = match deadline {
            Some(deadline) => mm.mmap_write_lock_until(deadline)?,
            None => mm.mmap_write_lock()?,
        };
        let is_it = |vma: &&Vma<Backing>| vma.range() == range && vma.payload().memory().is_some();
        let vma = section.find_vma(range.start()).filter(is_it).cloned();
        let Some(vma) = vma else {
            let (base, size) = (range.start(), range.len().unwrap_or(u64::MAX));
            return Err(RegionError::NotARegion { base, size });
        };
        section.unmap(range)?;
        Ok((section, vma))
    }
}

fn range(base: GuestAddress, size: u64) -> Result<AddrRange, RegionError> {
    let base = base.0;
    if !base.is_multiple_of(PAGE) {
        return Err(RegionError::Unaligned { base });
    }
    // Not up to 2^64 either, where `vm-memory` goes on at 0.
    let range = AddrRange::new(base, size).filter(|range| range.end().is_some());
    range.ok_or(RegionError::NoRange { base, size })
}

/// Locks, drains and publishes a section that removes one region.
fn publish<E: From<RegionError>>(
    section: WriteSection<'_, Backing>,
    deadline: Option<Instant>,
    last: impl FnOnce() -> Result<(), E>,
) -> Result<RemovedRegion, E> {
    let drained = match deadline {
        Some(deadline) => section.lock_until(deadline),
        None => section.lock(),
    };
    let drained = drained.map_err(RegionError::from)?;
    last()?;
    let published = drained.publish();
    let gone = published.removed.into_iter().next();
    let memory = match gone.expect("planned").into_payload() {
        Backing::Ram(memory) | Backing::Rom(memory) => memory,
        Backing::Lazy(lazy) => lazy.memory,
        Backing::Mmio(_) => unreachable!("the section looked"),
    };
    Ok(RemovedRegion {
        memory,
        drain: published.drain,
    })
}
