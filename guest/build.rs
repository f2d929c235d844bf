//! Builds the built-in guest, which is a program of its own for a machine without
//! an operating system: the library once more, as the guest links it, and then
//! the payload. `rustc` is called directly because Cargo builds everything in a
//! workspace with the flags of the host's programs, which would make it a
//! position-independent executable with `std`'s start-up code.
//!
//! The flags in `RUSTFLAGS` are not passed on: `target-cpu=native`, for one,
//! would put AVX into the guest, which starts without it.

use std::env::{var, var_os};
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let here = PathBuf::from(var_os("CARGO_MANIFEST_DIR").expect("set by Cargo"));
    let out = PathBuf::from(var_os("OUT_DIR").expect("set by Cargo"));
    let script = here.join("link.ld");
    for input in ["build.rs", "link.ld", "src", "payload"] {
        println!("cargo::rerun-if-changed={input}");
    }
    println!("cargo::metadata=linker_script={}", script.display());

    let x86_64 = var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64");
    if x86_64 && var_os("CARGO_FEATURE_PAYLOAD").is_some() {
        build_payload(&here, &out, &script);
    }
}

fn build_payload(here: &Path, out: &Path, script: &Path) {
    let library = out.join("libgracefault_guest.rlib");
    let mut rustc = rustc(here);
    rustc.args(["--crate-name=gracefault_guest", "--crate-type=rlib"]);
    rustc.arg("-o").arg(&library).arg(here.join("src/lib.rs"));
    run(rustc);

    let mut rustc = self::rustc(here);
    rustc.args(["--crate-name=payload", "--crate-type=bin"]);
    let mut external = std::ffi::OsString::from("gracefault_guest=");
    external.push(&library);
    rustc.arg("--extern").arg(external);
    rustc.arg("-Crelocation-model=static");
    if var("CARGO_CFG_TARGET_ENV").is_ok_and(|env| env == "musl") {
        // Else rustc adds its own start-up objects, with a `_start` of their own.
        rustc.arg("-Clink-self-contained=no");
    }
    for argument in ["-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none"] {
        rustc.arg(format!("-Clink-arg={argument}"));
    }
    let mut link_script = std::ffi::OsString::from("-Clink-arg=-T");
    link_script.push(script);
    rustc.arg(link_script);
    if let Some(linker) = var_os("RUSTC_LINKER") {
        rustc.arg("-C").arg({
            let mut argument = std::ffi::OsString::from("linker=");
            argument.push(linker);
            argument
        });
    }
    rustc
        .arg("-o")
        .arg(out.join("payload.elf"))
        .arg(here.join("payload/main.rs"));
    run(rustc);
}

/// `rustc` with what library and payload have in common.
fn rustc(here: &Path) -> Command {
    let mut rustc = Command::new(var_os("RUSTC").expect("set by Cargo"));
    rustc
        .arg("--target")
        .arg(var_os("TARGET").expect("set by Cargo"));
    rustc.args([
        "--edition=2024",
        "-Copt-level=3",
        "-Cpanic=abort",
        "-Ccodegen-units=1",
    ]);
    rustc.args(["-Cstrip=debuginfo"]);
    rustc.args([
        "--check-cfg=cfg(test)",
        "--check-cfg=cfg(feature,values(\"payload\"))",
    ]);
    // Panic messages name files: the same ones wherever this is built.
    let mut remap = std::ffi::OsString::from("--remap-path-prefix=");
    remap.push(here);
    remap.push("=gracefault-guest");
    rustc.arg(remap);
    rustc
}

fn run(mut command: Command) {
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("building the built-in guest: {status}: {command:?}"),
        Err(error) => panic!("building the built-in guest: {error}: {command:?}"),
    }
}
