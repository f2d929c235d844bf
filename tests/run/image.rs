//! Guest images made by hand: a header and some segments.
use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

/// Where images begin.
pub(crate) const IMAGE: u64 = 0x20_0000;
/// Bytes before the first segment's in a file of one segment.
pub(crate) const HEADERS: usize = 64 + 56;

/// A segment to load.
#[derive(Clone)]
pub(crate) struct Segment<'a> {
    pub(crate) kind: u32,
    pub(crate) flags: u32,
    pub(crate) gpa: u64,
    pub(crate) bytes: &'a [u8],
    pub(crate) mem_size: u64,
}

impl<'a> Segment<'a> {
    /// Code at `gpa`.
    pub(crate) fn code(gpa: u64, bytes: &'a [u8]) -> Self {
        Self {
            kind: 1,
            flags: 5,
            gpa,
            bytes,
            mem_size: bytes.len() as u64,
        }
    }
}

/// A static x86-64 executable that begins at the first segment's first byte.
pub(crate) fn elf(segments: &[Segment<'_>]) -> Vec<u8> {
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
    file.resize(16, 0);
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for word in [segments[0].gpa, 64, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    for half in [64, 56, segments.len() as u16, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let mut offset = 64 + 56 * segments.len() as u64;
    for segment in segments {
        file.extend(segment.kind.to_le_bytes());
        file.extend(segment.flags.to_le_bytes());
        let len = segment.bytes.len() as u64;
        for word in [offset, segment.gpa, segment.gpa, len, segment.mem_size, 16] {
            file.extend(word.to_le_bytes());
        }
        offset += len;
    }
    for segment in segments {
        file.extend(segment.bytes);
    }
    file
}

/// A file with an image, removed when dropped.
pub(crate) struct ImageFile {
    _dir: TempDir,
    pub(crate) path: PathBuf,
}

impl ImageFile {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        let dir = TempDir::new().expect("a temporary directory can be made");
        let path = dir.path().join("guest");
        fs::write(&path, bytes).expect("a temporary file can be written");
        Self { _dir: dir, path }
    }

    /// An image of nothing but `code`.
    pub(crate) fn of_code(code: &[u8]) -> Self {
        Self::new(&elf(&[Segment::code(IMAGE, code)]))
    }
}
