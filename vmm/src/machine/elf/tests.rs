use super::*;

const ROOM: Range<u64> = 0x20_0000..0x400_0000;
const TEXT: usize = 64;
const DATA: usize = 64 + 56;

/// A small image: text at 2 MiB, data with some zeros behind it a page further.
fn image() -> Vec<u8> {
    let mut file = vec![0; 64 + 2 * 56];
    file[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1]);
    put(&mut file, 16, &[2, 0, 62, 0, 1]);
    put64(&mut file, 24, 0x20_0004);
    put64(&mut file, 32, 64);
    put(&mut file, 52, &[64, 0, 56, 0, 2, 0]);
    let data = file.len() as u64;
    for (at, flags, offset, gpa, file_size, mem_size) in [
        (TEXT, 5, data, ROOM.start, 16, 16),
        (DATA, 6, data + 16, ROOM.start + 0x1000, 8, 0x100),
    ] {
        put(&mut file, at, &[1, 0, 0, 0, flags]);
        for (field, value) in [
            (8, offset),
            (16, gpa),
            (24, gpa),
            (32, file_size),
            (40, mem_size),
        ] {
            put64(&mut file, at + field, value);
        }
    }
    file.extend(1..=24);
    file
}

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

fn put64(file: &mut [u8], at: usize, value: u64) {
    put(file, at, &value.to_le_bytes());
}

/// What becomes of the image with `bytes` at `at`. The message must name a remedy.
fn error(at: usize, bytes: &[u8]) -> ElfError {
    let mut file = image();
    put(&mut file, at, bytes);
    let error = parse(&file, ROOM).unwrap_err();
    assert!(error.to_string().contains("; "), "no remedy: {error}");
    error
}

fn error64(at: usize, value: u64) -> ElfError {
    error(at, &value.to_le_bytes())
}

#[test]
fn reads_what_is_there() {
    let file = image();
    let image = parse(&file, ROOM).unwrap();
    assert_eq!(image.entry, 0x20_0004);
    assert_eq!(image.segments.len(), 2);
    assert_eq!(image.segments[0].bytes, (1..=16).collect::<Vec<u8>>());
    assert!(image.segments[0].is_executable());
    assert_eq!(image.segments[1].bytes, (17..=24).collect::<Vec<u8>>());
    assert_eq!(image.segments[1].range(), 0x20_1000..0x20_1100);
    assert_eq!(image.segments[1].flags, 6);
    assert_eq!(image.end(), 0x20_1100);
}

#[test]
fn takes_the_built_in_guest_at_any_alignment() {
    let payload = gracefault_guest::PAYLOAD;
    for shift in 0..8 {
        let file = [&vec![0; shift], payload].concat();
        let image = parse(&file[shift..], ROOM).unwrap();
        assert_eq!(image.segments[0].gpa, gracefault_guest::abi::IMAGE_GPA);
        assert!(image.segments.len() >= 3);
    }
}

#[test]
fn sorts_segments_and_skips_empty_ones() {
    let mut file = image();
    put64(&mut file, TEXT + 16, 0x30_0000);
    put64(&mut file, 24, 0x30_0000);
    assert_eq!(parse(&file, ROOM).unwrap().end(), 0x30_0010);
    let mut file = image();
    put64(&mut file, DATA + 32, 0);
    put64(&mut file, DATA + 40, 0);
    assert_eq!(parse(&file, ROOM).unwrap().segments.len(), 1);
}

#[test]
fn refuses_what_is_not_a_static_image_for_x86_64() {
    assert_eq!(parse(b"", ROOM), Err(ElfError::NotElf));
    assert_eq!(parse(b"#!/bin/sh\n", ROOM), Err(ElfError::NotElf));
    assert_eq!(error(0, b"\x7fELG"), ElfError::NotElf);
    assert_eq!(error(4, &[1]), ElfError::Not64Bit(1));
    assert_eq!(error(5, &[2]), ElfError::NotLittleEndian(2));
    assert_eq!(error(16, &[3]), ElfError::PositionIndependent);
    assert_eq!(error(16, &[1]), ElfError::NotExecutable(1));
    assert_eq!(error(18, &[183]), ElfError::NotX86_64(183));
    assert_eq!(
        error(DATA, &[2]),
        ElfError::NotStatic {
            index: 1,
            kind: "PT_DYNAMIC"
        }
    );
    assert_eq!(
        error(DATA, &[3]),
        ElfError::NotStatic {
            index: 1,
            kind: "PT_INTERP"
        }
    );
}

#[test]
fn refuses_program_headers_that_are_not_there() {
    assert_eq!(error(54, &[32]), ElfError::HeaderSize(32));
    assert_eq!(error(56, &[0]), ElfError::NothingToLoad(0));
    let whole = image().len();
    let missing = |needed| ElfError::Truncated {
        what: Part::ProgramHeaders,
        needed,
        len: whole,
    };
    assert_eq!(error(56, &[9]), missing(64 + 9 * 56));
    assert_eq!(error(56, &[0xff, 0xff]), missing(64 + 0xffff * 56));
    assert_eq!(error64(32, u64::MAX), missing(u128::from(u64::MAX) + 112));
    let mut file = image();
    file[TEXT] = 4;
    file[DATA] = 4;
    assert_eq!(parse(&file, ROOM), Err(ElfError::NothingToLoad(2)));
}

#[test]
fn refuses_absurd_segments() {
    let (index, gpa) = (1, 0x20_1000);
    assert_eq!(
        error64(DATA + 40, 7),
        ElfError::FileSize {
            index,
            file_size: 8,
            mem_size: 7
        }
    );
    let mem_size = u64::MAX - gpa + 1;
    assert_eq!(
        error64(DATA + 40, mem_size),
        ElfError::Wraps {
            index,
            gpa,
            mem_size
        }
    );
    let room = ROOM.end - ROOM.start;
    assert_eq!(
        error64(DATA + 40, room + 1),
        ElfError::TooLarge {
            index,
            mem_size: room + 1,
            room
        }
    );
    let outside = |at| ElfError::OutsideRam {
        index,
        at,
        room: ROOM,
    };
    assert_eq!(
        error64(DATA + 16, ROOM.start - 1),
        outside(ROOM.start - 1..ROOM.start + 0xff)
    );
    assert_eq!(
        error64(DATA + 16, ROOM.end - 0xff),
        outside(ROOM.end - 0xff..ROOM.end + 1)
    );
    assert_eq!(
        error64(DATA + 16, ROOM.start + 15),
        ElfError::Overlap {
            lower: ROOM.start..ROOM.start + 16,
            upper: ROOM.start + 15..ROOM.start + 0x10f
        }
    );
    assert_eq!(
        error64(DATA + 16, ROOM.start).to_string().split(':').next(),
        Some("two segments overlap")
    );
    let missing = |needed| ElfError::Truncated {
        what: Part::Segment(1),
        needed,
        len: image().len(),
    };
    assert_eq!(error64(DATA + 8, 1 << 40), missing((1 << 40) + 8));
    assert_eq!(
        error64(DATA + 8, u64::MAX),
        missing(u128::from(u64::MAX) + 8)
    );
    assert_eq!(error64(DATA + 32, 9), missing(image().len() as u128 + 1));
}

#[test]
fn refuses_an_entry_point_that_cannot_be_executed() {
    for entry in [
        0,
        ROOM.start - 1,
        ROOM.start + 16,
        ROOM.start + 0x1000,
        u64::MAX,
    ] {
        assert_eq!(error64(24, entry), ElfError::Entry(entry));
    }
    assert_eq!(error(TEXT + 4, &[4]), ElfError::Entry(0x20_0004));
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let file = image();
    for len in 0..file.len() {
        let error = parse(&file[..len], ROOM).unwrap_err();
        let expected = if len < 4 {
            matches!(error, ElfError::NotElf)
        } else {
            matches!(error, ElfError::Truncated { .. })
        };
        assert!(expected, "{len} bytes: {error}");
    }
}

#[test]
fn no_damaged_header_panics_or_gets_through_with_bounds_it_should_not_have() {
    for at in 0..64 + 2 * 56 {
        for value in 0..=0xff {
            let mut file = image();
            file[at] = value;
            let Ok(image) = parse(&file, ROOM) else {
                continue;
            };
            for segment in &image.segments {
                assert!(segment.gpa >= ROOM.start && segment.range().end <= ROOM.end);
                assert!(segment.bytes.len() as u64 <= segment.mem_size);
            }
        }
    }
}
