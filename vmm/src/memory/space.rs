//! A guest's address space: the map, and what may stand in it.

use std::sync::Arc;
use std::time::Duration;

use super::{Backing, Device, LogLimit, Mapping};
use crate::mm::{AddrRange, AddressSpace, SpaceOptions, VmFlags, WriteError};

/// A map whose VMAs carry [`Backing`]s, with the rules for accesses to it
/// ([`read`](Self::read), [`write`](Self::write)). A guest has two: its physical
/// addresses and its ports. A thread that needs both at once looks the port up first
/// (a port's device reads memory, not the other way round): debug builds panic
/// otherwise.
#[derive(Debug)]
#[repr(C)]
pub struct GuestSpace {
    pub(super) mm: AddressSpace<Backing>,
    /// A power of two: every VMA begins and ends at a multiple of it.
    pub(super) granule: u64,
    pub(super) complaints: LogLimit,
}

impl GuestSpace {
    /// Guest-physical addresses, mapped in pages.
    pub fn physical(range: AddrRange) -> Self {
        Self::physical_with(range, SpaceOptions::default())
    }

    /// The same, with a strategy, or what to do at the windows of the protocol. The
    /// rank is not asked for: this space has its own.
    pub fn physical_with(range: AddrRange, options: SpaceOptions) -> Self {
        Self::new("guest memory", range, 1, super::PAGE, options)
    }

    /// The 65536 ports, mapped one by one.
    pub fn ports() -> Self {
        let range = AddrRange::new(0, 1 << 16).expect("not empty");
        Self::new("ports", range, 0, 1, SpaceOptions::default())
    }

    fn new(name: &str, range: AddrRange, rank: u32, granule: u64, options: SpaceOptions) -> Self {
        let complaints = LogLimit::new(Duration::from_secs(1));
        let options = SpaceOptions {
            rank: Some(rank),
            ..options
        };
        Self {
            mm: AddressSpace::with_options(name, range, options),
            granule,
            complaints,
        }
    }

    /// The map, for lookups and write sections.
    pub fn mm(&self) -> &AddressSpace<Backing> {
        &self.mm
    }

    /// Maps a device, in a write section of its own.
    pub fn map_device(&self, range: AddrRange, device: Arc<dyn Device>) -> Result<(), WriteError> {
        let flags = VmFlags::READ | VmFlags::WRITE | VmFlags::IO;
        self.mm.map(range, flags, 0, Backing::Mmio(device))
    }

    /// Maps RAM, in a write section of its own.
    ///
    /// # Errors
    ///
    /// [`WriteError::OutOfSpace`] also for a range that ends at 2^64, where who walks
    /// over memory goes on at 0; any other [`WriteError`].
    ///
    /// # Panics
    ///
    /// If the range and the memory differ in length, or the range is not made of
    /// whole pages.
    pub fn map_ram(&self, range: AddrRange, ram: Arc<Mapping>) -> Result<(), WriteError> {
        self.check_memory(range, &ram)?;
        let flags = VmFlags::READ | VmFlags::WRITE | VmFlags::EXEC;
        self.mm.map(range, flags, 0, Backing::Ram(ram))
    }

    /// Maps memory that the guest may not write, in a write section of its own.
    ///
    /// # Errors
    ///
    /// As [`map_ram`](Self::map_ram).
    ///
    /// # Panics
    ///
    /// As [`map_ram`](Self::map_ram) does.
    pub fn map_rom(&self, range: AddrRange, rom: Arc<Mapping>) -> Result<(), WriteError> {
        self.check_memory(range, &rom)?;
        self.mm
            .map(range, VmFlags::READ | VmFlags::EXEC, 0, Backing::Rom(rom))
    }

    /// What an access may rely on: a VMA of memory is as long as the memory, and ends
    /// below 2^64.
    pub(super) fn check_memory(
        &self,
        range: AddrRange,
        memory: &Mapping,
    ) -> Result<(), WriteError> {
        let len = super::HostMemory::len(memory);
        assert_eq!(range.len(), Some(len), "a region is as long as its memory");
        assert!(
            range.start().is_multiple_of(self.granule),
            "a region begins at a page"
        );
        if range.end().is_none() {
            let last = u64::MAX - self.granule;
            let space =
                AddrRange::inclusive(self.mm.range().start(), last).unwrap_or(self.mm.range());
            return Err(WriteError::OutOfSpace { range, space });
        }
        Ok(())
    }
}
