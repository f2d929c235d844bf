//! The operations whose steps fail.
use std::io::sink;
use std::time::{Duration, Instant};

use gracefault::hotplug::{BlockKind, Consent, ResizeOptions, Resizer};
use gracefault::machine::{Machine, MachineConfig, MemoryConfig, StopRequest, Verdict};
use gracefault::memory::faults::Step;
use gracefault_guest::abi::Workload;

use crate::scene::{End, Scene, text};

pub(crate) const BLOCK: u64 = 4 << 20;

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
    /// A failure leaves the map as it was; not only some of its blocks.
    pub(crate) is_whole: bool,
    /// It plugs; a slot that cannot be undone stays with its block.
    pub(crate) is_plug: bool,
    /// It is about a machine of its own, which is gone afterwards.
    pub(crate) is_machine: bool,
}

const USUAL: Operation = Operation {
    name: "",
    plugged: &[],
    run: |_| Ok(End::Done),
    most: u64::MAX,
    undoing: &[],
    is_whole: true,
    is_plug: false,
    is_machine: false,
};

pub(crate) const OPERATIONS: &[Operation] = &[
    Operation {
        name: "boot",
        run: |_| launch(false),
        is_machine: true,
        ..USUAL
    },
    Operation {
        name: "boot and run",
        run: |_| launch(true),
        // Blocks come and go all the time.
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
        is_whole: false,
        ..USUAL
    },
    Operation {
        name: "resize to less",
        plugged: &[0, 1, 2],
        run: |scene| resize(scene, 1),
        undoing: &[Step::DiscardMemory],
        is_whole: false,
        ..USUAL
    },
];

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn launch(run: bool) -> Result<End, String> {
    let config = MachineConfig {
        memory: MemoryConfig {
            size: 8 << 20,
            hotplug_size: 16 << 20,
            block: BLOCK,
            ..MemoryConfig::default()
        },
        workload: Workload::Hotplug,
        duration: Duration::from_millis(30),
        timeout: Duration::from_secs(120),
        ..MachineConfig::default()
    };
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
    Ok(match report.unmap_error {
        Some(_) => End::Stands,
        None => End::Done,
    })
}

fn resize(scene: &Scene<'_>, to: u64) -> Result<End, String> {
    let options = ResizeOptions::default();
    let resize = scene.resizer.request(to * BLOCK, options);
    let report = resize.map_err(text)?.wait(soon()).map_err(text)?;
    Ok(match report.unmap_errors {
        0 => End::Done,
        _ => End::Stands,
    })
}
