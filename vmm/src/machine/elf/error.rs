//! Why an image is refused: which number is wrong, and what to do about it.

use std::ops::Range;

use thiserror::Error;

/// Why an image is refused. `index` counts the program headers, from 0.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ElfError {
    /// The magic is missing.
    #[error(
        "not an ELF file: it does not start with 7f 45 4c 46; pass the linked guest image itself, not an archive or a script"
    )]
    NotElf,
    /// The file ends early.
    #[error(
        "the file is cut short: {what} ends at byte {needed}, but the file has {len} bytes; build or copy it again"
    )]
    Truncated {
        /// What is not all there.
        what: Part,
        /// The byte after it.
        needed: u128,
        /// Bytes of the file.
        len: usize,
    },
    /// `EI_CLASS`.
    #[error(
        "a 64-bit image is needed, but EI_CLASS is {0} (64-bit is 2); build the guest for x86-64"
    )]
    Not64Bit(u8),
    /// `EI_DATA`.
    #[error(
        "a little-endian image is needed, but EI_DATA is {0} (little-endian is 1); build the guest for x86-64"
    )]
    NotLittleEndian(u8),
    /// `e_machine`.
    #[error(
        "an image for x86-64 is needed, but e_machine is {0} (x86-64 is 62); build the guest for x86-64"
    )]
    NotX86_64(u16),
    /// `ET_DYN`.
    #[error(
        "the image is position-independent (ET_DYN), and nothing here would relocate it; link it with -static -no-pie"
    )]
    PositionIndependent,
    /// Neither `ET_EXEC` nor `ET_DYN`.
    #[error(
        "the file is no executable: e_type is {0} (ET_EXEC is 2); link the object files into a static executable"
    )]
    NotExecutable(u16),
    /// `PT_INTERP` or `PT_DYNAMIC`.
    #[error(
        "the image is linked dynamically (program header {index} is {kind}), and there is no loader in the guest; link it with -static"
    )]
    NotStatic {
        /// The program header.
        index: usize,
        /// Its type.
        kind: &'static str,
    },
    /// `e_phentsize`.
    #[error(
        "a program header has 56 bytes, but e_phentsize is {0}; the file is damaged, build it again"
    )]
    HeaderSize(u16),
    /// No `PT_LOAD` that takes up memory.
    #[error(
        "there is nothing to load: none of the {0} program headers is a PT_LOAD with bytes in it; link the guest with the linker script of gracefault-guest"
    )]
    NothingToLoad(usize),
    /// `p_filesz` above `p_memsz`.
    #[error(
        "segment {index} brings {file_size:#x} bytes for {mem_size:#x} bytes of memory (p_filesz is above p_memsz); the file is damaged, build it again"
    )]
    FileSize {
        /// The program header.
        index: usize,
        /// `p_filesz`.
        file_size: u64,
        /// `p_memsz`.
        mem_size: u64,
    },
    /// Ends past 2^64.
    #[error(
        "segment {index}, {mem_size:#x} bytes at {gpa:#x}, ends past 2^64; correct the linker script"
    )]
    Wraps {
        /// The program header.
        index: usize,
        /// `p_vaddr`.
        gpa: u64,
        /// `p_memsz`.
        mem_size: u64,
    },
    /// Larger than all the RAM there is for images.
    #[error(
        "segment {index} needs {mem_size:#x} bytes, and there are {room:#x} bytes of boot RAM for an image; give the guest more memory, or make the image smaller"
    )]
    TooLarge {
        /// The program header.
        index: usize,
        /// `p_memsz`.
        mem_size: u64,
        /// Bytes of RAM for an image.
        room: u64,
    },
    /// Not in the RAM that is there for images.
    #[error("segment {index} lies at {:#x}..{:#x}, outside the boot RAM for an image, {:#x}..{:#x}; link it at {:#x}, or give the guest more memory", at.start, at.end, room.start, room.end, room.start)]
    OutsideRam {
        /// The program header.
        index: usize,
        /// The segment.
        at: Range<u64>,
        /// The RAM for an image.
        room: Range<u64>,
    },
    /// Two segments at one address.
    #[error("two segments overlap: {:#x}..{:#x} and {:#x}..{:#x}; correct the linker script", lower.start, lower.end, upper.start, upper.end)]
    Overlap {
        /// The segment that begins first.
        lower: Range<u64>,
        /// The other.
        upper: Range<u64>,
    },
    /// `e_entry`.
    #[error(
        "the entry point, {0:#x}, is in no executable segment; name the guest's first function with ENTRY in the linker script"
    )]
    Entry(u64),
}

/// A part of an ELF file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The file header.
    FileHeader,
    /// The table of program headers.
    ProgramHeaders,
    /// A segment's bytes, by program header.
    Segment(usize),
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::FileHeader => f.write_str("the file header"),
            Self::ProgramHeaders => f.write_str("the table of program headers"),
            Self::Segment(index) => write!(f, "segment {index}"),
        }
    }
}
