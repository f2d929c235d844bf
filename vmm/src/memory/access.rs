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
//! | RAM that KVM has no slot for yet ([`LazyRam`]) | the slot is put in first, then the memory accessed |
//! | a device handler that panics or errors | all ones; counted, named; the guest goes on |
//! | a device, by a device ([`GuestSpace::read_memory`]) | not reached: all ones, dropped |
//!
//! Each VMA is looked up by [`lock_vma_under_rcu_wait`] and held for its part of
//! the access only.
//!
//! [`lock_vma_under_rcu_wait`]: crate::mm::AddressSpace::lock_vma_under_rcu_wait

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

use super::sigbus::Fault;
use super::{Backing, Device, GuestSpace, LazyRam, PutInError};
use crate::clock;
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
    /// [ticks](crate::clock::ticks); 0 unless the space
    /// [stamps](GuestSpace::stamp_accesses).
    pub looked_up: u64,
}

impl Access {
    fn add_part(&mut self, served: Served, vma: Option<u64>, path: LookupPath) {
        if served != Served::Memory || self.parts == 0 {
            (self.served, self.vma) = (served, vma);
        }
        let nested = self.path.nested || path.nested;
        if self.path.waited.is_none() {
            self.path = path;
        }
        self.path.nested = nested;
        self.parts += 1;
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

/// What an access may reach.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    All,
    Memory,
}

/// One direction of data, so that the walk below exists once.
enum Data<'a> {
    Read(&'a mut [u8]),
    Write(&'a [u8]),
}

impl Data<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Read(data) => data.len(),
            Self::Write(data) => data.len(),
        }
    }

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
        mut data: Data<'_>,
        reach: Reach,
        kill: Option<&KillFlag>,
    ) -> Result<Access, AccessError> {
        let len = data.len();
        let mut access = Access::default();
        if len == 0 {
            return Ok(access);
        }
        let range = AddrRange::new(addr, len as u64).filter(|r| self.mm.range().covers(*r));
        let range = range.ok_or(AccessError::PastEnd { addr, len })?;
        let mut done = 0;
        while done < len {
            let at = addr + done as u64;
            let options = WaitOptions {
                deadline: None,
                kill,
            };
            let mut path = LookupPath::default();
            let guard = self
                .mm
                .lock_vma_under_rcu_wait_with(at, options, &mut path)
                .map_err(|error| AccessError::Lookup { addr: at, error })?;
            if self.stamps.load(Ordering::Relaxed) {
                access.looked_up = clock::ticks();
            }
            let last = match &guard {
                Some(vma) => vma.range().last(),
                // What follows in the same granule is not mapped either.
                None => at | (self.granule - 1),
            };
            let part_len = (last.min(range.last()) - at) as usize + 1;
            let part = data.part(done, part_len);
            let served = match &guard {
                Some(vma) => {
                    access.slots += put_in(vma, at)?;
                    self.serve(vma, at, part, reach)?
                }
                None => self.nobody(at, part),
            };
            access.add_part(served, guard.map(|vma| vma.range().start()), path);
            done += part_len;
        }
        Ok(access)
    }

    /// Serves one part of an access from the VMA that covers it.
    fn serve(
        &self,
        vma: &VmaReadGuard<'_, Backing>,
        at: u64,
        data: Data<'_>,
        reach: Reach,
    ) -> Result<Served, AccessError> {
        let offset = vma.offset_of(at).expect("looked up by this address");
        let fault = |fault| AccessError::Fault { addr: at, fault };
        match (vma.payload(), data) {
            (Backing::Mmio(device), mut data) if reach == Reach::Memory => {
                data.all_ones();
                let name = device.name();
                self.complain(format_args!("{name}: no device reaches it ({at:#x})"));
                Ok(Served::DeviceFailed)
            }
            (Backing::Mmio(device), data) => Ok(self.serve_by_device(&**device, offset, at, data)),
            (
                Backing::Ram(memory) | Backing::Rom(memory) | Backing::Lazy(LazyRam { memory, .. }),
                Data::Read(data),
            ) => {
                memory.read(offset, data).map_err(fault)?;
                Ok(Served::Memory)
            }
            (Backing::Ram(memory) | Backing::Lazy(LazyRam { memory, .. }), Data::Write(data))
                if vma.flags().contains(VmFlags::WRITE) =>
            {
                memory.write(offset, data).map_err(fault)?;
                Ok(Served::Memory)
            }
            (_, Data::Write(data)) => {
                self.complain(format_args!(
                    "a write of {} bytes to ROM at {at:#x}",
                    data.len()
                ));
                Ok(Served::RomWrite)
            }
        }
    }

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

    /// Hands an access to a device, in the pieces it takes.
    fn serve_by_device(
        &self,
        device: &dyn Device,
        offset: u64,
        at: u64,
        mut data: Data<'_>,
    ) -> Served {
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
            let offset = offset + done as u64;
            // A handler's own state is its own business: it sees the unwinding.
            let result = catch_unwind(AssertUnwindSafe(|| match &mut piece {
                Data::Read(data) => device.read(offset, data),
                Data::Write(data) => device.write(offset, data),
            }));
            if !matches!(result, Ok(Ok(()))) {
                served = Served::DeviceFailed;
                piece.all_ones();
                let name = device.name();
                match result {
                    Ok(Err(error)) => self.complain(format_args!("{name}: {at:#x}: {error}")),
                    _ => self.complain(format_args!("{name}: {at:#x}: its handler panicked")),
                }
            }
            done += len;
        }
        served
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
