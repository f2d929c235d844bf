//! linux-loader, all of it that takes memory: one body, run on `vm-memory`'s types and on
//! ours. What each call came to is compared, and all of memory after it.

#[path = "loader/images.rs"]
mod images;

use std::fs::File;
use std::io::{Cursor, Seek, Write};

use linux_loader::cmdline::Cmdline;
use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::bootparam::boot_params;
use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use linux_loader::loader::{BzImage, Elf, KernelLoader, load_cmdline};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemory, GuestMemoryBackend};

use super::conformance::log::{Log, digest};
use super::{PAGE, ram, theirs};
use images::{bzimage, bzimages, elves, one};

/// A seam in the middle of what is loaded, and a hole.
const REGIONS: [(u64, u64); 4] = [
    (0, 16 * PAGE),
    (16 * PAGE, 16 * PAGE),
    (38 * PAGE, 2 * PAGE),
    (41 * PAGE, PAGE),
];
const END: u64 = 42 * PAGE;

fn contents(memory: &impl GuestMemoryBackend) -> u64 {
    let mut all = Vec::new();
    for (base, size) in REGIONS {
        let mut bytes = vec![0; size as usize];
        memory.read_slice(&mut bytes, GuestAddress(base)).unwrap();
        all.extend(bytes);
    }
    digest(&all).1
}

/// What was loaded before must not be taken for what is loaded now.
fn clear(memory: &impl GuestMemoryBackend) {
    for (base, size) in REGIONS {
        let bytes = vec![0xcc; size as usize];
        memory.write_slice(&bytes, GuestAddress(base)).unwrap();
    }
}

fn body(memory: &impl GuestMemoryBackend) -> Log {
    let mut log = Log::default();
    kernels::<Elf>(memory, &mut log, &elves());
    kernels::<BzImage>(memory, &mut log, &bzimages());
    command_lines(memory, &mut log);
    linux(memory, &mut log);
    pvh(memory, &mut log);
    log
}

/// Where it asks for, and elsewhere; above what is given for high memory, and below.
fn kernels<L: KernelLoader>(
    memory: &impl GuestMemoryBackend,
    log: &mut Log,
    images: &[(&'static str, Vec<u8>)],
) {
    let some = |at| Some(GuestAddress(at));
    for (name, image) in images {
        for offset in [None, some(PAGE), some(16 * PAGE - 1), some(u64::MAX - 5)] {
            for high in [None, some(15 * PAGE), some(1 << 40)] {
                clear(memory);
                let loaded = L::load(memory, offset, &mut Cursor::new(image), high);
                log.note(name, (offset, high, loaded));
                log.note("memory", contents(memory));
            }
        }
        // From a file, which the kernel reads into guest memory.
        clear(memory);
        let mut file: File = tempfile::tempfile().unwrap();
        file.write_all(image).unwrap();
        file.rewind().unwrap();
        log.note(name, L::load(memory, None, &mut file, None));
        log.note("memory", contents(memory));
    }
}

fn command_lines(memory: &impl GuestMemoryBackend, log: &mut Log) {
    let empty = Cmdline::new(256).unwrap();
    let mut long = empty.clone();
    long.insert("console", "ttyS0").unwrap();
    long.insert_multiple("nameserver", &["10.0.0.1", "10.0.0.2"])
        .unwrap();
    long.insert_str("panic=-1 reboot=k").unwrap();
    let disk = GuestAddress(0xd000_0000);
    long.add_virtio_mmio_device(4096, disk, 5, Some(1)).unwrap();
    long.insert_init_args("--verbose").unwrap();
    let parsed = Cmdline::try_from("quiet root=/dev/vda -- one two", 64).unwrap();
    let mut init_only = empty.clone();
    init_only.insert_init_args("one").unwrap();
    for line in [&empty, &long, &parsed, &init_only] {
        let len = line.as_cstring().map_or(1, |s| s.as_bytes_with_nul().len());
        for at in [
            0x2_0000 - 0x1f000,
            16 * PAGE - 10,
            32 * PAGE - len as u64,
            32 * PAGE - 5,
            35 * PAGE,
            38 * PAGE - 1,
            40 * PAGE - 3,
            END - len as u64,
            END - len as u64 + 1,
            END,
            u64::MAX - 1,
        ] {
            clear(memory);
            let loaded = load_cmdline(memory, GuestAddress(at), line);
            log.note("load_cmdline", (at, line, loaded));
            log.note("memory", contents(memory));
        }
    }
}

/// Where parameters go: well inside, across the seam, up to a border, past it, into the
/// hole and out of it, nowhere.
fn places(len: u64) -> Vec<GuestAddress> {
    let border = |end: u64| [end - len - 1, end - len, end - len + 1, end - 1, end];
    let mut all = vec![0x7000, 16 * PAGE - len / 2, 35 * PAGE, u64::MAX - 3];
    all.extend([32 * PAGE, 40 * PAGE, END].into_iter().flat_map(border));
    // From one side of a hole to the other.
    all.push(41 * PAGE + 8 - len.max(PAGE + 9));
    all.into_iter().map(GuestAddress).collect()
}

fn linux(memory: &impl GuestMemoryBackend, log: &mut Log) {
    let mut parameters = boot_params::default();
    parameters.hdr.header = 0x5372_6448;
    parameters.hdr.cmd_line_ptr = 0x2_0000;
    parameters.e820_entries = 2;
    for at in places(size_of::<boot_params>() as u64) {
        clear(memory);
        let parameters = BootParams::new(&parameters, at);
        let written = LinuxBootConfigurator::write_bootparams(&parameters, memory);
        log.note("linux", (at, written, contents(memory)));
    }
    // So much that it goes over the hole.
    let large = BootParams {
        header: vec![7; 2 * PAGE as usize + 100],
        ..BootParams::new(&0_u8, GuestAddress(39 * PAGE))
    };
    clear(memory);
    let written = LinuxBootConfigurator::write_bootparams(&large, memory);
    log.note("linux", (written, contents(memory)));
}

fn pvh(memory: &impl GuestMemoryBackend, log: &mut Log) {
    let info = hvm_start_info {
        magic: 0x336e_c578,
        version: 1,
        memmap_entries: 3,
        ..Default::default()
    };
    let entry = |addr| hvm_memmap_table_entry {
        addr,
        size: PAGE,
        type_: 1,
        reserved: 0,
    };
    let map = [entry(0), entry(PAGE), entry(16 * PAGE)];
    let module = hvm_modlist_entry {
        paddr: 0x10000,
        size: 0x100,
        ..Default::default()
    };
    let at = GuestAddress;
    let mut write = |what: &str, params: &BootParams| {
        clear(memory);
        let written = PvhBootConfigurator::write_bootparams(params, memory);
        log.note(what, (written, contents(memory)));
    };
    let good = || {
        let mut params = BootParams::new(&info, at(0x6000));
        params.set_sections(&map, at(0x7000));
        params.set_modules(&[module], at(0x8000));
        params
    };
    write("good", &good());
    write("no map", &BootParams::new(&info, at(0x6000)));
    let mut added = BootParams::new(&info, at(16 * PAGE - 8));
    added.add_section(&map[0], Some(at(15 * PAGE))).unwrap();
    added.add_section(&map[1], None).unwrap();
    added.add_module(&module, Some(at(32 * PAGE - 40))).unwrap();
    write("added one by one", &added);
    for params in [
        BootParams {
            sections_start: None,
            ..good()
        },
        BootParams {
            modules_start: None,
            ..good()
        },
    ] {
        write("without an address", &params);
    }
    for place in places(size_of_val(&map) as u64) {
        let mut params = good();
        params.sections_start = Some(place);
        write("map", &params);
        params = good();
        params.header_start = place;
        write("start info", &params);
        params = good();
        params.modules_start = Some(place);
        write("modules", &params);
    }
}

#[test]
fn loaders_do_the_same() {
    let theirs = body(&*theirs(&REGIONS).memory());
    assert!(theirs.len() > 500, "{} lines", theirs.len());
    body(&*ram(&REGIONS).memory()).assert_same(&theirs);
    let device = ram(&REGIONS).dma().memory();
    body(device.physical_memory().unwrap()).assert_same(&theirs);
}

/// What is compared has to be what is meant: all that can go wrong with memory does.
#[test]
fn the_images_are_what_they_are_meant_to_be() {
    fn outcomes<L: KernelLoader>(images: &[(&'static str, Vec<u8>)]) -> Vec<String> {
        let ram = ram(&REGIONS);
        let memory = ram.memory();
        let outcome = |image| match L::load(&*memory, None, &mut Cursor::new(image), None) {
            Ok(loaded) => loaded.pvh_boot_cap.to_string(),
            Err(error) => format!("{error:?}"),
        };
        let mut all: Vec<_> = images.iter().map(|(_, image)| outcome(image)).collect();
        all.sort();
        all.dedup();
        all
    }
    let of_elf = [
        "Elf(BigEndianElfOnLittle)",
        "Elf(InvalidElfMagicNumber)",
        "Elf(InvalidProgramHeaderOffset)",
        "Elf(InvalidProgramHeaderSize)",
        "Elf(InvalidPvhNote)",
        "Elf(ReadElfHeader)",
        "Elf(ReadKernelImage)",
        "Elf(ReadNoteHeader)",
        "Elf(ReadProgramHeader)",
        "MemoryOverflow",
        "PVH entry point ignored",
        "PVH entry point not present",
        "PVH entry point present at guest address: 0x12345678",
    ];
    assert_eq!(outcomes::<Elf>(&elves()), of_elf);
    let of_bzimage = [
        "Bzimage(InvalidBzImage)",
        "Bzimage(ReadBzImageCompressedKernel)",
        "Bzimage(Underflow)",
        "PVH entry point ignored",
    ];
    assert_eq!(outcomes::<BzImage>(&bzimages()), of_bzimage);
}

/// And what is loaded has to be there: across the seam, byte for byte.
#[test]
fn a_kernel_its_command_line_and_its_parameters_are_where_linux_looks() {
    let ram = ram(&REGIONS);
    let memory = ram.memory();
    let data: Vec<u8> = (0..2 * PAGE).map(|i| (i * 7) as u8).collect();
    let verify = |at: u64| {
        let mut back = vec![0; data.len()];
        memory.read_slice(&mut back, GuestAddress(at)).unwrap();
        assert_eq!(back, data);
    };
    let at = 15 * PAGE + 3;
    let mut image = Cursor::new(one(at, &data));
    let loaded = Elf::load(&*memory, None, &mut image, None).unwrap();
    let found = (loaded.kernel_load.0, loaded.kernel_end);
    assert_eq!(found, (at, at + 2 * PAGE));
    verify(at);

    clear(&*memory);
    let at = 15 * PAGE + 64;
    let mut image = Cursor::new(bzimage(4, &data));
    let high = Some(GuestAddress(15 * PAGE));
    let loaded = BzImage::load(&*memory, None, &mut image, high).unwrap();
    assert_eq!(loaded.kernel_load.0, at);
    verify(at);

    let mut cmdline = Cmdline::new(64).unwrap();
    cmdline.insert_str("console=ttyS0").unwrap();
    load_cmdline(&*memory, GuestAddress(0x2000), &cmdline).unwrap();
    let line: [u8; 14] = memory.read_obj(GuestAddress(0x2000)).unwrap();
    assert_eq!(&line, b"console=ttyS0\0");
    let mut parameters = boot_params {
        hdr: loaded.setup_header.unwrap(),
        ..Default::default()
    };
    parameters.hdr.cmd_line_ptr = 0x2000;
    let parameters = BootParams::new(&parameters, GuestAddress(0x7000));
    LinuxBootConfigurator::write_bootparams(&parameters, &*memory).unwrap();
    let found: u32 = memory.read_obj(GuestAddress(0x7228)).unwrap();
    assert_eq!(found, 0x2000);
}
