//! Kernels: some that can be loaded, and each way in which one cannot.

use crate::PAGE;

/// A program header: its kind, where its bytes are in the file, where they go, how many
/// there are, and how many in memory.
#[derive(Clone, Copy)]
pub(super) struct Segment {
    pub(super) kind: u32,
    pub(super) offset: u64,
    pub(super) at: u64,
    pub(super) file: u64,
    pub(super) memory: u64,
}

const LOAD: u32 = 1;
const NOTE: u32 = 4;
const HEADERS: usize = 0x1000;

/// An ELF program that begins at `entry`, with these segments; `data` is from 0x1000 on.
pub(super) fn elf(entry: u64, segments: &[Segment], data: &[u8]) -> Vec<u8> {
    let mut file = vec![0; HEADERS];
    file[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1]);
    // A program for x86-64, version 1.
    file[16..24].copy_from_slice(&[2, 0, 62, 0, 1, 0, 0, 0]);
    file[24..32].copy_from_slice(&entry.to_le_bytes());
    file[32] = 64;
    file[52..58].copy_from_slice(&[64, 0, 56, 0, segments.len() as u8, 0]);
    for (segment, header) in segments.iter().zip(file[64..].chunks_exact_mut(56)) {
        header[..4].copy_from_slice(&segment.kind.to_le_bytes());
        let (at, offset) = (segment.at, segment.offset);
        let words = [offset, at, at, segment.file, segment.memory, 0x1000];
        for (field, word) in header[8..].chunks_exact_mut(8).zip(words) {
            field.copy_from_slice(&word.to_le_bytes());
        }
    }
    file.extend_from_slice(data);
    file
}

/// One segment, which begins there.
pub(super) fn one(at: u64, data: &[u8]) -> Vec<u8> {
    elf(at, &[load(at, data.len() as u64)], data)
}

pub(super) fn load(at: u64, len: u64) -> Segment {
    Segment {
        kind: LOAD,
        offset: HEADERS as u64,
        at,
        file: len,
        memory: len,
    }
}

/// An ELF note of that type, with a name of four bytes, where Linux says its PVH entry.
pub(super) fn note(kind: u32, name: &[u8; 4], entry: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    for word in [4, entry.len() as u32, kind] {
        note.extend_from_slice(&word.to_le_bytes());
    }
    note.extend_from_slice(name);
    note.extend_from_slice(entry);
    note
}

/// One segment, and notes behind it.
pub(super) fn with_notes(at: u64, notes: &[u8]) -> Vec<u8> {
    let mut data = vec![0x90; 16];
    let notes_at = Segment {
        kind: NOTE,
        offset: HEADERS as u64 + 16,
        at: 0,
        file: notes.len() as u64,
        memory: notes.len() as u64,
    };
    data.extend_from_slice(notes);
    elf(at, &[load(at, 16), notes_at], &data)
}

/// ELF files, each with what it is.
pub(super) fn elves() -> Vec<(&'static str, Vec<u8>)> {
    let data: Vec<u8> = (0..2 * PAGE).map(|i| (i * 7) as u8).collect();
    let good = one(15 * PAGE + 0x123, &data);
    let with = |at: usize, byte: u8| {
        let mut file = good.clone();
        file[at] = byte;
        file
    };
    let len = data.len() as u64;
    let huge = Segment {
        memory: u64::MAX,
        ..load(15 * PAGE, len)
    };
    let past_the_file = Segment {
        offset: 1 << 30,
        ..load(15 * PAGE, len)
    };
    let entry = 0x1234_5678_u32.to_le_bytes();
    let xen = note(18, b"Xen\0", &entry);
    let mut second = note(18, b"GNU\0", &entry);
    second.extend_from_slice(&xen);
    let two = [load(0, PAGE + 5), load(31 * PAGE, 17)];
    vec![
        ("good", good.clone()),
        ("two segments", elf(0x10, &two, &data)),
        ("empty segment", elf(0x10, &[load(0, 0)], &data)),
        ("no segment", elf(0x10, &[], &data)),
        ("up to the end", one(30 * PAGE, &data)),
        ("past the end", one(31 * PAGE, &data)),
        ("into a hole", one(39 * PAGE, &data)),
        ("in a hole", one(36 * PAGE, &data)),
        ("at the top", one(u64::MAX - PAGE + 1, &data)),
        ("more memory than there is", elf(0, &[huge], &data)),
        ("past the file", elf(0, &[past_the_file], &data)),
        ("cut short", good[..HEADERS + 100].to_vec()),
        ("cut in its headers", good[..80].to_vec()),
        ("cut in its header", good[..20].to_vec()),
        ("empty", Vec::new()),
        ("no ELF", with(1, b'e')),
        ("big endian", with(5, 2)),
        ("headers of another size", with(54, 55)),
        ("headers in the header", with(32, 63)),
        ("PVH", with_notes(PAGE, &xen)),
        ("PVH, second note", with_notes(PAGE, &second)),
        (
            "another's note",
            with_notes(PAGE, &note(18, b"GNU\0", &entry)),
        ),
        (
            "another note",
            with_notes(PAGE, &note(17, b"Xen\0", &entry)),
        ),
        (
            "PVH, no entry",
            with_notes(PAGE, &note(18, b"Xen\0", &[1, 2])),
        ),
        ("half a note", with_notes(PAGE, &xen[..10])),
        ("half an entry", with_notes(PAGE, &xen[..18])),
    ]
}

/// The header that makes a bzImage one, `sectors` of setup, and `data` behind them.
pub(super) fn bzimage(sectors: u8, data: &[u8]) -> Vec<u8> {
    let setup = if sectors == 0 { 4 } else { sectors };
    let mut file = vec![0; 512 * (1 + usize::from(setup))];
    file.resize(file.len().max(0x300), 0);
    file[0x1f1] = sectors;
    file[0x1fe..0x200].copy_from_slice(&0xaa55_u16.to_le_bytes());
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&0x020c_u16.to_le_bytes());
    file[0x211] = 1;
    file[0x214..0x218].copy_from_slice(&((15 * PAGE + 64) as u32).to_le_bytes());
    file.extend_from_slice(data);
    file
}

/// bzImages, each with what it is.
pub(super) fn bzimages() -> Vec<(&'static str, Vec<u8>)> {
    let data: Vec<u8> = (0..PAGE + 100).map(|i| (i * 3) as u8).collect();
    let good = bzimage(4, &data);
    let with = |at: usize, byte: u8| {
        let mut file = good.clone();
        file[at] = byte;
        file
    };
    vec![
        ("good", good.clone()),
        ("sectors of old", bzimage(0, &data)),
        ("one sector", bzimage(1, &data)),
        ("no kernel", bzimage(4, &[])),
        ("a large one", bzimage(4, &vec![7; 32 * PAGE as usize])),
        ("no magic number", with(0x202, b'h')),
        ("an old version", with(0x207, 1)),
        ("a zImage", with(0x211, 0)),
        ("more setup than file", with(0x1f1, 200)),
        ("cut in its header", good[..0x210].to_vec()),
        ("empty", Vec::new()),
    ]
}
