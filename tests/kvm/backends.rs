//! Each backend of guest RAM: 64 blocks are plugged, a guest writes all of them,
//! they are unplugged, and the host has its memory again.
//!
//! What "again" means is measured as fits the backend, and compared with what
//! plugging and touching took: at least 99 % of that must be back.
use std::error::Error;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use gracefault::devices::HotplugController;
use gracefault::hotplug::{BlockKind, Consent, HotplugRegion};
use gracefault::kvm::{Exit, GuestMemfdError, Vcpu};
use gracefault::memory::{
    Backend, GuestSpace, HugePage, RamError, RamOptions, RamSizes, RamSource, ThpAdvice,
};
use gracefault::mm::AddrRange;
use libtest_mimic::{Completion, Trial};

use crate::support::pool::{Pool, pool};
use crate::support::required::{self, left_out};
use crate::support::{MMIO, Machine, Outcome, guest, kvm_test, kvm_test_if, with_regs};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test("backends_anonymous", anonymous),
        kvm_test("backends_anonymous_prefaulted", prefaulted),
        kvm_test_if("backends_transparent_huge_pages", huge),
        kvm_test("backends_memfd", memfd),
        kvm_test_if("backends_hugetlb", hugetlb),
        kvm_test("backends_shared_file", shared_file),
        kvm_test("backends_shared_file_discarded", discarded_file),
        kvm_test("backends_private_file", private_file),
        kvm_test_if("backends_image", image),
        kvm_test_if("backends_guest_memfd", guest_memfd),
    ]
}

type Judged = Result<Completion, Box<dyn Error>>;

const BLOCKS: u32 = 64;
const BLOCK: u64 = 2 << 20;
const ALL: u64 = BLOCKS as u64 * BLOCK;
/// Where the blocks are for the guest.
const START: u64 = 4 << 30;
const SIZES: RamSizes = RamSizes {
    boot: 0,
    hotplug: ALL,
    block: BLOCK,
};

/// A guest that writes each word's address to all of the blocks, then reads a word
/// when it is let on, and tells what it was.
struct Rig {
    space: Arc<GuestSpace>,
    region: HotplugRegion,
    vcpu: Vcpu,
    // Last: a vCPU may be inside of it.
    _machine: Machine,
}

impl Rig {
    fn new(machine: Machine, source: RamSource) -> Result<Self, Box<dyn Error>> {
        let range = AddrRange::new(0, 1 << 36).expect("not empty");
        let space = Arc::new(GuestSpace::physical(range));
        let controller = Arc::new(HotplugController::new(1));
        let vm = Arc::new(machine.vm.clone());
        let region = HotplugRegion::new(vm, space.clone(), controller, START, BLOCK, BLOCKS);
        let region = region.with_ram(Arc::new(source));
        let code = guest!(
            "5: mov [rsi], rsi",
            "add rsi, 8",
            "cmp rsi, rdx",
            "jne 5b",
            "mov [rdi], rsi",
            // The last word of each block, the last block first, and the first word.
            "mov rax, -1",
            "6: and rax, [rdx - 8]",
            "sub rdx, 0x200000",
            "and rax, [rdx]",
            "cmp rdx, r12",
            "jne 6b",
            "mov [rdi], rax",
        );
        let mut vcpu = machine.vcpu(0, code)?;
        with_regs(&mut vcpu, |regs| {
            (regs.rsi, regs.rdx, regs.r12) = (START, START + ALL, START);
        })?;
        Ok(Self {
            space,
            region,
            vcpu,
            _machine: machine,
        })
    }

    fn plug_all(&self) -> Outcome {
        for block in 0..BLOCKS {
            self.region.plug(block, BlockKind::Cooperative)?;
        }
        Ok(())
    }

    fn touch_all(&mut self) -> Outcome {
        match self.vcpu.run()? {
            Exit::MmioWrite { gpa: MMIO, .. } => Ok(()),
            other => panic!("{other:x?}"),
        }
    }

    /// Unplugs all, and lets the guest read where each block was: all ones.
    fn unplug_all(&mut self) -> Outcome {
        for block in 0..BLOCKS {
            let report = self.region.unplug(block, Consent::Surprise, None)?;
            assert!(report.unmap_error.is_none(), "{report:?}");
        }
        for block in (0..u64::from(BLOCKS)).rev() {
            for word in [BLOCK - 8, 0] {
                match self.vcpu.run()? {
                    Exit::MmioRead { gpa, data, .. } => {
                        assert_eq!(gpa, START + block * BLOCK + word);
                        self.space.read(gpa, data, None)?;
                    }
                    other => panic!("{other:x?}"),
                }
            }
        }
        match self.vcpu.run()? {
            Exit::MmioWrite {
                gpa: MMIO, data, ..
            } => assert_eq!(data, [0xff; 8]),
            other => panic!("{other:x?}"),
        }
        Ok(())
    }
}

/// What is measured at the three moments.
#[derive(Debug)]
struct Seen {
    before: u64,
    touched: u64,
    after: u64,
}

impl Seen {
    /// Panics unless `ALL` was taken and 99 % of what was taken is back.
    #[track_caller]
    fn assert_given_back(&self, what: &str) {
        let added = self.touched.saturating_sub(self.before);
        let kept = self.after.saturating_sub(self.before);
        eprintln!("  {what}: {added} bytes taken, {kept} kept");
        assert!(added >= ALL, "{what}: {self:?}");
        assert!(kept * 100 <= added, "{what}: {self:?}");
    }
}

/// Plugs, touches, unplugs; `measure` looks at each moment.
fn cycle<const N: usize>(
    source: RamSource,
    measure: impl Fn() -> [u64; N],
) -> Result<[Seen; N], Box<dyn Error>> {
    let _small = SmallPages::only();
    cycle_in(Machine::new()?, source, measure)
}

/// While it is there the kernel gives the process no huge pages by itself: one that the
/// stack of some thread, or the heap, gets in the middle of a cycle is 2 MiB more for good,
/// which is more than the 1 % that a backend may keep.
struct SmallPages;

impl SmallPages {
    fn only() -> Self {
        Self::set(1);
        Self
    }

    fn set(only: libc::c_ulong) {
        // SAFETY: of the arguments one is a number, and the others have to be 0.
        let failed = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, only, 0, 0, 0) };
        assert_eq!(failed, 0);
    }
}

impl Drop for SmallPages {
    fn drop(&mut self) {
        Self::set(0);
    }
}

fn cycle_in<const N: usize>(
    machine: Machine,
    source: RamSource,
    measure: impl Fn() -> [u64; N],
) -> Result<[Seen; N], Box<dyn Error>> {
    let mut rig = Rig::new(machine, source)?;
    let before = measure();
    rig.plug_all()?;
    rig.touch_all()?;
    let touched = measure();
    rig.unplug_all()?;
    let after = measure();
    Ok(std::array::from_fn(|i| Seen {
        before: before[i],
        touched: touched[i],
        after: after[i],
    }))
}

fn open(backend: Backend) -> Result<RamSource, RamError> {
    let options = RamOptions {
        backend,
        ..Default::default()
    };
    RamSource::open(options, SIZES)
}

/// A line of a file of this process's, bytes.
fn own(file: &str, field: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/self/{file}")).expect("/proc");
    let line = text.lines().find_map(|l| l.strip_prefix(field));
    let kib = line.and_then(|l| l.trim_start_matches(':').trim().strip_suffix(" kB"));
    kib.expect(field).trim().parse::<u64>().expect(field) << 10
}

/// Resident memory, counted page by page: the number in `status` is approximate.
fn rss() -> u64 {
    own("smaps_rollup", "Rss")
}

fn disk_bytes(file: &File) -> u64 {
    file.metadata().expect("an open file").blocks() * 512
}

fn is_mapped(path: &Path) -> bool {
    let maps = fs::read_to_string("/proc/self/maps").expect("/proc");
    maps.contains(path.to_str().expect("UTF-8"))
}

fn word(file: &File, offset: u64) -> u64 {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, offset).expect("long enough");
    u64::from_le_bytes(bytes)
}

fn anonymous() -> Outcome {
    let [seen] = cycle(open(Backend::Anonymous)?, || [rss()])?;
    seen.assert_given_back("Rss");
    Ok(())
}

fn prefaulted() -> Outcome {
    let options = RamOptions {
        prefault: true,
        ..Default::default()
    };
    let source = RamSource::open(options.clone(), SIZES)?;
    let [seen] = cycle(source, || [rss()])?;
    seen.assert_given_back("Rss");
    // All of it is there before the guest has run at all.
    let rig = Rig::new(Machine::new()?, RamSource::open(options, SIZES)?)?;
    let before = rss();
    rig.plug_all()?;
    assert!(rss() >= before + ALL);
    Ok(())
}

fn huge() -> Judged {
    let options = RamOptions {
        thp: ThpAdvice::Wanted,
        ..Default::default()
    };
    let source = match RamSource::open(options, SIZES) {
        Err(RamError::Refused(refusal)) => return Ok(left_out(required::THP, refusal)?),
        other => other?,
    };
    let measure = || [rss(), own("smaps_rollup", "AnonHugePages")];
    let [all, huge] = cycle_in(Machine::new()?, source, measure)?;
    all.assert_given_back("Rss");
    eprintln!("  AnonHugePages: {huge:?}");
    assert!(huge.touched > huge.before, "{huge:?}");
    Ok(Completion::Completed)
}

fn memfd() -> Outcome {
    let source = open(Backend::Memfd)?;
    let file = source.file().expect("its file").try_clone()?;
    let [seen, blocks] = cycle(source, || [rss(), disk_bytes(&file)])?;
    seen.assert_given_back("Rss");
    blocks.assert_given_back("st_blocks");
    Ok(())
}

fn shared_file() -> Outcome {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("guest-ram");
    let [seen] = cycle(open(Backend::File(path.clone()))?, || [rss()])?;
    seen.assert_given_back("Rss");
    assert!(!is_mapped(&path));
    let file = File::open(&path)?;
    for at in (0..ALL)
        .step_by(BLOCK as usize)
        .flat_map(|at| [at, at + BLOCK - 8])
    {
        assert_eq!(
            word(&file, at),
            START + at,
            "the file keeps what was written"
        );
    }
    // And the next guest finds it.
    let region = Rig::new(Machine::new()?, open(Backend::File(path))?)?;
    region.region.plug(5, BlockKind::Cooperative)?;
    let mut found = [0; 8];
    region.space.read(START + 5 * BLOCK + 8, &mut found, None)?;
    assert_eq!(u64::from_le_bytes(found), START + 5 * BLOCK + 8);
    Ok(())
}

fn discarded_file() -> Outcome {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("guest-ram");
    let options = RamOptions {
        backend: Backend::File(path.clone()),
        discard: true,
        ..Default::default()
    };
    let source = RamSource::open(options, SIZES)?;
    let file = File::open(&path)?;
    let measure = || {
        // Room on disk is allotted when a page is written back.
        file.sync_all().expect("it can be written");
        [rss(), disk_bytes(&file)]
    };
    let [seen, blocks] = cycle(source, measure)?;
    seen.assert_given_back("Rss");
    blocks.assert_given_back("st_blocks");
    assert!(!is_mapped(&path));
    assert_eq!([word(&file, 0), word(&file, ALL - 8)], [0, 0]);
    Ok(())
}

fn private_file() -> Outcome {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("guest-ram");
    File::create(&path)?.set_len(ALL)?;
    let file = File::options().read(true).write(true).open(&path)?;
    file.write_all_at(&77_u64.to_le_bytes(), ALL - 8)?;
    let [seen] = cycle(open(Backend::PrivateFile(path.clone()))?, || [rss()])?;
    seen.assert_given_back("Rss");
    assert!(!is_mapped(&path));
    assert_eq!([word(&file, 0), word(&file, ALL - 8)], [0, 77]);
    Ok(())
}

fn image() -> Judged {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("guest-ram");
    let file = File::create_new(&path)?;
    file.set_len(ALL)?;
    file.write_all_at(&77_u64.to_le_bytes(), ALL - 8)?;
    let source = match open(Backend::Image(path.clone())) {
        Err(RamError::Paging(error)) => return Ok(left_out(required::UFFD, error)?),
        other => other?,
    };
    let [seen] = cycle(source, || [rss()])?;
    seen.assert_given_back("Rss");
    // The next guest finds what is in the file, where no guest has written.
    let rig = Rig::new(Machine::new()?, open(Backend::Image(path))?)?;
    rig.region.plug(BLOCKS - 1, BlockKind::Cooperative)?;
    let mut found = [0; 8];
    rig.space.read(START + ALL - 8, &mut found, None)?;
    assert_eq!(u64::from_le_bytes(found), 77);
    Ok(Completion::Completed)
}

fn hugetlb() -> Judged {
    let _pool = match Pool::grow(BLOCKS.into()) {
        Ok(pool) => pool,
        Err(reason) => return Ok(left_out(required::HUGETLB, reason)?),
    };
    let source = open(Backend::Hugetlb(HugePage::Size2M))?;
    let total = pool("nr_hugepages");
    let measure = || {
        let taken = (total - pool("free_hugepages")) * BLOCK;
        [own("status", "HugetlbPages"), taken]
    };
    let [seen, taken] = cycle(source, measure)?;
    seen.assert_given_back("HugetlbPages");
    taken.assert_given_back("the pool's pages in use");
    assert_eq!(pool("resv_hugepages"), 0, "nothing stays promised");
    Ok(Completion::Completed)
}

/// Pages of a file that are in memory: KVM's own file has no other figure.
fn cached(file: &File) -> std::io::Result<u64> {
    const SYS_CACHESTAT: i64 = 451;
    let (range, mut found) = ([0_u64; 2], [0_u64; 5]);
    let (range, found_at) = (range.as_ptr(), found.as_mut_ptr());
    // SAFETY: the call reads two and fills in five words, which are there.
    match unsafe { libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), range, found_at, 0) } {
        0 => Ok(found[0] * 4096),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn guest_memfd() -> Judged {
    let machine = Machine::new()?;
    let options = RamOptions {
        backend: Backend::GuestMemfd,
        ..Default::default()
    };
    let vm = machine.vm.clone();
    let make = |len| match vm.create_guest_memfd(len) {
        Err(missing @ GuestMemfdError::Missing { .. }) => Err(Box::<dyn Error>::from(missing)),
        other => Ok(other.expect("KVM says that it can")),
    };
    let source = match RamSource::of_guest_memfd(options, SIZES, make) {
        Ok(source) => source,
        Err(missing) => return Ok(Completion::ignored_with(missing)),
    };
    let file = source.file().expect("its file").try_clone()?;
    if let Err(error) = cached(&file) {
        return Ok(Completion::ignored_with(format!("cachestat: {error}")));
    }
    let measure = || [cached(&file).expect("it worked before")];
    let [seen] = cycle_in(machine, source, measure)?;
    seen.assert_given_back("pages of the file");
    Ok(Completion::Completed)
}
