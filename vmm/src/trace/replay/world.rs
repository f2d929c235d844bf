//! The map and the devices that a stream is sent to.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::super::ExitKind;
use super::super::event::{Change, Exit, Section, Space};
use super::super::file::Meta;
use super::super::links::{space_named, space_of};
use super::stand_in::{Answer, StandIn};
use crate::devices::{Console, ExitDevice, SerialConsole, TestDevice};
use crate::memory::{Access, AccessError, Backing, Device, GuestSpace, Mapping, PAGE, Served};
use crate::mm::{AddrRange, VmFlags, WriteError};

/// Why what was mapped cannot be mapped here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorldError {
    /// The map refuses it.
    #[error("mapping what was mapped: {0}")]
    Map(#[from] WriteError),
    /// The host has no address space for it.
    #[error("the host gave no memory to stand for {len} bytes of the guest's: {source}")]
    NoMemory {
        /// Bytes.
        len: u64,
        /// The system's error.
        source: io::Error,
    },
    /// The trace contradicts itself.
    #[error("the trace contradicts itself: {0}")]
    Odd(&'static str),
}

/// The most memory that a VMA is given here: what is in it is not compared, and accesses
/// past it read as the same.
const MOST: u64 = 1 << 40;

/// The map and the devices.
pub(super) struct World {
    memory: Arc<GuestSpace>,
    ports: GuestSpace,
    /// Memory by its length: VMAs of the same length share it, since what is in it does
    /// not matter.
    ram: BTreeMap<u64, Arc<Mapping>>,
    /// The device behind each range that is, or was, one's.
    devices: BTreeMap<(Space, u64), Arc<dyn Device>>,
    scripted: BTreeMap<(Space, u64), Arc<StandIn>>,
    /// What the serial port's lines go to; it keeps the writer's thread.
    _console: Option<Console>,
}

impl World {
    pub(super) fn new(meta: &Meta) -> Result<Self, WorldError> {
        let all = AddrRange::new(0, 1 << 52).expect("not empty");
        let mut this = Self {
            memory: Arc::new(GuestSpace::physical(all)),
            ports: GuestSpace::ports(),
            ram: BTreeMap::new(),
            devices: BTreeMap::new(),
            scripted: BTreeMap::new(),
            _console: None,
        };
        let vcpus = (meta.machine.vcpus as usize).clamp(1, 1 << 16);
        for vma in &meta.map {
            let space = space_named(&vma.space);
            let range = range(vma.start, vma.last)?;
            let flags = VmFlags::from_bits(vma.flags);
            if flags.contains(VmFlags::IO) {
                this.device(space, &vma.name, vma.start, vcpus)?;
            }
            let backing = this.backing(space, range, flags, vma.start)?;
            this.space(space)
                .mm()
                .map(range, flags, vma.offset, backing)?;
        }
        Ok(this)
    }

    /// The device of that name, or who stands in for it.
    fn device(
        &mut self,
        space: Space,
        name: &str,
        start: u64,
        vcpus: usize,
    ) -> Result<(), WorldError> {
        let device: Arc<dyn Device> = match name {
            "test" => Arc::new(TestDevice::new(vcpus)),
            "exit" => Arc::new(ExitDevice::new(vcpus)),
            "serial" => {
                let no_thread = |source| WorldError::NoMemory { len: 0, source };
                let console = Console::new(Box::new(io::sink())).map_err(no_thread)?;
                let serial = SerialConsole::new(console.input());
                self._console = Some(console);
                serial
            }
            name => {
                let stand_in = Arc::new(StandIn::new(name.to_owned()));
                self.scripted.insert((space, start), stand_in.clone());
                stand_in
            }
        };
        self.devices.insert((space, start), device);
        Ok(())
    }

    /// What stands behind a VMA with these flags.
    fn backing(
        &mut self,
        space: Space,
        range: AddrRange,
        flags: VmFlags,
        device_at: u64,
    ) -> Result<Backing, WorldError> {
        if flags.contains(VmFlags::IO) {
            if !self.devices.contains_key(&(space, device_at)) {
                self.device(space, "a device", device_at, 1)?;
            }
            return Ok(Backing::Mmio(self.devices[&(space, device_at)].clone()));
        }
        let len = range.len().filter(|len| *len <= MOST);
        let len = len.ok_or(WorldError::Odd("memory of more than 2^40 bytes"))?;
        let len = len.next_multiple_of(PAGE);
        let memory = match self.ram.get(&len) {
            Some(memory) => memory.clone(),
            None => {
                let memory = Mapping::anonymous(len);
                let memory = memory.map_err(|source| WorldError::NoMemory { len, source })?;
                self.ram.entry(len).or_insert(Arc::new(memory)).clone()
            }
        };
        Ok(match flags.contains(VmFlags::WRITE) {
            true => Backing::Ram(memory),
            false => Backing::Rom(memory),
        })
    }

    fn space(&self, space: Space) -> &GuestSpace {
        match space {
            Space::Memory => &self.memory,
            Space::Ports => &self.ports,
        }
    }

    /// Makes the changes of a write section again, in one.
    pub(super) fn apply(&mut self, of: &Section, changes: &[Change]) -> Result<(), WorldError> {
        let removed = || changes.iter().filter(|change| !change.added);
        let mut coming = Vec::new();
        for change in changes.iter().filter(|change| change.added) {
            let flags = VmFlags::from_bits(change.flags);
            // A device that was moved, or a part of one, is still that device.
            let was = removed().find(|old| {
                old.start == change.start
                    || (old.offset, old.bytes()) == (change.offset, change.bytes())
            });
            let device_at = was.map_or(change.start, |old| old.start);
            let range = range(change.start, change.last)?;
            let backing = self.backing(of.space, range, flags, device_at)?;
            if let Backing::Mmio(device) = &backing {
                let key = (of.space, change.start);
                self.devices.insert(key, device.clone());
                if let Some(stand_in) = self.scripted.get(&(of.space, device_at)) {
                    self.scripted.insert(key, stand_in.clone());
                }
            }
            // Memory is there from its beginning: what is in it does not matter.
            let offset = match backing {
                Backing::Mmio(_) => change.offset,
                _ => 0,
            };
            coming.push((range, flags, offset, backing));
        }
        let mut section = self.space(of.space).mm().mmap_write_lock()?;
        for change in removed() {
            section.unmap(range(change.start, change.last)?)?;
        }
        for (range, flags, offset, backing) in coming {
            section.map(range, flags, offset, backing)?;
        }
        // What was merged or kept apart is as recorded: each VMA by itself.
        section.lock()?.publish();
        Ok(())
    }

    /// Whether the access of `exit` goes to a device that answers as recorded.
    pub(super) fn is_scripted(&self, exit: &Exit) -> bool {
        let key = exit.vma.map(|start| (space_of(exit.kind), start));
        key.is_some_and(|key| self.scripted.contains_key(&key))
    }

    /// Makes an access again: how it went, and the first eight bytes read.
    pub(super) fn access(&mut self, exit: &Exit) -> (Result<Access, AccessError>, u64) {
        let space = space_of(exit.kind);
        if let Some(start) = exit.vma
            && let Some(stand_in) = self.scripted.get(&(space, start))
        {
            let fails = exit.served == Some(Served::DeviceFailed);
            let data = exit.data;
            stand_in.prompt(Answer { data, fails });
        }
        let space = self.space(space);
        let written = exit.data.to_le_bytes();
        let is_read = matches!(exit.kind, ExitKind::MmioRead | ExitKind::PioIn);
        // Of a longer one the stream has the first eight bytes.
        let len = usize::from(exit.len).min(8);
        let piece = match exit.piece {
            0 => len,
            piece => usize::from(piece),
        };
        let mut result = Ok(Access::default());
        let mut read = [0; 8];
        for (to, from) in read[..len]
            .chunks_mut(piece.max(1))
            .zip(written[..len].chunks(piece.max(1)))
        {
            result = match is_read {
                true => space.read(exit.addr, to, None),
                false => space.write(exit.addr, from, None),
            };
            if result.is_err() {
                break;
            }
        }
        (result, u64::from_le_bytes(read))
    }
}

fn range(start: u64, last: u64) -> Result<AddrRange, WorldError> {
    AddrRange::inclusive(start, last).ok_or(WorldError::Odd("a range that ends before it begins"))
}
