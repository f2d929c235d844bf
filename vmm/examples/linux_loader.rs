//! linux-loader on Gracefault's memory: an ELF program, a bzImage with its command line
//! and parameters.
//!
//! ```text
//! cargo run --release --example linux_loader [KERNEL]
//! ```
//!
//! With a file, that is loaded, whichever of the two it is; without one, a small ELF
//! and a small bzImage made here. They are loaded across the border of two regions, the
//! second of which is ROM when they are read back. No KVM is needed. Ends with status 1
//! if a byte is wrong.

use std::error::Error;
use std::io::{Cursor, Read, Seek};
use std::process::ExitCode;
use std::sync::Arc;

use gracefault::memory::vm_memory::GuestRam;
use gracefault::memory::{GuestSpace, Mapping};
use gracefault::mm::AddrRange;
use linux_loader::cmdline::Cmdline;
use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::bootparam::boot_params;
use linux_loader::loader::{BzImage, Elf, KernelLoader, KernelLoaderResult, load_cmdline};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, ReadVolatile};

const MIB: u64 = 1 << 20;
/// Where Linux is loaded, one page before the border.
const BORDER: u64 = MIB + 0x1000;
const CMDLINE: GuestAddress = GuestAddress(0x2_0000);
const PARAMETERS: GuestAddress = GuestAddress(0x7000);

fn main() -> ExitCode {
    let loaded = match std::env::args_os().nth(1) {
        Some(path) => from_file(path),
        None => made_here(),
    };
    match loaded {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("linux_loader: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Memory of two regions.
fn memory(bytes: u64) -> Result<GuestRam, Box<dyn Error>> {
    let all = AddrRange::new(0, 1 << 40).expect("not empty");
    let ram = GuestRam::new(Arc::new(GuestSpace::physical(all)));
    ram.insert_region(GuestAddress(0), Arc::new(Mapping::anonymous(BORDER)?))?;
    let rest = Arc::new(Mapping::anonymous(bytes)?);
    // Loaders write it; devices may not.
    ram.insert_rom(GuestAddress(BORDER), rest)?;
    Ok(ram)
}

fn from_file(path: std::ffi::OsString) -> Result<(), Box<dyn Error>> {
    let mut file = std::fs::File::open(path)?;
    let ram = memory(1 << 30)?;
    let loaded = match load(&ram, &mut file) {
        Ok(loaded) => loaded,
        Err(_) => Elf::load(&*ram.memory(), None, &mut file, None)?,
    };
    println!(
        "loaded at {:#x}, up to {:#x}",
        loaded.kernel_load.0, loaded.kernel_end
    );
    Ok(())
}

/// A bzImage at 1 MiB, with a command line and the parameters that Linux wants.
fn load(
    ram: &GuestRam,
    image: &mut (impl Read + ReadVolatile + Seek),
) -> Result<KernelLoaderResult, Box<dyn Error>> {
    let memory = ram.memory();
    let high = Some(GuestAddress(MIB));
    let loaded = BzImage::load(&*memory, None, image, high)?;
    let mut cmdline = Cmdline::new(256)?;
    cmdline.insert_str("console=ttyS0 panic=-1")?;
    load_cmdline(&*memory, CMDLINE, &cmdline)?;
    let mut parameters = boot_params {
        hdr: loaded.setup_header.ok_or("a bzImage has a setup header")?,
        ..Default::default()
    };
    parameters.hdr.cmd_line_ptr = CMDLINE.0 as u32;
    let parameters = BootParams::new(&parameters, PARAMETERS);
    LinuxBootConfigurator::write_bootparams(&parameters, &*memory)?;
    Ok(loaded)
}

fn made_here() -> Result<(), Box<dyn Error>> {
    let ram = memory(MIB)?;
    let kernel: Vec<u8> = (0..3 * 0x1000 + 100).map(|i| (i * 7 % 251) as u8).collect();

    let loaded = load(&ram, &mut Cursor::new(bzimage(&kernel)))?;
    verify(&ram, loaded.kernel_load, &kernel)?;
    // As a device sees it, permissions and all.
    let device = ram.dma().memory();
    let cmdline: u32 = device.read_obj(GuestAddress(PARAMETERS.0 + 0x228))?;
    if u64::from(cmdline) != CMDLINE.0 || device.write_obj(0_u8, GuestAddress(BORDER)).is_ok() {
        return Err("wrong parameters, or ROM that a device may write".into());
    }
    println!(
        "bzImage: {} bytes at {:#x}, across a border",
        kernel.len(),
        loaded.kernel_load.0
    );

    let at = BORDER - 0x1000;
    let loaded = Elf::load(
        &*ram.memory(),
        None,
        &mut Cursor::new(elf(at, &kernel)),
        None,
    )?;
    verify(&ram, loaded.kernel_load, &kernel)?;
    println!("ELF: {} bytes at {at:#x}, across a border", kernel.len());
    Ok(())
}

fn verify(ram: &GuestRam, at: GuestAddress, bytes: &[u8]) -> Result<(), Box<dyn Error>> {
    let mut back = vec![0; bytes.len()];
    ram.dma().memory().read_slice(&mut back, at)?;
    match back == bytes {
        true => Ok(()),
        false => Err(format!("wrong bytes at {:#x}", at.0).into()),
    }
}

/// The header that makes a bzImage one, four sectors of setup, and the kernel.
fn bzimage(kernel: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 512 * 5];
    file[0x1f1] = 4;
    file[0x1fe..0x200].copy_from_slice(&0xaa55_u16.to_le_bytes());
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&0x020c_u16.to_le_bytes());
    file[0x211] = 1;
    file[0x214..0x218].copy_from_slice(&(MIB as u32).to_le_bytes());
    file.extend_from_slice(kernel);
    file
}

/// An ELF program of one segment, which is loaded at `at`.
fn elf(at: u64, segment: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 0x1000];
    file[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1]);
    // A program for x86-64, version 1.
    file[16..24].copy_from_slice(&[2, 0, 62, 0, 1, 0, 0, 0]);
    file[24..32].copy_from_slice(&at.to_le_bytes());
    // Its one program header follows the file's.
    file[32] = 64;
    file[52..58].copy_from_slice(&[64, 0, 56, 0, 1, 0]);
    let header = &mut file[64..120];
    (header[0], header[4]) = (1, 5);
    let len = segment.len() as u64;
    let words = [0x1000, at, at, len, len, 0x1000];
    for (field, word) in header[8..].chunks_exact_mut(8).zip(words) {
        field.copy_from_slice(&word.to_le_bytes());
    }
    file.extend_from_slice(segment);
    file
}
