//! The exits of a vCPU, by kind and address.

use std::fmt;

use serde::Serialize;

use super::{ExitTable, Times};
use crate::memory::{Access, Served};

/// The kind of an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitKind {
    /// A load that no memslot served.
    MmioRead,
    /// A store that no memslot took.
    MmioWrite,
    /// An `in`.
    PioIn,
    /// An `out`.
    PioOut,
    /// A `hlt`.
    Halt,
    /// A signal; nothing that the guest did.
    Interrupted,
}

impl ExitKind {
    /// All of them, each at the place of its number.
    pub(super) const ALL: [Self; 6] = [
        Self::MmioRead,
        Self::MmioWrite,
        Self::PioIn,
        Self::PioOut,
        Self::Halt,
        Self::Interrupted,
    ];

    /// What follows an address of this kind, as `perf kvm stat` has it; for those
    /// without an address, all there is.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::MmioRead => "R",
            Self::MmioWrite => "W",
            Self::PioIn => "PIN",
            Self::PioOut => "POUT",
            Self::Halt => "HLT",
            Self::Interrupted => "INTR",
        }
    }
}

/// A row of the exit table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExitKey {
    /// The kind.
    pub kind: ExitKind,
    /// Who answered; `None` where there is no address.
    pub served: Option<Served>,
    /// The address or port. Exact for a device; the region's start for memory;
    /// rounded down to 2 MiB where nothing was mapped.
    pub addr: u64,
}

impl fmt::Display for ExitKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::MmioRead => "MMIO read",
            Self::MmioWrite => "MMIO write",
            Self::PioIn => "PIO in",
            Self::PioOut => "PIO out",
            Self::Halt => "halt",
            Self::Interrupted => "interrupted",
        })
    }
}

impl ExitKey {
    #[inline(always)]
    pub(super) fn new(kind: ExitKind, addr: u64, access: &Access) -> Self {
        let addr = match (access.served, access.vma) {
            // First, as it is by far the most frequent.
            (Served::Device, _) => addr,
            (Served::Memory | Served::RomWrite, Some(start)) => start,
            (Served::Unmapped, _) => addr & !((2 << 20) - 1),
            _ => addr,
        };
        Self {
            kind,
            served: Some(access.served),
            addr,
        }
    }

    /// The address or port; `None` for a kind that has none, and for the row of the rest.
    pub fn address(&self) -> Option<u64> {
        let has_none = matches!(self.kind, ExitKind::Halt | ExitKind::Interrupted);
        (!has_none && *self != Self::overflow(self.kind)).then_some(self.addr)
    }

    /// What a vCPU's exits are counted under once it has made too many different
    /// ones.
    pub(super) const fn overflow(kind: ExitKind) -> Self {
        Self {
            kind,
            served: None,
            addr: u64::MAX,
        }
    }
}

impl fmt::Display for ExitKey {
    /// As `perf kvm stat` has it: `0xd0000000:W`, `0x3f8:POUT`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffix = self.kind.suffix();
        if matches!(self.kind, ExitKind::Halt | ExitKind::Interrupted) {
            return f.write_str(suffix);
        }
        if *self == Self::overflow(self.kind) {
            return write!(f, "others:{suffix}");
        }
        write!(f, "{:#x}:{suffix}", self.addr)
    }
}

/// How many rows all vCPUs of a machine may make together: the guest chooses the
/// addresses, and each row takes some kilobytes.
pub(super) const MAX_ROWS: usize = 8192;
/// How many a vCPU may make, however many there are.
pub(super) const MIN_ROWS: usize = 64;

/// What was counted of one vCPU, or of several together. A vCPU's thread counts in a
/// [`LiveVcpu`](super::LiveVcpu).
#[derive(Debug, Default)]
pub struct VcpuTrace {
    /// The exits.
    pub exits: ExitTable,
    /// Exits by MMIO, second fragments left out: what KVM calls `mmio_exits`.
    pub mmio_exits: u64,
    /// Second fragments of an access that KVM split.
    pub mmio_fragments: u64,
    /// Accesses that nothing was there for.
    pub unmapped: u64,
    /// Of those, the reads.
    pub unmapped_reads: u64,
    /// Writes to ROM.
    pub rom_writes: u64,
    /// Accesses that a device refused or failed at.
    pub device_failures: u64,
    /// Memslots of lazy RAM that were missed and put in.
    pub lazy_slots: u64,
    /// Lookups that had their answer at once.
    pub lookups_fast: u64,
    /// Lookups that found nothing mapped.
    pub lookups_none: u64,
    /// The sleeps of the lookups that waited for a writer.
    pub waits: Times,
}

impl VcpuTrace {
    /// Adds what another vCPU's thread recorded.
    pub fn add(&mut self, other: &Self) {
        self.exits.add(&other.exits);
        self.waits.add(&other.waits);
        let sums = [
            (&mut self.mmio_exits, other.mmio_exits),
            (&mut self.mmio_fragments, other.mmio_fragments),
            (&mut self.unmapped, other.unmapped),
            (&mut self.unmapped_reads, other.unmapped_reads),
            (&mut self.rom_writes, other.rom_writes),
            (&mut self.device_failures, other.device_failures),
            (&mut self.lazy_slots, other.lazy_slots),
            (&mut self.lookups_fast, other.lookups_fast),
            (&mut self.lookups_none, other.lookups_none),
        ];
        for (sum, more) in sums {
            *sum += more;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device_at(addr: u64) -> Access {
        Access {
            served: Served::Device,
            vma: Some(addr & !0xfff),
            parts: 1,
            ..Access::default()
        }
    }

    #[test]
    fn keys_read_like_perf() {
        let key = ExitKey::new(ExitKind::MmioWrite, 0xd000_0008, &device_at(0xd000_0008));
        assert_eq!(key.to_string(), "0xd0000008:W");
        let hole = Access {
            served: Served::Unmapped,
            ..Access::default()
        };
        let key = ExitKey::new(ExitKind::MmioRead, 0x1_0021_1234, &hole);
        assert_eq!(key.to_string(), "0x100200000:R");
        let ram = Access {
            vma: Some(0x20_0000),
            ..Access::default()
        };
        assert_eq!(
            ExitKey::new(ExitKind::PioIn, 0x20_1234, &ram).addr,
            0x20_0000
        );
    }
}
