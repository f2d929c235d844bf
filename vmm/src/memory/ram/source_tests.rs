//! Memory of each backend: written, read, given back.

use std::ffi::{CStr, CString};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::super::room::{CgroupRoom, HugeRoom};
use super::*;
use crate::memory::{HostMemory, HugePage};

const BLOCK: u64 = 2 << 20;
const SIZES: RamSizes = RamSizes {
    boot: BLOCK,
    hotplug: 4 * BLOCK,
    block: BLOCK,
};

fn open(backend: Backend, change: impl FnOnce(&mut RamOptions)) -> RamSource {
    let mut options = RamOptions {
        backend,
        ..Default::default()
    };
    change(&mut options);
    RamSource::open(options, SIZES).unwrap()
}

/// Writes every page of a block, and reads one back.
fn touch(mapping: &Mapping) {
    for page in 0..BLOCK / PAGE {
        mapping.write(page * PAGE, &[7]).unwrap();
    }
    let mut byte = [0];
    mapping.read(BLOCK - PAGE, &mut byte).unwrap();
    assert_eq!(byte, [7]);
}

fn first_byte(source: &RamSource, block: u32) -> u8 {
    let mut byte = [0];
    let mapping = source.map_block(block).unwrap();
    mapping.read(0, &mut byte).unwrap();
    byte[0]
}

fn disk_bytes(file: &File) -> u64 {
    file.metadata().unwrap().blocks() * 512
}

#[test]
fn anonymous_blocks_start_zeroed_each_time() {
    let source = open(Backend::Anonymous, |_| ());
    touch(&source.map_block(3).unwrap());
    assert_eq!(first_byte(&source, 3), 0);
    assert!(source.file().is_none());
}

#[test]
fn a_block_of_a_memfd_leaves_a_hole() {
    let source = open(Backend::Memfd, |_| ());
    let file = source.file().unwrap();
    let [one, two] = [1, 2].map(|block| source.map_block(block).unwrap());
    touch(&one);
    touch(&two);
    assert_eq!(disk_bytes(file), 2 * BLOCK);
    one.unmap().unwrap();
    assert_eq!(disk_bytes(file), BLOCK);
    // So also if it is only dropped.
    drop(two);
    assert_eq!(disk_bytes(file), 0);
    assert_eq!(first_byte(&source, 1), 0);
}

#[test]
fn a_block_of_a_file_is_mapped_once_at_a_time() {
    let source = open(Backend::Memfd, |_| ());
    let kept = source.map_block(1).unwrap();
    touch(&kept);
    let error = source.map_block(1).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
    assert!(error.to_string().contains("still mapped"), "{error}");
    source.map_block(2).unwrap();
    // Whoever has it has it whole.
    let mut byte = [0];
    kept.read(BLOCK - PAGE, &mut byte).unwrap();
    assert_eq!(byte, [7]);
    drop(kept);
    assert_eq!(first_byte(&source, 1), 0);
    // One that could not be mapped leaves nothing behind.
    drop(source.map_boot(0, BLOCK).unwrap());
    source.map_boot(0, BLOCK).unwrap();
}

#[test]
fn boot_ram_and_blocks_do_not_overlap_in_a_file() {
    let source = open(Backend::Memfd, |_| ());
    let boot = source.map_boot(0, BLOCK).unwrap();
    let blocks = [0, 1, 2, 3].map(|block| source.map_block(block).unwrap());
    boot.write(0, &[9]).unwrap();
    boot.write(BLOCK - 1, &[9]).unwrap();
    let mut byte = [0];
    for block in &blocks {
        for at in [0, BLOCK - 1] {
            block.read(at, &mut byte).unwrap();
            assert_eq!(byte, [0]);
        }
    }
}

#[test]
fn a_named_file_keeps_its_contents_unless_they_are_to_be_discarded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ram");
    let source = open(Backend::File(path.clone()), |_| ());
    touch(&source.map_block(1).unwrap());
    source.map_block(1).unwrap().unmap().unwrap();
    assert_eq!(first_byte(&source, 1), 7);
    assert_eq!(first_byte(&source, 0), 0);

    drop(source);
    let source = open(Backend::File(path), |options| options.discard = true);
    let full = disk_bytes(source.file().unwrap());
    assert!(full >= BLOCK);
    // A plug that fails drops the mapping: nothing is lost by that.
    drop(source.map_block(1).unwrap());
    assert_eq!(first_byte(&source, 1), 7);
    source.map_block(1).unwrap().unmap().unwrap();
    assert_eq!(first_byte(&source, 1), 0);
    assert!(disk_bytes(source.file().unwrap()) <= full - BLOCK);
}

#[test]
fn a_private_file_is_read_and_never_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ram");
    std::fs::write(&path, vec![5; SIZES.file_len() as usize]).unwrap();
    let source = open(Backend::PrivateFile(path.clone()), |_| ());
    assert_eq!(first_byte(&source, 2), 5);
    touch(&source.map_block(2).unwrap());
    assert_eq!(first_byte(&source, 2), 5);
    assert!(std::fs::read(&path).unwrap().iter().all(|&byte| byte == 5));
}

#[test]
fn prefaulted_memory_is_there_before_it_is_touched() {
    let source = open(Backend::Memfd, |options| options.prefault = true);
    let mapping = source.map_block(0).unwrap();
    assert_eq!(disk_bytes(source.file().unwrap()), BLOCK);
    drop(mapping);
    assert_eq!(disk_bytes(source.file().unwrap()), 0);
}

/// Bytes of a mapping that are in memory and belong to this process.
fn resident(mapping: &Mapping) -> u64 {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let head = format!("{:x}-", mapping.host_addr() as u64);
    let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&head));
    let rss = lines.find_map(|line| line.strip_prefix("Rss:")).unwrap();
    rss.trim()
        .strip_suffix(" kB")
        .unwrap()
        .parse::<u64>()
        .unwrap()
        << 10
}

#[test]
fn memory_of_a_file_too_is_there_before_it_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ram");
    std::fs::write(&path, vec![5; SIZES.file_len() as usize]).unwrap();
    for backend in [Backend::File, Backend::PrivateFile, Backend::Image] {
        let options = RamOptions {
            backend: backend(path.clone()),
            prefault: true,
            ..Default::default()
        };
        let source = match RamSource::open(options, SIZES) {
            Err(error @ RamError::Paging(_)) => {
                crate::memory::not_tried("GRACEFAULT_REQUIRE_UFFD", &error);
                continue;
            }
            other => other.unwrap(),
        };
        let mapping = source.map_block(3).unwrap();
        assert_eq!(resident(&mapping), BLOCK, "{source:?}");
        let mut byte = [0];
        mapping.read(BLOCK - 1, &mut byte).unwrap();
        assert_eq!(byte, [5]);
    }
}

/// A file on a file system that is in memory itself has nowhere to go.
#[test]
fn a_file_in_memory_needs_memory() {
    let path = Path::new("/dev/shm");
    if !std::fs::File::open(path).is_ok_and(|dir| Store::of(&dir) == Store::Memory) {
        eprintln!("not tried: no tmpfs at /dev/shm");
        return;
    }
    let on_disk = tempfile::tempfile().unwrap();
    let in_memory = tempfile::NamedTempFile::new_in(path).unwrap();
    assert!(Store::of(in_memory.as_file()) == Store::Memory);
    let room = HostRoom {
        available: Some(SIZES.all() / 2),
        ..HostRoom::read()
    };
    let options = |path: &Path| RamOptions {
        backend: Backend::File(path.into()),
        ..Default::default()
    };
    let made = in_memory.path().with_extension("made");
    for path in [in_memory.path(), &made] {
        let error = RamSource::open_in(&room, options(path), SIZES).unwrap_err();
        assert!(
            matches!(error, RamError::Refused(Refusal::Memory { .. })),
            "{error}"
        );
    }
    assert_eq!(in_memory.as_file().metadata().unwrap().len(), 0);
    assert!(!made.exists());
    if Store::of(&on_disk) == Store::Elsewhere {
        let dir = tempfile::tempdir().unwrap();
        RamSource::open_in(&room, options(&dir.path().join("ram")), SIZES).unwrap();
    }
}

/// Another guest's writes, or holes, would be in it.
#[test]
fn a_file_is_one_guest_s() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ram");
    let opened = |backend: fn(PathBuf) -> Backend| {
        let options = RamOptions {
            backend: backend(path.clone()),
            ..Default::default()
        };
        match RamSource::open(options, SIZES) {
            // It is read in the same way.
            Err(RamError::Paging(_)) => Ok(open(Backend::PrivateFile(path.clone()), |_| ())),
            other => other.map_err(|error| error.to_string()),
        }
    };
    let refused = |backend| {
        let text = opened(backend).unwrap_err();
        let path = path.to_str().unwrap();
        assert!(
            text.contains(path) && text.contains("another guest"),
            "{text}"
        );
    };
    let written = opened(Backend::File).unwrap();
    refused(Backend::File);
    refused(Backend::PrivateFile);
    refused(Backend::Image);
    // For as long as any of it is mapped.
    let block = written.map_block(0).unwrap();
    drop(written);
    refused(Backend::File);
    drop(block);
    let read = [Backend::PrivateFile, Backend::Image, Backend::PrivateFile]
        .map(|backend| opened(backend).unwrap());
    refused(Backend::File);
    drop(read);
    opened(Backend::File).unwrap();
}

/// A file system mounted for a test.
struct Mount(tempfile::TempDir);

impl Mount {
    /// `None`: this process may not.
    fn new(what: &CStr, options: &CStr) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let at = CString::new(dir.path().to_str().unwrap()).unwrap();
        // SAFETY: C strings that outlive the call; it touches no memory else.
        let mounted = unsafe {
            let options = options.as_ptr().cast();
            libc::mount(what.as_ptr(), at.as_ptr(), what.as_ptr(), 0, options)
        };
        if mounted != 0 {
            eprintln!("not tried: {what:?}: {}", io::Error::last_os_error());
            return None;
        }
        Some(Self(dir))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let at = CString::new(self.0.path().to_str().unwrap()).unwrap();
        // SAFETY: a C string that outlives the call.
        unsafe { libc::umount2(at.as_ptr(), libc::MNT_DETACH) };
    }
}

/// It says that it has no blocks, and none free.
#[test]
fn a_file_system_without_a_limit_has_room() {
    if let Some(mount) = Mount::new(c"tmpfs", c"size=0") {
        let source = open(Backend::File(mount.0.path().join("ram")), |_| ());
        touch(&source.map_block(0).unwrap());
    }
}

/// Of two kinds: one that has not got it, and one whose pages are too large.
#[test]
fn huge_pages_of_a_named_file_are_checked() {
    let Some(mount) = Mount::new(c"hugetlbfs", c"pagesize=2M") else {
        return;
    };
    let path = mount.0.path().join("ram");
    let pool = |pages| HostRoom {
        huge: vec![HugeRoom {
            page: 2 << 20,
            pages,
            total: pages,
            cgroup: None,
        }],
        ..HostRoom::read()
    };
    let options = RamOptions {
        backend: Backend::File(path.clone()),
        ..Default::default()
    };
    let opened = |pages, sizes| RamSource::open_in(&pool(pages), options.clone(), sizes);
    let error = opened(4, SIZES).unwrap_err();
    let is_it = |error: &RamError| matches!(error, RamError::Refused(Refusal::HugePages { .. }));
    assert!(is_it(&error), "{error}");
    assert!(!path.exists());
    let small = RamSizes {
        block: 1 << 20,
        ..SIZES
    };
    let text = opened(64, small).unwrap_err().to_string();
    assert!(
        text.contains(path.to_str().unwrap()) && text.contains("block="),
        "{text}"
    );
    assert!(!path.exists());
    // What the pool has not got after all.
    let source = opened(5, SIZES).unwrap();
    if HostRoom::read().check_pool(2 << 20, 1 << 20).is_err() {
        let text = source.map_block(0).unwrap_err().to_string();
        assert!(text.contains("nr_hugepages"), "{text}");
    }
}

/// A pool's pages are none of the memory that others can have.
#[test]
fn a_prefaulted_file_of_huge_pages_needs_no_other_memory() {
    let room = HostRoom {
        available: Some(SIZES.all() / 2),
        huge: vec![HugeRoom {
            page: 2 << 20,
            pages: 64,
            total: 64,
            cgroup: None,
        }],
        ..HostRoom::read()
    };
    let opened = |backend, path: &Path| {
        let options = RamOptions {
            backend,
            prefault: true,
            ..Default::default()
        };
        std::fs::write(path, "").unwrap();
        File::options()
            .write(true)
            .open(path)
            .and_then(|file| file.set_len(SIZES.file_len()))
            .unwrap();
        RamSource::open_in(&room, options, SIZES)
    };
    let on_disk = tempfile::tempdir().unwrap();
    let path = on_disk.path().join("ram");
    for backend in [Backend::File, Backend::PrivateFile, Backend::Image] {
        let error = opened(backend(path.clone()), &path).unwrap_err();
        let is_it = matches!(error, RamError::Refused(Refusal::Memory { .. }));
        assert!(is_it, "{error}");
    }
    if let Some(mount) = Mount::new(c"hugetlbfs", c"pagesize=2M") {
        let path = mount.0.path().join("ram");
        for backend in [Backend::File, Backend::PrivateFile] {
            opened(backend(path.clone()), &path).unwrap();
        }
        let error = opened(Backend::Image(path.clone()), &path).unwrap_err();
        assert!(matches!(error, RamError::Refused(Refusal::Memory { .. })));
    }
}

/// What stopped it is named, be it the pool or a limit on what may be taken of it.
#[test]
fn huge_pages_that_do_not_come_have_a_reason() {
    let options = RamOptions {
        backend: Backend::Hugetlb(HugePage::Size2M),
        ..Default::default()
    };
    let source = RamSource {
        options,
        ..RamSource::anonymous(SIZES)
    };
    let room = |left| HostRoom {
        huge: vec![HugeRoom {
            page: 2 << 20,
            pages: 0,
            total: 9,
            cgroup: Some(CgroupRoom {
                file: "/g/hugetlb.2MB.max".into(),
                limit: 8 * BLOCK,
                left,
            }),
        }],
        ..HostRoom::default()
    };
    for code in [libc::EFAULT, libc::ENOMEM] {
        let said = |left| {
            let error = io::Error::from_raw_os_error(code);
            source.explain(&room(left), error, BLOCK).to_string()
        };
        let text = said(BLOCK - 1);
        assert!(text.contains("/g/hugetlb.2MB.max"), "{code}: {text}");
        assert!(!text.contains("nr_hugepages"), "{code}: {text}");
        let text = said(BLOCK);
        assert!(text.contains("nr_hugepages"), "{code}: {text}");
    }
}

/// Has nothing to turn off, and refuses to.
#[test]
fn a_host_without_transparent_huge_pages_is_told_nothing_of_them() {
    let room = HostRoom {
        thp: [None, None],
        ..HostRoom::read()
    };
    let options = RamOptions {
        thp: ThpAdvice::Unwanted,
        ..Default::default()
    };
    let source = RamSource::open_in(&room, options.clone(), SIZES).unwrap();
    assert_eq!(source.advice, ThpAdvice::HostDecides);
    let source = RamSource::open(options, SIZES).unwrap();
    let has_them = HostRoom::read().thp[0].is_some();
    assert_eq!(source.advice == ThpAdvice::Unwanted, has_them);
}

#[test]
fn sizes_that_do_not_add_up_are_refused() {
    for (boot, hotplug) in [(u64::MAX - 4095, 0), (BLOCK, u64::MAX - BLOCK + 1)] {
        let sizes = RamSizes {
            boot,
            hotplug,
            block: BLOCK,
        };
        let error = RamSource::open(RamOptions::default(), sizes).unwrap_err();
        assert!(matches!(error, RamError::TooLarge { .. }), "{error}");
    }
}

/// A file that is cut short behind our back makes an error, not a signal.
#[test]
fn prefaulting_what_is_not_there_is_an_error_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ram");
    let source = open(Backend::File(path), |options| options.prefault = true);
    source.file().unwrap().set_len(0).unwrap();
    let error = source.map_block(0).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::OutOfMemory);
    assert!(error.to_string().contains("cut short"), "{error}");
}

#[test]
fn a_private_file_that_was_cut_short_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ram");
    let file = File::create(&path).unwrap();
    file.set_len(SIZES.file_len()).unwrap();
    let backend = Backend::PrivateFile(path.clone());
    let source = open(backend, |options| options.prefault = true);
    file.set_len(0).unwrap();
    let text = source.map_block(0).unwrap_err().to_string();
    assert!(
        text.contains(path.to_str().unwrap()) && text.contains("cut short"),
        "{text}"
    );
}

#[test]
fn transparent_huge_pages_get_their_alignment() {
    let room = HostRoom::read();
    let options = RamOptions {
        thp: ThpAdvice::Wanted,
        ..Default::default()
    };
    if let Err(error) = room.check(&options, SIZES) {
        crate::memory::not_tried("GRACEFAULT_REQUIRE_THP", &error);
        return;
    }
    let source = RamSource::open(options, SIZES).unwrap();
    let blocks = [0, 1, 2].map(|block| source.map_block(block).unwrap());
    for block in &blocks {
        assert!((block.host_addr() as u64).is_multiple_of(THP));
        touch(block);
    }
}

/// The pool is the host's: what it has not got is refused before a mapping is made.
#[test]
fn a_pool_that_is_short_is_refused() {
    let options = RamOptions {
        backend: Backend::Hugetlb(HugePage::Size1G),
        ..Default::default()
    };
    let sizes = RamSizes {
        boot: 1 << 50,
        hotplug: 0,
        block: 1 << 30,
    };
    let error = RamSource::open(options, sizes).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("hugepages"), "{text}");
}

#[test]
fn the_file_s_bytes_are_the_guest_s() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ram");
    let source = open(Backend::File(path.clone()), |_| ());
    let at = |path: &Path, offset| {
        let mut byte = [0];
        File::open(path)
            .unwrap()
            .read_exact_at(&mut byte, offset)
            .unwrap();
        byte[0]
    };
    source.map_boot(0, BLOCK).unwrap().write(1, &[3]).unwrap();
    source.map_block(2).unwrap().write(5, &[4]).unwrap();
    assert_eq!((at(&path, 1), at(&path, 3 * BLOCK + 5)), (3, 4));
}
