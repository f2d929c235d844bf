//! The state a vCPU starts in: 64-bit long mode at CPL 3, as
//! [`gracefault_guest::abi`] promises it to the guest.
//!
//! CPL 3 from the first instruction means that the guest needs none of what a
//! kernel needs, and that it runs the same, at full speed, on KVMs that can
//! only emulate CPL 0. `IOPL` is 3, so that `in` and `out` work; the user bit
//! is set at every level of the page tables.
//!
//! Everything here is a pure function. [`write_tables`] takes a closure that
//! puts bytes into guest memory, whatever that is made of.
//!
//! The identity map has 2 MiB pages and covers everything below `mapped_end`,
//! device addresses included: an access to an address that is not mapped would
//! be a page fault in the guest, not an exit.
use gracefault_guest::abi::{CODE_SELECTOR, DATA_SELECTOR, GDT_GPA, IDT_GPA, IMAGE_GPA};
use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};

/// Where the page tables go, if the caller has no better place: after the IDT.
/// From here to the image there is room to map 506 GiB.
pub const TABLES_GPA: u64 = IDT_GPA + PAGE;
/// Bytes from [`TABLES_GPA`] to the lowest address an image may use.
pub const TABLES_ROOM: u64 = IMAGE_GPA - TABLES_GPA;

const PAGE: u64 = 4096;
const LARGE: u64 = 2 << 20;
const ENTRIES: u64 = 512;
/// Present, writable, user.
const TABLE: u64 = 0b111;
/// A 2 MiB page, with accessed and dirty set: the guest's processor need not
/// write to the tables.
const LEAF: u64 = TABLE | 1 << 5 | 1 << 6 | 1 << 7;
/// What one PML4 can identity-map: the lower half of the address space.
const CANONICAL_END: u64 = 1 << 47;

/// GDT entries 3 and 4: 64-bit code and data, both DPL 3 and accessed.
const GDT: [u64; 6] = [0, 0, 0, 0x00af_fb00_0000_ffff, 0x00cf_f300_0000_ffff, 0];

/// Why the start state could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootError {
    /// There are no such addresses on this host.
    #[error(
        "the guest is to see addresses up to {mapped_end:#x}, but this host's guest-physical addresses have {bits} bits: use less memory, or place it lower"
    )]
    TooWide {
        /// The end that was asked for.
        mapped_end: u64,
        /// Bits in a guest-physical address.
        bits: u32,
    },
    /// The tables do not fit where they are to go.
    #[error(
        "page tables for addresses up to {mapped_end:#x} take {needed:#x} bytes, but there are {room:#x} at GPA {tables:#x}: give them more room, or use less memory"
    )]
    NoRoom {
        /// The end that was asked for.
        mapped_end: u64,
        /// What they take.
        needed: u64,
        /// What there is.
        room: u64,
        /// Where they were to go.
        tables: u64,
    },
    /// The tables' address is not page-aligned, or among the pages of the ABI.
    #[error(
        "page tables cannot be at GPA {tables:#x}: give a multiple of 0x1000 from {TABLES_GPA:#x} on"
    )]
    Misplaced {
        /// The address.
        tables: u64,
    },
    /// The closure failed.
    #[error("the start state cannot be written to GPA {gpa:#x}: {source}")]
    Write {
        /// Where it wrote.
        gpa: u64,
        /// The closure's error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What the closure that writes to guest memory returns.
pub type WriteResult = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// Bytes of page tables that identity-map `[0, mapped_end)`, rounded up to
/// 2 MiB: a PML4, a page for each 512 GiB begun, a page for each GiB begun.
pub const fn table_bytes(mapped_end: u64) -> u64 {
    let gib = mapped_end.div_ceil(1 << 30);
    (1 + gib.div_ceil(ENTRIES) + gib) * PAGE
}

/// Writes page tables for `[0, mapped_end)` into the `room` bytes at `tables`,
/// the GDT, and an IDT of zeroes, through `write(gpa, bytes)`.
///
/// `bits` is the width of a guest-physical address
/// ([`Vm::physical_bits`](super::Vm::physical_bits)).
///
/// # Errors
/// See [`BootError`]. Nothing is written unless all fits.
pub fn write_tables(
    mapped_end: u64,
    bits: u32,
    tables: u64,
    room: u64,
    write: &mut dyn FnMut(u64, &[u8]) -> WriteResult,
) -> Result<(), BootError> {
    if mapped_end > (1 << bits) || mapped_end > CANONICAL_END {
        return Err(BootError::TooWide {
            mapped_end,
            bits: bits.min(47),
        });
    }
    if !tables.is_multiple_of(PAGE) || tables < TABLES_GPA {
        return Err(BootError::Misplaced { tables });
    }
    let needed = table_bytes(mapped_end);
    if needed > room {
        return Err(BootError::NoRoom {
            mapped_end,
            needed,
            room,
            tables,
        });
    }
    let leaves = mapped_end.div_ceil(LARGE);
    let directories = leaves.div_ceil(ENTRIES);
    let pointers = directories.div_ceil(ENTRIES);
    // In memory: the PML4, all PDPTs, all page directories. Each level is one
    // array of entries that ends anywhere in its last page.
    let (pdpt, pd) = (tables + PAGE, tables + PAGE * (1 + pointers));
    let mut level = |at: u64, count: u64, entry: &dyn Fn(u64) -> u64| {
        (0..count.div_ceil(ENTRIES)).try_for_each(|page| {
            let mut bytes = [0; PAGE as usize];
            let first = page * ENTRIES;
            for (i, slot) in (first..count.min(first + ENTRIES)).zip(bytes.chunks_exact_mut(8)) {
                slot.copy_from_slice(&entry(i).to_le_bytes());
            }
            let gpa = at + page * PAGE;
            write(gpa, &bytes).map_err(|source| BootError::Write { gpa, source })
        })
    };
    level(tables, pointers, &|i| (pdpt + i * PAGE) | TABLE)?;
    level(pdpt, directories, &|i| (pd + i * PAGE) | TABLE)?;
    level(pd, leaves, &|i| (i * LARGE) | LEAF)?;
    level(IDT_GPA, 1, &|_| 0)?;
    let mut gdt = [0; GDT.len() * 8];
    for (bytes, entry) in gdt.chunks_exact_mut(8).zip(GDT) {
        bytes.copy_from_slice(&entry.to_le_bytes());
    }
    write(GDT_GPA, &gdt).map_err(|source| BootError::Write {
        gpa: GDT_GPA,
        source,
    })
}

/// Where a vCPU starts, and with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The first instruction.
    pub entry: u64,
    /// For `rdi`: the parameter page.
    pub params: u64,
    /// The end of this vCPU's stack, 16-byte aligned; `rsp` starts 8 below.
    pub stack_top: u64,
    /// For `gs` base: this vCPU's report.
    pub report: u64,
    /// For `cr3`: where [`write_tables`] put the tables.
    pub tables: u64,
}

impl Start {
    /// The general registers of vCPU number `vcpu`.
    pub fn regs(&self, vcpu: u32) -> kvm_regs {
        kvm_regs {
            rip: self.entry,
            rdi: self.params,
            rsi: vcpu.into(),
            rsp: self.stack_top - 8,
            // IOPL 3 and the bit that is always set; interrupts off.
            rflags: 0x3002,
            ..Default::default()
        }
    }

    /// Turns the system registers of a vCPU after reset into those it starts
    /// with. What is not named here (task register, APIC base) stays.
    pub fn sregs(&self, reset: kvm_sregs) -> kvm_sregs {
        let code = kvm_segment {
            base: 0,
            limit: u32::MAX,
            selector: CODE_SELECTOR,
            // Execute, read, accessed.
            type_: 11,
            present: 1,
            dpl: 3,
            db: 0,
            s: 1,
            l: 1,
            g: 1,
            ..Default::default()
        };
        // Read, write, accessed.
        let data = kvm_segment {
            selector: DATA_SELECTOR,
            type_: 3,
            db: 1,
            l: 0,
            ..code
        };
        kvm_sregs {
            cs: code,
            ds: data,
            es: data,
            fs: data,
            gs: kvm_segment {
                base: self.report,
                ..data
            },
            ss: data,
            gdt: kvm_dtable {
                base: GDT_GPA,
                limit: GDT.len() as u16 * 8 - 1,
                padding: [0; 3],
            },
            idt: kvm_dtable {
                base: IDT_GPA,
                limit: 0xfff,
                padding: [0; 3],
            },
            // PG AM WP NE ET MP PE.
            cr0: 0x8005_0033,
            cr3: self.tables,
            // OSXMMEXCPT OSFXSR PAE.
            cr4: 0x620,
            // LMA LME.
            efer: 0x500,
            ..reset
        }
    }
}

#[cfg(test)]
#[path = "boot_tests.rs"]
mod tests;
