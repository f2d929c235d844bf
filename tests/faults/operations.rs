//! The operations whose steps fail.
use std::fmt::Display;
use std::io::sink;
use std::os::fd::IntoRawFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use gracefault::hotplug::{BlockKind, Consent, ResizeOptions, Resizer};
use gracefault::kvm::guest_memfd::GuestMemfdError;
use gracefault::kvm::{Kvm, Vm};
use gracefault::machine::{Machine, MachineConfig, MemoryConfig, StopRequest, Verdict};
use gracefault::memory::faults::Step;
use gracefault::memory::{Backend, HugePage, RamOptions, RamSizes, RamSource, ThpAdvice};
use gracefault_guest::abi::Workload;

use crate::scene::{End, Scene, text};
use crate::support::pool::pool;
use crate::support::required::{self, left_out};

pub(crate) const BLOCK: u64 = 4 << 20;
/// Pages of the host's pool that are wanted: those of blocks whose addresses it is not
/// given back stay promised to them.
pub(crate) const POOL: u64 = 128;
/// Boot RAM of a whole machine.
pub(crate) const MACHINE: u64 = 64 << 20;

/// What is done.
pub(crate) struct Operation {
    pub(crate) name: &'static str,
    /// The blocks that are there beforehand.
    pub(crate) plugged: &'static [u32],
    pub(crate) run: fn(&Scene<'_>) -> Result<End, String>,
    /// So many times of each step are tried.
    pub(crate) most: u64,
    /// Steps that are done because another failed.
    pub(crate) undoing: &'static [Step],
    /// What is plugged after a failure: by how often the step that failed had passed
    /// before. Empty: what was, in any case.
    pub(crate) leaves: &'static [&'static [u32]],
    /// It plugs; a slot that cannot be undone stays with its block.
    pub(crate) is_plug: bool,
    /// Where the blocks' memory comes from.
    pub(crate) ram: fn() -> RamOptions,
    /// Whether their memslots go in at the first touch.
    pub(crate) lazy: bool,
    /// It is about a machine of its own, which is gone afterwards.
    pub(crate) is_machine: bool,
}

const USUAL: Operation = Operation {
    name: "",
    plugged: &[],
    run: |_| Ok(End::Done),
    most: u64::MAX,
    undoing: &[],
    leaves: &[],
    is_plug: false,
    ram: RamOptions::default,
    lazy: false,
    is_machine: false,
};

pub(crate) const OPERATIONS: &[Operation] = &[
    Operation {
        name: "boot",
        run: |_| launch(false, false),
        is_machine: true,
        ..USUAL
    },
    Operation {
        name: "boot from an image",
        run: |_| {
            let image = tempfile::NamedTempFile::new().map_err(text)?;
            let bytes = MACHINE + (16 << 20);
            image.as_file().set_len(bytes).map_err(text)?;
            match launch_from(Backend::Image(image.path().into())) {
                // Not everybody may have it.
                Err(error) if error.contains("needs userfaultfd") => Ok(End::Done),
                end => end,
            }
        },
        // Its pages are touched one after the other.
        most: 4,
        is_machine: true,
        ..USUAL
    },
    Operation {
        name: "boot from a file",
        run: |_| {
            let folder = tempfile::tempdir().map_err(text)?;
            launch_from(Backend::File(folder.path().join("ram")))
        },
        is_machine: true,
        ..USUAL
    },
    Operation {
        name: "boot from a guest_memfd",
        run: |_| match launch_from(Backend::GuestMemfd) {
            // Not everywhere.
            Err(error) if error.contains("needs KVM_CAP_GUEST_MEMFD_FLAGS") => Ok(End::Done),
            end => end,
        },
        is_machine: true,
        ..USUAL
    },
    Operation {
        name: "boot and run",
        run: |_| launch(true, false),
        // Blocks come and go all the time.
        most: 2,
        is_machine: true,
        ..USUAL
    },
    Operation {
        name: "boot and run, with lazy slots",
        run: |_| launch(true, true),
        most: 2,
        is_machine: true,
        ..USUAL
    },
    Operation {
        name: "plug",
        run: |scene| plug(scene, &[0]),
        undoing: &[Step::UnmapMemory],
        is_plug: true,
        ..USUAL
    },
    Operation {
        name: "plug of three at once",
        plugged: &[4],
        run: |scene| plug(scene, &[0, 3, 1]),
        undoing: &[Step::RemoveSlot, Step::UnmapMemory],
        is_plug: true,
        ..USUAL
    },
    Operation {
        name: "unplug, forced",
        plugged: &[0, 1],
        run: |scene| unplug(scene, Consent::Surprise),
        undoing: &[Step::DiscardMemory],
        ..USUAL
    },
    Operation {
        name: "unplug, agreed",
        plugged: &[0, 1],
        run: |scene| {
            let consent = Consent::Asked {
                deadline: soon(),
                cancelled: &|| false,
            };
            unplug(scene, consent)
        },
        undoing: &[Step::DiscardMemory],
        ..USUAL
    },
    Operation {
        name: "start of a resizer",
        plugged: &[2],
        run: |scene| {
            let resizer = Resizer::new(scene.blocks.region.clone());
            resizer.map(|_| End::Done).map_err(text)
        },
        ..USUAL
    },
    Operation {
        name: "resize to more",
        plugged: &[2],
        run: |scene| resize(scene, 3),
        // A resize goes block by block, the lowest first, and what is done is done.
        leaves: &[&[2], &[0, 2]],
        ..USUAL
    },
    Operation {
        name: "resize to less",
        plugged: &[0, 1, 2],
        run: |scene| resize(scene, 1),
        undoing: &[Step::DiscardMemory],
        // The highest first.
        leaves: &[&[0, 1, 2], &[0, 1]],
        ..USUAL
    },
    Operation {
        name: "plug in huge pages",
        run: |scene| plug(scene, &[0]),
        undoing: &[Step::UnmapMemory],
        is_plug: true,
        ram: huge,
        ..USUAL
    },
    Operation {
        name: "plug of two, memfd",
        plugged: &[2],
        run: |scene| plug(scene, &[0, 1]),
        undoing: &[Step::RemoveSlot, Step::UnmapMemory, Step::PunchHole],
        is_plug: true,
        ram: memfd,
        ..USUAL
    },
    Operation {
        name: "unplug, memfd",
        plugged: &[0, 1],
        run: |scene| {
            scene.write(&[7; 8])?;
            unplug(scene, Consent::Surprise)
        },
        undoing: &[Step::DiscardMemory],
        ram: memfd,
        ..USUAL
    },
    Operation {
        name: "plug of two, hugetlb",
        plugged: &[2],
        run: |scene| plug(scene, &[0, 1]),
        undoing: &[Step::RemoveSlot, Step::UnmapMemory],
        is_plug: true,
        ram: hugetlb,
        ..USUAL
    },
    Operation {
        name: "unplug, hugetlb",
        plugged: &[0, 1],
        run: |scene| {
            scene.write(&[7; 8])?;
            unplug(scene, Consent::Surprise)
        },
        undoing: &[Step::DiscardMemory],
        ram: hugetlb,
        ..USUAL
    },
    Operation {
        name: "plug of two, file",
        plugged: &[2],
        run: |scene| plug(scene, &[0, 1]),
        undoing: &[Step::RemoveSlot, Step::UnmapMemory],
        is_plug: true,
        ram: file,
        ..USUAL
    },
    Operation {
        name: "unplug, file",
        plugged: &[0, 1],
        run: |scene| {
            scene.write(&[7; 8])?;
            unplug(scene, Consent::Surprise)
        },
        undoing: &[Step::DiscardMemory],
        ram: file,
        ..USUAL
    },
    Operation {
        name: "plug of two, private file",
        plugged: &[2],
        run: |scene| plug(scene, &[0, 1]),
        undoing: &[Step::RemoveSlot, Step::UnmapMemory],
        is_plug: true,
        ram: private_file,
        ..USUAL
    },
    Operation {
        name: "unplug, private file",
        plugged: &[0, 1],
        run: |scene| {
            scene.write(&[7; 8])?;
            unplug(scene, Consent::Surprise)
        },
        undoing: &[Step::DiscardMemory],
        ram: private_file,
        ..USUAL
    },
    Operation {
        name: "plug of two, guest_memfd",
        plugged: &[2],
        run: |scene| plug(scene, &[0, 1]),
        undoing: &[Step::RemoveSlot, Step::UnmapMemory, Step::PunchHole],
        is_plug: true,
        ram: guest_memfd,
        ..USUAL
    },
    Operation {
        name: "unplug, guest_memfd",
        plugged: &[0, 1],
        run: |scene| {
            scene.write(&[7; 8])?;
            unplug(scene, Consent::Surprise)
        },
        undoing: &[Step::DiscardMemory],
        ram: guest_memfd,
        ..USUAL
    },
    Operation {
        name: "plug and touch, lazy",
        run: |scene| {
            let done = plug(scene, &[0])?;
            touch(scene).inspect_err(|_| scene.reset().expect("nothing fails any more"))?;
            Ok(done)
        },
        lazy: true,
        ..USUAL
    },
    Operation {
        name: "unplug, lazy",
        plugged: &[0, 1],
        run: |scene| {
            touch(scene)?;
            unplug(scene, Consent::Surprise)
        },
        undoing: &[Step::DiscardMemory],
        lazy: true,
        ..USUAL
    },
    Operation {
        name: "unplug of three",
        plugged: &[0, 1, 2, 3],
        run: |scene| unplug_three(scene),
        undoing: &[Step::AddSlot, Step::DiscardMemory],
        ..USUAL
    },
    Operation {
        name: "unplug of three, lazy",
        plugged: &[0, 1, 2, 3],
        run: |scene| {
            touch(scene)?;
            unplug_three(scene)
        },
        undoing: &[Step::DiscardMemory],
        lazy: true,
        ..USUAL
    },
    Operation {
        name: "plug of two, from an image",
        plugged: &[2],
        run: |scene| plug(scene, &[0, 1]),
        undoing: &[
            Step::RemoveSlot,
            Step::UnmapMemory,
            Step::UnwatchMemory,
            Step::ReplacePage,
            Step::WakeSleeper,
        ],
        is_plug: true,
        ram: image,
        ..USUAL
    },
    Operation {
        name: "unplug, from an image",
        plugged: &[0, 1],
        run: |scene| {
            scene.write(&[7; 8])?;
            unplug(scene, Consent::Surprise)
        },
        undoing: &[Step::DiscardMemory],
        ram: image,
        ..USUAL
    },
    Operation {
        name: "opening of a memfd",
        run: |_| open(memfd()),
        ..USUAL
    },
    Operation {
        name: "opening of a file",
        run: |_| {
            let folder = tempfile::tempdir().map_err(text)?;
            let options = RamOptions {
                backend: Backend::File(folder.path().join("ram")),
                discard: true,
                ..RamOptions::default()
            };
            open(options)
        },
        ..USUAL
    },
    Operation {
        name: "making of a guest_memfd",
        run: |scene| match scene.blocks.vm.create_guest_memfd(BLOCK) {
            // Not everywhere.
            Ok(_) | Err(GuestMemfdError::Missing { .. }) => Ok(End::Done),
            Err(error) => Err(error.to_string()),
        },
        ..USUAL
    },
];

/// In a file in memory, each page there beforehand.
fn memfd() -> RamOptions {
    RamOptions {
        backend: Backend::Memfd,
        prefault: true,
        ..RamOptions::default()
    }
}

/// Of the host's pool, where that has some pages to spare.
fn hugetlb() -> RamOptions {
    of(match pool("free_hugepages") >= POOL {
        true => Backend::Hugetlb(HugePage::Size2M),
        false => Backend::Anonymous,
    })
}

/// In a file that the user named, which is to become a hole.
fn file() -> RamOptions {
    RamOptions {
        discard: true,
        ..of(Backend::File(zeroes()))
    }
}

fn private_file() -> RamOptions {
    of(Backend::PrivateFile(zeroes()))
}

/// In a file of KVM's own, where it has such.
fn guest_memfd() -> RamOptions {
    let made = Vm::new(&Kvm::open().expect("KVM")).expect("a VM");
    of(match made.create_guest_memfd(4096) {
        Ok(_) => Backend::GuestMemfd,
        Err(_) => Backend::Memfd,
    })
}

/// From an image at first touch, where this process may have that.
pub(crate) fn image() -> RamOptions {
    match gives_pages() {
        true => of(Backend::Image(zeroes())),
        false => RamOptions::default(),
    }
}

fn of(backend: Backend) -> RamOptions {
    RamOptions {
        backend,
        ..RamOptions::default()
    }
}

/// A file for all blocks, there for as long as this process.
fn zeroes() -> PathBuf {
    let file = tempfile::tempfile().expect("a file");
    file.set_len(5 * BLOCK).expect("a sparse file");
    // Its name is the descriptor's.
    format!("/proc/self/fd/{}", file.into_raw_fd()).into()
}

/// In huge pages, where the host has them.
pub(crate) fn huge() -> RamOptions {
    let thp = match gives_huge_pages() {
        true => ThpAdvice::Wanted,
        false => ThpAdvice::HostDecides,
    };
    RamOptions {
        thp,
        ..RamOptions::default()
    }
}

pub(crate) fn gives_huge_pages() -> bool {
    let enabled = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    enabled.is_ok_and(|modes| !modes.contains("[never]"))
        || absent(required::THP, "no process gets them")
}

/// False: it is not here. Fails where the variable says that it is to be.
fn absent(variable: &str, reason: impl Display) -> bool {
    left_out(variable, reason).expect("what the tests need");
    false
}

/// Whether this process may have a userfaultfd that sees KVM's faults.
pub(crate) fn gives_pages() -> bool {
    let image = tempfile::NamedTempFile::new().and_then(|image| {
        image.as_file().set_len(BLOCK)?;
        Ok(image)
    });
    image.is_ok_and(|image| {
        let backend = Backend::Image(image.path().into());
        let options = RamOptions {
            backend,
            ..RamOptions::default()
        };
        let error = match open(options) {
            Ok(_) => return true,
            Err(error) => error,
        };
        assert!(error.contains("needs userfaultfd"), "{error}");
        absent(required::UFFD, error)
    })
}

fn open(options: RamOptions) -> Result<End, String> {
    let sizes = RamSizes {
        boot: 0,
        hotplug: BLOCK,
        block: BLOCK,
    };
    let opened = RamSource::open(options, sizes);
    opened.map(|_| End::Done).map_err(text)
}

/// As a vCPU that misses the slot of block 0 or 1.
fn touch(scene: &Scene<'_>) -> Result<(), String> {
    for block in scene.blocks.region.plugged() {
        let gpa = scene.blocks.region.block_range(block.0).start();
        scene.blocks.space.write(gpa, &[1], None).map_err(text)?;
    }
    Ok(())
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// What a machine of these tests is.
fn machine() -> MachineConfig {
    MachineConfig {
        memory: MemoryConfig {
            size: MACHINE,
            hotplug_size: 16 << 20,
            block: BLOCK,
            ..MemoryConfig::default()
        },
        workload: Workload::Hotplug,
        duration: Duration::from_millis(30),
        timeout: Duration::from_secs(120),
        ..MachineConfig::default()
    }
}

fn launch_from(backend: Backend) -> Result<End, String> {
    let mut config = machine();
    config.ram.backend = backend;
    let machine = Machine::new(config, Box::new(sink()));
    machine.map(|_| End::Done).map_err(text)
}

fn launch(run: bool, lazy: bool) -> Result<End, String> {
    let mut config = machine();
    config.memory.lazy = lazy;
    let machine = Machine::new(config, Box::new(sink())).map_err(text)?;
    if run {
        let report = machine.run(&StopRequest::new(), &mut |_| ());
        let report = report.map_err(text)?;
        if report.verdict != Verdict::Passed {
            return Err(report.findings.join("; "));
        }
    }
    Ok(End::Done)
}

fn plug(scene: &Scene<'_>, blocks: &[u32]) -> Result<End, String> {
    let plugged = scene.blocks.region.plug_all(blocks, BlockKind::Volatile);
    plugged.map(|_| End::Done).map_err(text)
}

fn unplug(scene: &Scene<'_>, consent: Consent<'_>) -> Result<End, String> {
    let report = scene.blocks.region.unplug(1, consent, None);
    let report = report.map_err(text)?;
    Ok(report
        .unmap_error
        .map_or(End::Done, |error| End::Stands(error.to_string())))
}

/// The last of them is the one that is touched.
fn unplug_three(scene: &Scene<'_>) -> Result<End, String> {
    let soon = Some(soon());
    let report = scene
        .blocks
        .region
        .unplug_all(&[3, 2, 1], Consent::Surprise, soon);
    let report = report.map_err(text)?;
    Ok(report
        .unmap_error
        .map_or(End::Done, |error| End::Stands(error.to_string())))
}

fn resize(scene: &Scene<'_>, to: u64) -> Result<End, String> {
    let options = ResizeOptions::default();
    let resize = scene.resizer.request(to * BLOCK, options);
    let report = resize.map_err(text)?.wait(soon()).map_err(text)?;
    Ok(match report.unmap_errors {
        0 => End::Done,
        _ => End::Stands(String::new()),
    })
}
