//! The images that come out of the build: the built-in guest's, and the example's
//! by the command that the README names.

use std::path::Path;
use std::process::Command;

use gracefault_guest::PAYLOAD;
use gracefault_guest::abi::IMAGE_GPA;

const ET_EXEC: u64 = 2;
const PT_LOAD: u64 = 1;

/// The little-endian number of `len` bytes at `at`.
fn number(image: &[u8], at: u64, len: usize) -> u64 {
    let at = at as usize;
    let mut bytes = [0; 8];
    bytes[..len].copy_from_slice(&image[at..at + len]);
    u64::from_le_bytes(bytes)
}

fn assert_guest_image(image: &[u8]) {
    assert_eq!(image[..4], *b"\x7fELF");
    assert_eq!(number(image, 16, 2), ET_EXEC);
    let (at, count) = (number(image, 32, 8), number(image, 56, 2));
    let mut flags = Vec::new();
    let mut end = IMAGE_GPA;
    for header in (0..count).map(|index| at + index * 56) {
        assert_eq!(
            number(image, header, 4),
            PT_LOAD,
            "nothing but segments to load"
        );
        let gpa = number(image, header + 16, 8);
        assert!(
            gpa >= end && gpa.is_multiple_of(4096),
            "a segment at {gpa:#x}"
        );
        assert!(
            end > IMAGE_GPA || gpa == IMAGE_GPA,
            "the first segment is at {gpa:#x}"
        );
        end = gpa + number(image, header + 40, 8);
        flags.push(number(image, header + 4, 4));
    }
    assert_eq!(
        flags,
        [5, 4, 6],
        "code, constants and data in segments of their own"
    );
}

#[test]
fn the_built_in_guest_is_a_guest_image() {
    assert_guest_image(PAYLOAD);
}

#[test]
fn the_example_builds_as_a_guest_image() {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("example");
    let status = Command::new(env!("CARGO"))
        .args([
            "build",
            "--release",
            "--locked",
            "--offline",
            "--manifest-path",
        ])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/example/Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .status()
        .expect("cargo can be run");
    assert!(status.success());
    assert_guest_image(&std::fs::read(target.join("release/guest-example")).expect("it was built"));
}
