//! What the guest and the VMM agree on: addresses, the parameter page, the
//! reports, and the registers of the devices. Both sides compile this file, so
//! they cannot disagree; [`ABI_VERSION`] guards a guest that was built apart.
//!
//! # How a vCPU starts
//!
//! In 64-bit long mode at CPL 3, `IOPL` 3, interrupts off, SSE on, with
//!
//! | register | holds |
//! |---|---|
//! | `rip` | the entry point of the ELF image |
//! | `rdi` | the address of [`Params`] ([`PARAMS_GPA`]) |
//! | `rsi` | the vCPU's number, from 0 |
//! | `rsp` | the top of a stack of its own, 16-byte aligned, less 8 |
//! | `gs` base | the address of its [`Report`] |
//!
//! Guest-physical and guest-virtual addresses are the same (an identity map of
//! everything below [`Params::mapped_end`]). The GDT holds a code segment,
//! selector [`CODE_SELECTOR`], and a data segment, [`DATA_SELECTOR`]. The IDT
//! is a zeroed page at [`IDT_GPA`], which the guest fills in.
//!
//! # What a guest must not do
//!
//! Touch device memory, or memory that may be unplugged, by anything but plain
//! `mov`s of 1, 2, 4 or 8 bytes from or to a general register: KVM emulates
//! those accesses and knows few other instructions. `hlt` faults at CPL 3;
//! `pause` is how to wait.

use core::sync::atomic::AtomicU32;

/// Bumped with every change of this file that a guest built apart would notice.
pub const ABI_VERSION: u32 = 2;
/// The first eight bytes of [`Params`], "GRACEFLT".
pub const PARAMS_MAGIC: u64 = u64::from_le_bytes(*b"GRACEFLT");

/// Guest-physical address of the parameter page.
pub const PARAMS_GPA: u64 = 0x1000;
/// Guest-physical address of the GDT, 6 entries of 8 bytes.
pub const GDT_GPA: u64 = 0x2000;
/// Guest-physical address of the IDT: one page, 256 gates of 16 bytes.
pub const IDT_GPA: u64 = 0x3000;
/// Where the built-in guest is linked, and the lowest address an image may use.
pub const IMAGE_GPA: u64 = 0x20_0000;
/// Selector of the 64-bit code segment, DPL 3 (GDT entry 3).
pub const CODE_SELECTOR: u16 = 0x1b;
/// Selector of the data segment, DPL 3 (GDT entry 4).
pub const DATA_SELECTOR: u16 = 0x23;

/// Below this address lies boot RAM, above it the devices, up to 4 GiB.
pub const MMIO_HOLE_GPA: u64 = 0xc000_0000;
/// The test device.
pub const TEST_GPA: u64 = 0xd000_0000;
/// The exit device.
pub const EXIT_GPA: u64 = 0xd010_0000;
/// The hotplug controller.
pub const HOTPLUG_GPA: u64 = 0xd020_0000;
/// The DMA device.
pub const DMA_GPA: u64 = 0xd030_0000;
/// Port of the serial console (a 16550A's transmit register).
pub const SERIAL_PORT: u16 = 0x3f8;

/// The most vCPUs that this ABI has room for.
pub const MAX_VCPUS: u32 = 512;
/// Bytes of register bank that each device has per vCPU.
pub const BANK: u64 = 64;
/// Bytes of stack per vCPU.
pub const STACK_SIZE: u64 = 64 << 10;
/// Bytes between two vCPUs' reports.
pub const REPORT_SIZE: u64 = 4096;

/// What the guest is to do. See the payload for what each does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Workload {
    /// Prints a line over the serial port, vCPU by vCPU, and ends.
    Hello = 1,
    /// Reads and writes the test device at every width.
    Mmio = 2,
    /// Writes and verifies patterns in boot RAM and every plugged block.
    Memory = 3,
    /// All of it, while blocks come and go.
    Hotplug = 4,
}

/// The parameter page, filled in by the VMM before the first vCPU starts.
#[derive(Debug)]
#[repr(C)]
pub struct Params {
    /// [`PARAMS_MAGIC`].
    pub magic: u64,
    /// [`ABI_VERSION`].
    pub version: u32,
    /// How many vCPUs run.
    pub vcpus: u32,
    /// A [`Workload`], as a number.
    pub workload: u32,
    /// Explicit padding, 0.
    pub reserved: u32,
    /// Rounds after which each vCPU ends by itself; 0: not before
    /// [`Params::stop`] is set.
    pub rounds: u64,
    /// The longest that the memory part of one round may take, microseconds.
    pub round_us: u64,
    /// The time-stamp counter's rate, kHz.
    pub tsc_khz: u64,
    /// Boot RAM that is free for the workload: first byte, page-aligned.
    pub window_start: u64,
    /// The byte after it, page-aligned.
    pub window_end: u64,
    /// First byte of the range in which blocks appear; a multiple of the block
    /// size.
    pub hotplug_start: u64,
    /// Number of blocks that fit.
    pub hotplug_blocks: u64,
    /// Bytes per block, a power of two, at least 4096.
    pub block_size: u64,
    /// Address of vCPU 0's [`Report`]; the others follow, [`REPORT_SIZE`] apart.
    pub reports: u64,
    /// The identity map ends here.
    pub mapped_end: u64,
    /// Keeps [`Params::stop`] on a cache line of its own.
    pub padding: [u64; 11],
    /// Set to 1 by the VMM: finish the round, report, end.
    pub stop: AtomicU32,
}

/// Device indices in [`Report::accesses`].
pub mod device {
    /// The test device.
    pub const TEST: usize = 0;
    /// The exit device.
    pub const EXIT: usize = 1;
    /// The hotplug controller.
    pub const HOTPLUG: usize = 2;
    /// The DMA device.
    pub const DMA: usize = 3;
    /// How many there are.
    pub const COUNT: usize = 4;
}

/// Set in [`Report::done`] last of all.
pub const REPORT_DONE: u64 = u64::from_le_bytes(*b"FINISHED");
/// How many mismatches a report describes; all are counted.
pub const MAX_MISMATCHES: usize = 16;

/// One vCPU's report, in boot RAM. Written by that vCPU only; complete when
/// [`Report::done`] is [`REPORT_DONE`].
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Report {
    /// The vCPU's number. Set by the VMM, so that a crash handler finds it at
    /// `gs:0`.
    pub vcpu: u64,
    /// [`REPORT_DONE`] once all else here is final.
    pub done: u64,
    /// Accesses (instructions) to each device's range, by [`device`] index. The
    /// write that ends the vCPU is among them.
    pub accesses: [u64; device::COUNT],
    /// Bytes sent to the serial port, one `out` each.
    pub serial_bytes: u64,
    /// Reads, of 8 aligned bytes each, that found all ones in a volatile block:
    /// the block was gone.
    pub absent_reads: u64,
    /// Reads that found a volatile block's pattern.
    pub volatile_reads: u64,
    /// Rounds finished.
    pub rounds: u64,
    /// Bytes of RAM written with patterns.
    pub bytes_written: u64,
    /// Bytes of RAM read back and compared.
    pub bytes_verified: u64,
    /// Blocks taken into use by this vCPU (events [`event::OFFERED`]).
    pub blocks_taken: u64,
    /// Blocks given back ([`event::ASKED_BACK`]).
    pub blocks_released: u64,
    /// Address of this vCPU's canary page: filled once at the start with the
    /// pattern of [`CANARY_ROUND`], verified in each round. 0 when the workload
    /// has none, or no page for it.
    pub canary: u64,
    /// Values that were not what they had to be, of RAM or of a device.
    pub mismatches: u64,
    /// The first of them.
    pub first: [Mismatch; MAX_MISMATCHES],
}

/// One value that was not what it had to be.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Mismatch {
    /// Where: a guest-physical address.
    pub gpa: u64,
    /// What was written there, or what the device had to answer.
    pub expected: u64,
    /// What was read.
    pub found: u64,
    /// The round in which it was found.
    pub round: u64,
}

/// The pattern in RAM: names the address (8-byte aligned, below 2^51) in its low
/// 48 bits and the round in its high 16, so that a wrong value says where it
/// belongs. Never all ones, since no round is 0xffff.
pub const fn pattern(gpa: u64, round: u64) -> u64 {
    (round % 0xffff) << 48 | (gpa >> 3) & 0xffff_ffff_ffff
}
/// The round that the pattern of a canary page names. Rounds count from 1.
pub const CANARY_ROUND: u64 = 0;
/// The round that the VMM names in the patterns of a volatile block.
pub const VOLATILE_ROUND: u64 = 0x5a5a;
/// In a volatile block the first 8 bytes of each of the first this many pages
/// hold a pattern (fewer in a smaller block); the rest is zero.
pub const VOLATILE_PAGES: u64 = 16;

/// The test device's registers.
pub mod test {
    /// Read-only: the byte at offset `o` of the device is [`known`]`(o)`, at any
    /// width and alignment inside `KNOWN..KNOWN + KNOWN_LEN`.
    pub const KNOWN: u64 = 0;
    /// Bytes of it.
    pub const KNOWN_LEN: u64 = 0x100;
    /// Each vCPU's scratch bank, [`super::BANK`] bytes of plain storage, at
    /// `SCRATCH + vcpu * BANK`, to be read and written at any width inside it.
    pub const SCRATCH: u64 = 0x1000;
    /// What the device answers at offset `o` of the known area.
    pub const fn known(o: u64) -> u8 {
        (o.wrapping_mul(37) ^ 0xa5) as u8
    }
}

/// The exit device's registers: a bank per vCPU, at `vcpu * BANK`; writes of 8
/// bytes only.
pub mod exit {
    /// Ends this vCPU with this status (0: all is well). No instruction after
    /// the write is executed.
    pub const STATUS: u64 = 0x00;
    /// A crash: the vector. Kept until [`CRASH`].
    pub const VECTOR: u64 = 0x08;
    /// A crash: the error code, 0 where the vector has none.
    pub const ERROR: u64 = 0x10;
    /// A crash: `cr2` cannot be read at CPL 3; this is `rsp` instead.
    pub const RSP: u64 = 0x18;
    /// A crash: `rip`. Ends the vCPU, as crashed, with what was kept.
    pub const CRASH: u64 = 0x20;
    /// Ends the vCPU as panicked, after the message went out by the serial port.
    pub const PANIC: u64 = 0x28;
}

/// The hotplug controller's registers: a bank per vCPU, at `vcpu * BANK`, 8
/// bytes each. A vCPU that has joined gets every event; a block counts as in use
/// while any vCPU that took it has not released it.
pub mod hotplug {
    /// Write 1: this vCPU takes part from now on, and will be offered what is
    /// plugged already. Write 0: it leaves, and has released all that it took.
    pub const JOIN: u64 = 0x00;
    /// Read: the next event for this vCPU, an [`super::event`] in the high 32
    /// bits and the block's number in the low, or 0 for none. Reading takes it.
    pub const EVENT: u64 = 0x08;
    /// Write: an event, as read. Tells that the vCPU has done what it asked, or
    /// had done so before; every event is acknowledged, in the order read.
    pub const ACK: u64 = 0x10;
}

/// The DMA device: copies between guest buffers. Asked by the address of a
/// descriptor of four words of 8 bytes in RAM: source, target, length, status.
pub mod dma {
    /// Write: the address of a descriptor. The copy has been made when the write is
    /// over, and the status been stored, unless the descriptor is not in RAM, the
    /// length is more than [`MAX_LENGTH`], or an address is past the end: then the
    /// status is left as it was.
    pub const START: u64 = 0x00;
    /// Where in the descriptor the status is.
    pub const STATUS: u64 = 24;
    /// Status: all of it was copied from memory to memory.
    pub const COMPLETE: u64 = 1;
    /// Status: some of it was not in memory. Where that was the source, all ones
    /// have been copied; where it was the target, they have been dropped.
    pub const INCOMPLETE: u64 = 2;
    /// The most bytes in one copy. Source and target should not overlap.
    pub const MAX_LENGTH: u64 = 64 << 10;
}

/// The hotplug controller's events.
pub mod event {
    /// The block is there, to be read and written. Acknowledged: in use by this
    /// vCPU.
    pub const OFFERED: u32 = 1;
    /// The block is wanted back. Acknowledged: this vCPU will not touch it.
    pub const ASKED_BACK: u32 = 2;
    /// The block is there, to be read only, and may vanish unasked: then it
    /// reads as all ones. See [`super::VOLATILE_PAGES`].
    pub const OFFERED_VOLATILE: u32 = 3;
    /// A volatile block is gone. Until every vCPU that has joined acknowledges
    /// this, some may still read there, so the block must not be offered anew.
    pub const GONE: u32 = 4;
}

/// An event as it stands in the controller's registers.
pub const fn encode_event(event: u32, block: u32) -> u64 {
    (event as u64) << 32 | block as u64
}
/// The event and the block's number of an encoded event.
pub const fn decode_event(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

const _: () = {
    assert!(core::mem::size_of::<Params>() <= 4096);
    assert!(core::mem::size_of::<Report>() <= REPORT_SIZE as usize);
    assert!(core::mem::offset_of!(Params, stop) == 192);
};
