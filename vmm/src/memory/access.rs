//! What an access does: the one table, for exits, ports and DMA alike.
//!
//! | access | result |
//! |---|---|
//! | no VMA there, read | all ones; counted by the caller; logged at a limited rate |
//! | no VMA there, write | dropped; as above |
//! | crosses from one VMA into the next | split at the border, each part goes to its own VMA |
//! | length 0 | nothing happens |
//! | on a device | it sees the offset and, if it takes it, the exact length |
//! | end past 2^64, or past the space | an error, and nothing happens |
//! | write to ROM | dropped |
//! | RAM that KVM has no slot for yet ([`LazyRam`](super::LazyRam)) | the slot is put in first, then the memory accessed |
//! | a device handler that panics or errors | all ones; counted, named; the guest goes on |
//! | a device, by a device ([`GuestSpace::read_memory`]) | not reached: all ones, dropped |
//!
//! Each VMA is looked up by [`lock_vma_under_rcu_wait`] and held for its part of
//! the access only.
//!
//! [`lock_vma_under_rcu_wait`]: crate::mm::AddressSpace::lock_vma_under_rcu_wait

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::by::{By, LookUp, Reach};
use super::sigbus::Fault;
use super::{Backing, Device, DeviceError, GuestSpace, PutInError};
use crate::mm::{AddrRange, KillFlag, LookupError, LookupPath, VmFlags, VmaReadGuard, WaitOptions};

/// Who answered an access. Of one that touched several VMAs, the last that was
/// not plain memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Served {
    /// Memory.
    #[default]
    Memory,
    /// A device.
    Device,
    /// A device, which failed: the access read as all ones, or was dropped.
    DeviceFailed,
    /// Nobody: no VMA was there.
    Unmapped,
    /// Nobody: a write to ROM.
    RomWrite,
}

/// How an access went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Access {
    /// Who answered.
    pub served: Served,
    /// The first address of the VMA that answered; `None` if none was there.
    pub vma: Option<u64>,
    /// How the lookup went; of several, the one that slept, and whether any was
    /// nested.
    pub path: LookupPath,
    /// How many VMAs and holes the access touched.
    pub parts: u32,
    /// Memslots of lazy RAM that it put in.
    pub slots: u32,
    /// When the last lookup was over and its VMA's turn began, in
    /// [ticks](crate::clock::ticks); 0 unless who answers a vCPU's exit records it.
    pub looked_up: u64,
}

impl Access {
    /// Adds what became of the next part.
    pub(super) fn add(&mut self, next: &Self) {
        if next.served != Served::Memory || self.parts == 0 {
            (self.served, self.vma) = (next.served, next.vma);
        }
        let nested = self.path.nested || next.path.nested;
        if self.path.waited.is_none() {
            self.path = next.path;
        }
        self.path.nested = nested;
        self.parts += next.parts;
        self.slots += next.slots;
        self.looked_up = next.looked_up;
    }
}

/// Why an access could not be carried out. What it had done before stays done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// The access goes past 2^64 or past the end of the address space.
    #[error("an access of {len} bytes at {addr:#x} goes past the end of the address space")]
    PastEnd {
        /// The first address.
        addr: u64,
        /// Bytes.
        len: usize,
    },
    /// The VMA could not be looked up.
    #[error("looking up {addr:#x}: {error}")]
    Lookup {
        /// The address.
        addr: u64,
        /// Why not.
        error: LookupError,
    },
    /// The memslot that was missing could not be put in: the guest must not go on.
    #[error("guest address {addr:#x}: {error}")]
    Slot {
        /// The guest address.
        addr: u64,
        /// What happened.
        error: PutInError,
    },
    /// The host had no page for it.
    #[error("guest address {addr:#x}: {fault}")]
    Fault {
        /// The guest address.
        addr: u64,
        /// What happened.
        fault: Fault,
    },
}

/// One direction of data, so that the walk below exists once.
pub(super) enum Data<'a> {
    Read(&'a mut [u8]),
    Write(&'a [u8]),
}

impl Data<'_> {
    #[inline(always)]
    fn len(&self) -> usize {
        match self {
            Self::Read(data) => data.len(),
            Self::Write(data) => data.len(),
        }
    }

    #[inline(always)]
    fn part(&mut self, start: usize, len: usize) -> Data<'_> {
        match self {
            Self::Read(data) => Data::Read(&mut data[start..start + len]),
            Self::Write(data) => Data::Write(&data[start..start + len]),
        }
    }

    fn all_ones(&mut self) {
        if let Self::Read(data) = self {
            data.fill(0xff);
        }
    }
}

impl GuestSpace {
    /// Reads `data.len()` bytes at `addr`. See the table of this module. Blocks
    /// only while a writer is changing a VMA that the access touches; `kill` ends
    /// that wait with an error.
    pub fn read(
        &self,
        addr: u64,
        data: &mut [u8],
        kill: Option<&KillFlag>,
    ) -> Result<Access, AccessError> {
        self.access(addr, Data::Read(data), Reach::All, kill)
    }

    /// Writes `data` at `addr`; otherwise as [`read`](Self::read).
    pub fn write(
        &self,
        addr: u64,
        data: &[u8],
        kill: Option<&KillFlag>,
    ) -> Result<Access, AccessError> {
        self.access(addr, Data::Write(data), Reach::All, kill)
    }

    /// As [`read`](Self::read), for a device that reads memory: another device, or
    /// itself, is not reached and reads as all ones. So a guest cannot have handlers
    /// call handlers without end.
    pub fn read_memory(
        &self,
        addr: u64,
        data: &mut [u8],
        kill: Option<&KillFlag>,
    ) -> Result<Access, AccessError> {
        self.access(addr, Data::Read(data), Reach::Memory, kill)
    }

    /// As [`write`](Self::write), and as [`read_memory`](Self::read_memory) is to
    /// [`read`](Self::read): what is not memory drops it.
    pub fn write_memory(
        &self,
        addr: u64,
        data: &[u8],
        kill: Option<&KillFlag>,
    ) -> Result<Access, AccessError> {
        self.access(addr, Data::Write(data), Reach::Memory, kill)
    }

    fn access(
        &self,
        addr: u64,
        data: Data<'_>,
        reach: Reach,
        kill: Option<&KillFlag>,
    ) -> Result<Access, AccessError> {
        let mut access = Access::default();
        let by = By::unstamped(&self.mm, reach, kill);
        self.carry_out(addr, data, by, &mut access)?;
        Ok(access)
    }

    /// The walk over what an access touches: for most, one step.
    ///
    /// What becomes of it is written to where it is wanted, not handed from one to the
    /// next: after the guest has run, an exit takes as long as it touches lines.
    #[inline(always)]
    pub(super) fn carry_out<L: LookUp>(
        &self,
        addr: u64,
        mut data: Data<'_>,
        by: By<'_, L>,
        access: &mut Access,
    ) -> Result<(), AccessError> {
        let len = data.len();
        if len == 0 {
            return Ok(());
        }
        let range = AddrRange::new(addr, len as u64).filter(|r| by.lookups.range().covers(*r));
        let range = range.ok_or(AccessError::PastEnd { addr, len })?;
        let done = self.part(range, &mut data, by, access)?;
        match done == len {
            true => Ok(()),
            false => self.go_on(range, data, done, by, access),
        }
    }

    /// The steps after the first.
    #[inline(never)]
    fn go_on<L: LookUp>(
        &self,
        range: AddrRange,
        mut data: Data<'_>,
        mut done: usize,
        by: By<'_, L>,
        access: &mut Access,
    ) -> Result<(), AccessError> {
        while done < data.len() {
            let left = AddrRange::inclusive(range.start() + done as u64, range.last());
            let (left, len) = (left.expect("not empty"), data.len() - done);
            let mut next = Access::default();
            let part = self.part(left, &mut data.part(done, len), by, &mut next);
            access.add(&next);
            done += part?;
        }
        Ok(())
    }

    /// One step: what the VMA at the start of `range` has of it, or the hole there; how
    /// many bytes of `data` that was. `access` is new.
    #[inline(always)]
    fn part<L: LookUp>(
        &self,
        range: AddrRange,
        data: &mut Data<'_>,
        by: By<'_, L>,
        access: &mut Access,
    ) -> Result<usize, AccessError> {
        let at = range.start();
        let options = WaitOptions {
            deadline: None,
            kill: by.kill,
        };
        let guard = by
            .lookups
            .look_up(at, options, &mut access.path)
            .map_err(|error| AccessError::Lookup { addr: at, error })?;
        if let Some(clock) = by.stamp {
            access.looked_up = clock.ticks();
        }
        let last = match &guard {
            Some(vma) => vma.range().last(),
            // What follows in the same granule is not mapped either.
            None => at | (self.granule - 1),
        };
        let len = (last.min(range.last()) - at) as usize + 1;
        let data = data.part(0, len);
        access.parts = 1;
        match &guard {
            Some(vma) => {
                access.vma = Some(vma.range().start());
                access.served = self.serve(vma, at, data, by.reach, &mut access.slots)?;
            }
            None => access.served = self.nobody(at, data),
        }
        Ok(len)
    }

    /// Serves one part of an access from the VMA that covers it. Counts in `slots` what it
    /// puts in.
    #[inline(always)]
    fn serve(
        &self,
        vma: &VmaReadGuard<'_, Backing>,
        at: u64,
        data: Data<'_>,
        reach: Reach,
        slots: &mut u32,
    ) -> Result<Served, AccessError> {
        let offset = vma.offset_of(at).expect("looked up by this address");
        match vma.payload() {
            Backing::Mmio(device) if reach == Reach::All => {
                Ok(self.serve_by_device(&**device, offset, at, data))
            }
            Backing::Mmio(device) => Ok(self.out_of_reach(&**device, at, data)),
            _ => self.serve_memory(vma, at, offset, data, slots),
        }
    }

    /// A device is not to reach this one.
    #[cold]
    fn out_of_reach(&self, device: &dyn Device, at: u64, mut data: Data<'_>) -> Served {
        data.all_ones();
        let name = device.name();
        self.complain(format_args!("{name}: no device reaches it ({at:#x})"));
        Served::DeviceFailed
    }

    #[inline(never)]
    fn serve_memory(
        &self,
        vma: &VmaReadGuard<'_, Backing>,
        at: u64,
        offset: u64,
        data: Data<'_>,
        slots: &mut u32,
    ) -> Result<Served, AccessError> {
        *slots += put_in(vma, at)?;
        let memory = vma.payload().memory().expect("no device");
        let is_rom = matches!(vma.payload(), Backing::Rom(_));
        match data {
            Data::Read(data) => memory.read(offset, data),
            Data::Write(data) if !is_rom && vma.flags().contains(VmFlags::WRITE) => {
                memory.write(offset, data)
            }
            Data::Write(data) => {
                let len = data.len();
                self.complain(format_args!("a write of {len} bytes to ROM at {at:#x}"));
                return Ok(Served::RomWrite);
            }
        }
        .map_err(|fault| AccessError::Fault { addr: at, fault })?;
        Ok(Served::Memory)
    }

    #[cold]
    fn nobody(&self, at: u64, mut data: Data<'_>) -> Served {
        data.all_ones();
        let verb = if matches!(data, Data::Read(_)) {
            "read"
        } else {
            "write"
        };
        self.complain(format_args!(
            "a {verb} of {} bytes at {at:#x}: nothing is there",
            data.len()
        ));
        Served::Unmapped
    }

    /// Hands an access to a device: most take it as it is.
    #[inline(always)]
    fn serve_by_device(
        &self,
        device: &dyn Device,
        offset: u64,
        at: u64,
        mut data: Data<'_>,
    ) -> Served {
        match device.sizes().piece(data.len()) {
            Some(len) if len == data.len() => self.piece(device, offset, at, &mut data),
            _ => self.in_pieces(device, offset, at, data),
        }
    }

    /// The same, in the pieces that the device takes.
    #[inline(never)]
    fn in_pieces(&self, device: &dyn Device, offset: u64, at: u64, mut data: Data<'_>) -> Served {
        let (mut done, mut served) = (0, Served::Device);
        while done < data.len() {
            let left = data.len() - done;
            let Some(len) = device.sizes().piece(left) else {
                data.part(done, left).all_ones();
                let name = device.name();
                self.complain(format_args!(
                    "{name}: takes no access of {left} bytes ({at:#x})"
                ));
                return Served::DeviceFailed;
            };
            let mut piece = data.part(done, len);
            if self.piece(device, offset + done as u64, at, &mut piece) != Served::Device {
                served = Served::DeviceFailed;
            }
            done += len;
        }
        served
    }

    /// Hands one piece of an access to a device.
    #[inline(always)]
    fn piece(&self, device: &dyn Device, offset: u64, at: u64, piece: &mut Data<'_>) -> Served {
        // A handler's own state is its own business: it sees the unwinding. (One closure
        // for each direction: one for both would find out which, after the compiler knew.)
        let result = match piece {
            Data::Read(data) => catch_unwind(AssertUnwindSafe(|| device.read(offset, data))),
            Data::Write(data) => catch_unwind(AssertUnwindSafe(|| device.write(offset, data))),
        };
        match result {
            Ok(Ok(())) => Served::Device,
            Ok(Err(error)) => self.failed(device, at, piece, Some(error)),
            Err(panic) => {
                // Here, so that nothing is to be dropped where there was none.
                drop(panic);
                self.failed(device, at, piece, None)
            }
        }
    }

    /// A device has failed, by this error or by a panic.
    #[cold]
    fn failed(
        &self,
        device: &dyn Device,
        at: u64,
        piece: &mut Data<'_>,
        error: Option<DeviceError>,
    ) -> Served {
        piece.all_ones();
        let name = device.name();
        match error {
            Some(error) => self.complain(format_args!("{name}: {at:#x}: {error}")),
            None => self.complain(format_args!("{name}: {at:#x}: its handler panicked")),
        }
        Served::DeviceFailed
    }

    /// Logs what a guest did wrong, at a rate that the guest cannot raise.
    fn complain(&self, what: std::fmt::Arguments<'_>) {
        if log::log_enabled!(log::Level::Info)
            && let Some(more) = self.complaints.pass()
        {
            log::info!(
                "{}: {what} ({more} such messages held back)",
                self.mm.name()
            );
        }
    }
}

/// Has the VMA's memslot put in if that is still missing, before anything is read
/// or written; how many that was.
fn put_in(vma: &VmaReadGuard<'_, Backing>, addr: u64) -> Result<u32, AccessError> {
    let Backing::Lazy(ram) = vma.payload() else {
        return Ok(0);
    };
    let put_in = ram.slot.put_in();
    put_in
        .map(u32::from)
        .map_err(|error| AccessError::Slot { addr, error })
}
