//! Reading a guest's ELF image, and refusing what cannot run: every number in it
//! is checked before anything is copied, and every refusal says which number is
//! wrong and what to do about it.
//!
//! An image is a static x86-64 executable (`ET_EXEC`) whose `PT_LOAD` segments lie
//! where they are linked (`p_vaddr`; guest-virtual and guest-physical addresses
//! are the same), in the boot RAM that is set aside for images.

use std::ops::Range;

use object::LittleEndian;
use object::elf::{self, FileHeader64, ProgramHeader64};
use object::read::ReadRef;

mod error;
#[cfg(test)]
mod tests;

pub use error::{ElfError, Part};

const ENDIAN: LittleEndian = LittleEndian;

/// A guest image that can be loaded: no two segments overlap, all lie in the RAM
/// that [`parse`] was given, and `entry` lies in one that is executable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image<'a> {
    /// The address of the first instruction.
    pub entry: u64,
    /// What to load, by ascending address. At least one.
    pub segments: Vec<Segment<'a>>,
}

impl Image<'_> {
    /// The address after the image's last byte.
    pub fn end(&self) -> u64 {
        self.segments.last().map_or(0, |last| last.range().end)
    }
}

/// A part of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Where it goes.
    pub gpa: u64,
    /// What it begins with; the rest is zero.
    pub bytes: &'a [u8],
    /// Bytes of all of it. At least `bytes.len()`, and not 0.
    pub mem_size: u64,
    /// `PF_R` (4), `PF_W` (2) and `PF_X` (1).
    pub flags: u32,
}

impl Segment<'_> {
    /// The addresses that it takes up.
    pub fn range(&self) -> Range<u64> {
        self.gpa..self.gpa + self.mem_size
    }

    /// Whether the guest may execute it.
    pub fn is_executable(&self) -> bool {
        self.flags & elf::PF_X.0 != 0
    }
}

/// Checks the image in `bytes`, which is to lie in `room`, the boot RAM that is
/// there for images.
pub fn parse(bytes: &[u8], room: Range<u64>) -> Result<Image<'_>, ElfError> {
    let header = file_header(bytes)?;
    let headers = program_headers(bytes, header)?;
    let mut segments = Vec::new();
    for (index, header) in headers.iter().enumerate() {
        let kind = header.p_type.get(ENDIAN);
        if kind == elf::PT_INTERP || kind == elf::PT_DYNAMIC {
            let kind = if kind == elf::PT_INTERP {
                "PT_INTERP"
            } else {
                "PT_DYNAMIC"
            };
            return Err(ElfError::NotStatic { index, kind });
        }
        if kind == elf::PT_LOAD {
            segments.extend(segment(bytes, index, header, &room)?);
        }
    }
    if segments.is_empty() {
        return Err(ElfError::NothingToLoad(headers.len()));
    }
    segments.sort_by_key(|segment: &Segment<'_>| segment.gpa);
    for pair in segments.windows(2) {
        let (lower, upper) = (pair[0].range(), pair[1].range());
        if upper.start < lower.end {
            return Err(ElfError::Overlap { lower, upper });
        }
    }
    let entry = header.e_entry.get(ENDIAN);
    if !segments
        .iter()
        .any(|segment| segment.is_executable() && segment.range().contains(&entry))
    {
        return Err(ElfError::Entry(entry));
    }
    Ok(Image { entry, segments })
}

/// The file header of a static executable for this machine.
fn file_header(bytes: &[u8]) -> Result<&FileHeader64<LittleEndian>, ElfError> {
    if !bytes.starts_with(&elf::ELFMAG) {
        return Err(ElfError::NotElf);
    }
    // Before the size: the header of a 32-bit file is shorter.
    match bytes.get(4..6) {
        Some([class, _]) if *class != elf::ELFCLASS64.0 => return Err(ElfError::Not64Bit(*class)),
        Some([_, data]) if *data != elf::ELFDATA2LSB.0 => {
            return Err(ElfError::NotLittleEndian(*data));
        }
        _ => {}
    }
    let header: &FileHeader64<LittleEndian> = bytes.read_at(0).map_err(|()| {
        truncated(
            Part::FileHeader,
            bytes,
            0,
            size_of::<FileHeader64<LittleEndian>>(),
        )
    })?;
    if header.e_machine.get(ENDIAN) != elf::EM_X86_64 {
        return Err(ElfError::NotX86_64(header.e_machine.get(ENDIAN).0));
    }
    match header.e_type.get(ENDIAN) {
        elf::ET_EXEC => Ok(header),
        elf::ET_DYN => Err(ElfError::PositionIndependent),
        other => Err(ElfError::NotExecutable(other.0)),
    }
}

fn program_headers<'a>(
    bytes: &'a [u8],
    header: &FileHeader64<LittleEndian>,
) -> Result<&'a [ProgramHeader64<LittleEndian>], ElfError> {
    const SIZE: usize = size_of::<ProgramHeader64<LittleEndian>>();
    let (at, count) = (
        header.e_phoff.get(ENDIAN),
        usize::from(header.e_phnum.get(ENDIAN)),
    );
    if count == 0 {
        return Err(ElfError::NothingToLoad(0));
    }
    let size = header.e_phentsize.get(ENDIAN);
    if usize::from(size) != SIZE {
        return Err(ElfError::HeaderSize(size));
    }
    bytes
        .read_slice_at(at, count)
        .map_err(|()| truncated(Part::ProgramHeaders, bytes, at, count * SIZE))
}

/// The segment of a `PT_LOAD`, or `None` for an empty one.
fn segment<'a>(
    bytes: &'a [u8],
    index: usize,
    header: &ProgramHeader64<LittleEndian>,
    room: &Range<u64>,
) -> Result<Option<Segment<'a>>, ElfError> {
    let (gpa, mem_size) = (header.p_vaddr.get(ENDIAN), header.p_memsz.get(ENDIAN));
    let (offset, file_size) = (header.p_offset.get(ENDIAN), header.p_filesz.get(ENDIAN));
    if file_size > mem_size {
        return Err(ElfError::FileSize {
            index,
            file_size,
            mem_size,
        });
    }
    if mem_size == 0 {
        return Ok(None);
    }
    let end = gpa.checked_add(mem_size).ok_or(ElfError::Wraps {
        index,
        gpa,
        mem_size,
    })?;
    let space = room.end.saturating_sub(room.start);
    if mem_size > space {
        return Err(ElfError::TooLarge {
            index,
            mem_size,
            room: space,
        });
    }
    if gpa < room.start || end > room.end {
        return Err(ElfError::OutsideRam {
            index,
            at: gpa..end,
            room: room.clone(),
        });
    }
    let data = bytes.read_bytes_at(offset, file_size);
    let data =
        data.map_err(|()| truncated(Part::Segment(index), bytes, offset, file_size as usize))?;
    Ok(Some(Segment {
        gpa,
        bytes: data,
        mem_size,
        flags: header.p_flags.get(ENDIAN).0,
    }))
}

fn truncated(what: Part, bytes: &[u8], at: u64, size: usize) -> ElfError {
    ElfError::Truncated {
        what,
        needed: u128::from(at) + size as u128,
        len: bytes.len(),
    }
}
