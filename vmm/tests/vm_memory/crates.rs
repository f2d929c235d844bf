//! Other crates' code on these types, as their users call it.

use std::io::Cursor;

use gracefault::memory::{Backend, RamOptions, RamSizes, RamSource};
use linux_loader::cmdline::Cmdline;
use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::bootparam::boot_params;
use linux_loader::loader::{BzImage, Elf, KernelLoader, load_cmdline};
use std::sync::Arc;
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemoryBackend, GuestMemoryRegion};

use super::{PAGE, ram};

/// An ELF program of one segment at `at`, whose bytes are `data`.
pub(crate) fn elf(at: u64, data: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 0x1000];
    file[..20].copy_from_slice(&[
        0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 62, 0,
    ]);
    file[20] = 1;
    file[24..32].copy_from_slice(&at.to_le_bytes());
    file[32] = 64;
    file[52..58].copy_from_slice(&[64, 0, 56, 0, 1, 0]);
    let header = &mut file[64..120];
    header[0] = 1;
    header[4] = 5;
    let words = [0x1000, at, at, data.len() as u64, data.len() as u64, 0x1000];
    for (field, word) in header[8..].chunks_exact_mut(8).zip(words) {
        field.copy_from_slice(&word.to_le_bytes());
    }
    file.extend_from_slice(data);
    file
}

/// The header that makes a bzImage one, and `data` behind a setup of four sectors.
pub(crate) fn bzimage(data: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 512 * 5];
    file[0x1f1] = 4;
    file[0x1fe..0x200].copy_from_slice(&0xaa55_u16.to_le_bytes());
    file[0x202..0x206].copy_from_slice(&0x5372_6448_u32.to_le_bytes());
    file[0x206..0x208].copy_from_slice(&0x020c_u16.to_le_bytes());
    file[0x211] = 1;
    file[0x214..0x218].copy_from_slice(&0x10_0000_u32.to_le_bytes());
    file.extend_from_slice(data);
    file
}

/// Across a seam, and into ROM, which a loader may write.
#[test]
fn linux_loader_loads_an_elf() {
    let ram = ram(&[(0, 16 * PAGE), (16 * PAGE, 16 * PAGE)]);
    let data: Vec<u8> = (0..2 * PAGE).map(|i| (i * 7) as u8).collect();
    let memory = ram.memory();
    let at = 15 * PAGE;
    let loaded = Elf::load(&*memory, None, &mut Cursor::new(elf(at, &data)), None).unwrap();
    assert_eq!(
        (loaded.kernel_load.0, loaded.kernel_end),
        (at, at + 2 * PAGE)
    );
    let mut back = vec![0; data.len()];
    memory.read_slice(&mut back, GuestAddress(at)).unwrap();
    assert_eq!(back, data);

    // Past what there is.
    let past = elf(31 * PAGE, &data);
    assert!(Elf::load(&*memory, None, &mut Cursor::new(past), None).is_err());
}

#[test]
fn linux_loader_loads_a_bzimage_and_its_parameters() {
    let ram = ram(&[(0, 0x10_0000), (0x10_0000, PAGE), (0x10_1000, PAGE)]);
    let data: Vec<u8> = (0..PAGE + 100).map(|i| (i * 3) as u8).collect();
    let memory = ram.memory();
    let image = bzimage(&data);
    let high = Some(GuestAddress(0x10_0000));
    let loaded = BzImage::load(&*memory, None, &mut Cursor::new(image), high).unwrap();
    assert_eq!(loaded.kernel_load.0, 0x10_0000);
    let mut back = vec![0; data.len()];
    memory
        .read_slice(&mut back, GuestAddress(0x10_0000))
        .unwrap();
    assert_eq!(back, data);

    let mut cmdline = Cmdline::new(64).unwrap();
    cmdline.insert_str("console=ttyS0").unwrap();
    load_cmdline(&*memory, GuestAddress(0x2_0000), &cmdline).unwrap();
    let mut back = [0; 13];
    memory
        .read_slice(&mut back, GuestAddress(0x2_0000))
        .unwrap();
    assert_eq!(&back, b"console=ttyS0");

    let mut params = boot_params {
        hdr: loaded.setup_header.unwrap(),
        ..Default::default()
    };
    params.hdr.cmd_line_ptr = 0x2_0000;
    let at = GuestAddress(0x7000);
    LinuxBootConfigurator::write_bootparams(&BootParams::new(&params, at), &*memory).unwrap();
    assert_eq!(
        memory
            .read_obj::<u32>(GuestAddress(0x7000 + 0x228))
            .unwrap(),
        0x2_0000
    );
}

/// What another process needs to map the same memory.
#[test]
fn regions_tell_their_files() {
    let sizes = RamSizes {
        boot: 4 * PAGE,
        hotplug: 4 * PAGE,
        block: 2 * PAGE,
    };
    let options = RamOptions {
        backend: Backend::Memfd,
        ..RamOptions::default()
    };
    let source = RamSource::open(options, sizes).unwrap();
    let ram = ram(&[]);
    let insert = |at, memory| {
        ram.insert_region(GuestAddress(at), Arc::new(memory))
            .unwrap()
    };
    insert(0, source.map_boot(0, 4 * PAGE).unwrap());
    insert(4 * PAGE, source.map_block(1).unwrap());
    let memory = ram.memory();
    memory
        .write_slice(&[5; 16], GuestAddress(4 * PAGE - 8))
        .unwrap();
    let offsets: Vec<_> = memory
        .iter()
        .map(|region| {
            assert_eq!(region.is_hugetlbfs(), Some(false));
            region.file_offset().unwrap().start()
        })
        .collect();
    assert_eq!(offsets[0], 0);
    use std::os::unix::fs::FileExt;
    let region = memory.find_region(GuestAddress(4 * PAGE)).unwrap();
    let file = region.file_offset().unwrap();
    let mut back = [0; 9];
    file.file().read_exact_at(&mut back, file.start()).unwrap();
    assert_eq!(back, [5, 5, 5, 5, 5, 5, 5, 5, 0]);
}
