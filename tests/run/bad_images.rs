//! Files that are no guest image, or not one that can run: each is refused with
//! one message that names the file and what is wrong with it.
use std::ffi::CString;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libtest_mimic::Trial;

use crate::command::{Ended, Running, gracefault};
use crate::image::{HEADERS, IMAGE, ImageFile, Segment, elf};
use crate::support::{Outcome, kvm_test};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test("bad_images::cut_short", cut_short),
        kvm_test("bad_images::for_something_else", for_something_else),
        kvm_test("bad_images::segments_that_cannot_be", bad_segments),
        kvm_test("bad_images::no_file", no_file),
        kvm_test("bad_images::a_pipe_without_a_writer", a_pipe),
        kvm_test("bad_images::larger_than_memory", larger_than_memory),
    ]
}

/// `jmp .`, for images that must not run.
const CODE: &[u8] = &[0xeb, 0xfe];

/// Runs `path` as a guest, which must be refused with `words`.
#[track_caller]
fn refused(path: &Path, words: &[&str]) -> Ended {
    let mut command = gracefault(["run", "--timeout", "20s", "--kernel"]);
    command.arg(path);
    let ended = Running::start(command).wait();
    ended.expect_status(2).expect_message(words);
    let mut name = String::new();
    write!(name, "the guest image {}: ", path.display()).expect("a string grows");
    ended.expect_message(&[&name]);
    assert_eq!(ended.stdout, "", "{ended}");
    ended
}

#[track_caller]
fn refused_bytes(bytes: &[u8], words: &[&str]) {
    refused(&ImageFile::new(bytes).path, words);
}

/// An image with `bytes` in place of what is at `at`.
fn patched(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut image = elf(&[Segment::code(IMAGE, CODE)]);
    image[at..at + bytes.len()].copy_from_slice(bytes);
    image
}

fn cut_short() -> Outcome {
    let image = elf(&[Segment::code(IMAGE, CODE)]);
    for len in [0, 3] {
        refused_bytes(&image[..len], &["not an ELF file"]);
    }
    for len in [4, 16, 63] {
        refused_bytes(&image[..len], &["cut short: the file header"]);
    }
    for len in [64, HEADERS - 1] {
        refused_bytes(&image[..len], &["cut short: the table of program headers"]);
    }
    for len in [HEADERS, HEADERS + 1] {
        refused_bytes(&image[..len], &["cut short: segment 0 ends at byte 122"]);
    }
    refused_bytes(
        &gracefault_guest::PAYLOAD[..gracefault_guest::PAYLOAD.len() / 3],
        &["cut short"],
    );
    Ok(())
}

fn for_something_else() -> Outcome {
    refused_bytes(b"#!/bin/sh\nexit 0\n", &["not an ELF file"]);
    refused_bytes(&patched(4, &[1]), &["64-bit"]);
    refused_bytes(&patched(5, &[2]), &["little-endian"]);
    refused_bytes(&patched(18, &[183]), &["x86-64", "183"]);
    refused_bytes(&patched(16, &[1]), &["no executable"]);
    refused_bytes(&patched(16, &[3]), &["position-independent", "-no-pie"]);
    for kind in [2, 3] {
        let mut dynamic = Segment::code(IMAGE + 0x1000, CODE);
        dynamic.kind = kind;
        let image = elf(&[Segment::code(IMAGE, CODE), dynamic]);
        refused_bytes(&image, &["linked dynamically", "-static"]);
    }
    // A program of this system: the test itself.
    refused(&std::env::current_exe()?, &[]);
    Ok(())
}

fn bad_segments() -> Outcome {
    let one = |gpa, mem_size| {
        let mut segment = Segment::code(gpa, CODE);
        segment.mem_size = mem_size;
        elf(&[segment])
    };
    let two = |gpa| elf(&[Segment::code(IMAGE, CODE), Segment::code(gpa, CODE)]);
    refused_bytes(&two(IMAGE + 1), &["overlap", "0x200001"]);
    refused_bytes(&two(IMAGE), &["overlap"]);
    refused_bytes(&one(0x1000, 2), &["outside the boot RAM", "0x1000"]);
    refused_bytes(&one(0xd000_0000, 2), &["outside the boot RAM"]);
    refused_bytes(&one(1 << 47, 2), &["outside the boot RAM"]);
    refused_bytes(&one(u64::MAX - 1, 2), &["past 2^64"]);
    refused_bytes(&one(IMAGE, 1 << 40), &["more memory", "0x10000000000"]);
    refused_bytes(&one(IMAGE, u64::MAX), &["past 2^64"]);
    refused_bytes(&one(IMAGE, 1), &["p_filesz is above p_memsz"]);
    // Into the reports and stacks at the end of boot RAM.
    refused_bytes(&one(IMAGE, (64 << 20) - IMAGE), &["boot RAM"]);
    let mut data = Segment::code(IMAGE, CODE);
    data.flags = 6;
    refused_bytes(&elf(&[data]), &["entry point", "executable"]);
    let mut empty = Segment::code(IMAGE, &[]);
    empty.mem_size = 0;
    refused_bytes(&elf(&[empty]), &["nothing to load"]);
    Ok(())
}

fn no_file() -> Outcome {
    let regular = &["not a regular file"];
    refused(Path::new("/"), regular);
    refused(Path::new("/dev/zero"), regular);
    refused(Path::new("/dev/null"), regular);
    refused(Path::new("/nonexistent/guest"), &["No such file"]);
    // Bytes that are no UTF-8 are shown as well as can be.
    let odd = std::ffi::OsStr::from_bytes(b"/nonexistent/\xff");
    refused(Path::new(odd), &["No such file"]);
    Ok(())
}

/// To open one for reading waits for a writer, which never comes.
fn a_pipe() -> Outcome {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("pipe");
    let name = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: a string that ends with a zero.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    refused(&path, &["not a regular file"]);
    Ok(())
}

/// Sparse, so it takes no room on the disk.
fn larger_than_memory() -> Outcome {
    let file = ImageFile::new(&elf(&[Segment::code(IMAGE, CODE)]));
    std::fs::OpenOptions::new()
        .write(true)
        .open(&file.path)?
        .set_len(64 << 30)?;
    refused(&file.path, &["68719476736 bytes long", "--memory size="]);
    Ok(())
}
