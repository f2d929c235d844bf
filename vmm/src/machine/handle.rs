//! A machine, seen and steered from other threads while it runs.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::exit_path::Shared;
use super::gate::Pause;
use super::guest_pages::GuestPages;
use super::monitor::Monitor;
use super::recorder::Recorder;
use super::report::GuestReport;
use super::{MachineConfig, verdict};
use crate::devices::{DmaCounts, DmaDevice};
use crate::hotplug::HotplugRegion;
use crate::memory::GuestSpace;
use crate::trace::LiveVcpu;

/// How far a machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No vCPU has run.
    Created,
    /// The vCPUs run, but for a [pause](MachineHandle::pause).
    Running,
    /// The guest has been asked to end, or the machine is being stopped.
    Ending,
    /// No vCPU runs any more.
    Ended,
}

/// Why a machine is not paused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PauseError {
    /// It does not run.
    #[error("a machine is paused while it runs; this one is {0:?}")]
    NotRunning(Phase),
    /// Somebody has resumed it meanwhile.
    #[error("the machine was resumed, or has ended, before every vCPU was at rest")]
    Resumed,
    /// Some vCPU did not come to rest in time; the machine runs on.
    #[error("vCPUs {vcpus:?} did not come to rest within {after:?}, so the machine runs on")]
    TimedOut {
        /// Which.
        vcpus: Vec<u32>,
        /// How long was waited.
        after: Duration,
    },
}

/// A device, and where it is.
#[derive(Clone, Debug)]
pub(super) struct DeviceAt {
    pub(super) is_port: bool,
    pub(super) start: u64,
    pub(super) len: u64,
    pub(super) name: String,
}

/// A machine, seen and steered from other threads: before, while and after it runs. It
/// keeps the guest's memory until it is dropped.
#[derive(Clone, Debug)]
pub struct MachineHandle(pub(super) Arc<Inner>);

/// What the handles of a machine share.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) config: MachineConfig,
    pub(super) shared: Arc<Shared>,
    pub(super) region: Arc<HotplugRegion>,
    pub(super) dma: Arc<DmaDevice>,
    pub(super) pages: GuestPages,
    pub(super) devices: Vec<DeviceAt>,
    /// Guest addresses and numbers of boot RAM's memslots.
    pub(super) boot_slots: Vec<(u64, u32)>,
    /// Set: the guest is to end, as when its time is over.
    pub(super) finish: Arc<AtomicBool>,
    phase: AtomicU8,
    started: OnceLock<Instant>,
    pub(super) monitor: Arc<Monitor>,
    pub(super) ports_monitor: Arc<Monitor>,
    /// Whether the two watch. Held while they are being set.
    pub(super) watched: Mutex<bool>,
    /// Held for a look or a change only.
    pub(super) recorder: Mutex<Recorder>,
    /// Held while a recording is being started or stopped.
    pub(super) recording_changes: Mutex<()>,
}

const PHASES: [Phase; 4] = [Phase::Created, Phase::Running, Phase::Ending, Phase::Ended];

impl Inner {
    pub(super) fn new(
        config: MachineConfig,
        shared: Arc<Shared>,
        region: Arc<HotplugRegion>,
        dma: Arc<DmaDevice>,
        pages: GuestPages,
        devices: Vec<DeviceAt>,
        boot_slots: Vec<(u64, u32)>,
    ) -> Arc<Self> {
        Arc::new(Self {
            config,
            shared,
            region,
            dma,
            pages,
            devices,
            boot_slots,
            finish: Arc::default(),
            phase: AtomicU8::new(0),
            started: OnceLock::new(),
            monitor: Arc::default(),
            ports_monitor: Arc::default(),
            watched: Mutex::new(false),
            recorder: Mutex::default(),
            recording_changes: Mutex::default(),
        })
    }

    pub(super) fn phase(&self) -> Phase {
        PHASES[usize::from(self.phase.load(Ordering::Relaxed)).min(3)]
    }

    /// It is so far now; it never goes back.
    pub(super) fn enters(&self, phase: Phase) {
        if phase == Phase::Running {
            self.started.get_or_init(Instant::now);
        }
        self.phase.fetch_max(phase as u8, Ordering::Relaxed);
        if phase > Phase::Running {
            // A guest that rests cannot end.
            self.shared.gate.end();
        }
    }

    pub(super) fn recorder(&self) -> MutexGuard<'_, Recorder> {
        // What a panic leaves half done is a recording that is given up.
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PartialOrd for Phase {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some((*self as u8).cmp(&(*other as u8)))
    }
}

impl MachineHandle {
    /// What it was made of.
    pub fn config(&self) -> &MachineConfig {
        &self.0.config
    }

    /// How far it is.
    pub fn phase(&self) -> Phase {
        self.0.phase()
    }

    /// How far a pause is.
    pub fn pause_state(&self) -> Pause {
        self.0.shared.gate.pause()
    }

    /// Since the start of its vCPUs; 0 before.
    pub fn uptime(&self) -> Duration {
        let started = self.0.started.get();
        started.map_or(Duration::ZERO, Instant::elapsed)
    }

    /// Gets every vCPU out of the guest, and none stays in an exit or holds anything.
    /// Blocks until that is so, `patience` at most. Blocks may be plugged and unplugged
    /// meanwhile, though a guest that rests gives none back. The time does not count for
    /// the run's duration and timeout.
    ///
    /// # Errors
    /// See [`PauseError`]; the machine runs on then.
    pub fn pause(&self, patience: Duration) -> Result<(), PauseError> {
        let Inner { shared, .. } = &*self.0;
        match self.phase() {
            Phase::Running => {}
            phase => return Err(PauseError::NotRunning(phase)),
        }
        let deadline = Instant::now().checked_add(patience);
        shared.gate.shut();
        // Who waits for the guest looks whether to go on.
        shared.controller.wake();
        match shared.gate.wait_or_open(deadline) {
            Pause::Complete => Ok(()),
            Pause::None => Err(PauseError::Resumed),
            Pause::Underway => {
                let rests = |live: &LiveVcpu| {
                    use crate::trace::live::Doing;
                    matches!(live.now().doing, Doing::Paused | Doing::Ended)
                };
                let vcpus = (0..).zip(&shared.live);
                let restless = vcpus.filter(|(_, live)| !rests(live)).map(|(id, _)| id);
                let vcpus = restless.collect();
                Err(PauseError::TimedOut {
                    vcpus,
                    after: patience,
                })
            }
        }
    }

    /// Lets the vCPUs run on.
    pub fn resume(&self) {
        self.0.shared.gate.open();
    }

    /// Asks the guest to end, as when the run's duration is over, and resumes it if it is
    /// paused. Does not wait for it.
    pub fn finish(&self) {
        self.0.finish.store(true, Ordering::Relaxed);
        self.0.shared.gate.open();
    }

    /// What each vCPU counts, in order.
    pub fn vcpus(&self) -> &[Arc<LiveVcpu>] {
        &self.0.shared.live
    }

    /// The guest's memory and devices.
    pub fn memory(&self) -> &Arc<GuestSpace> {
        &self.0.shared.memory
    }

    /// Where blocks are plugged and unplugged.
    pub fn hotplug(&self) -> &Arc<HotplugRegion> {
        &self.0.region
    }

    /// The write sections of the guest's memory.
    pub fn sections(&self) -> &Monitor {
        &self.0.monitor
    }

    /// What the DMA device has done.
    pub fn dma(&self) -> DmaCounts {
        self.0.dma.counts()
    }

    /// What the guest says of itself, all vCPUs together.
    pub fn guest(&self) -> GuestReport {
        let mut sum = GuestReport::default();
        for vcpu in 0..self.0.config.vcpus {
            verdict::add_guest(&mut sum, &self.0.pages.report(vcpu));
        }
        sum
    }

    /// The workload's name.
    pub fn workload(&self) -> &'static str {
        verdict::workload_name(self.0.config.workload)
    }

    /// The name of the device at a port or guest address.
    pub fn device_at(&self, is_port: bool, addr: u64) -> Option<&str> {
        let mut devices = self.0.devices.iter();
        let there = devices.find(|device| {
            device.is_port == is_port && (device.start..device.start + device.len).contains(&addr)
        });
        there.map(|device| &*device.name)
    }

    /// Each memslot that is in KVM and nobody is at: its guest address, and its number.
    pub fn slots(&self) -> Vec<(u64, u32)> {
        let region = &self.0.region;
        let blocks = region.slots().into_iter();
        let blocks =
            blocks.filter_map(|(block, slot)| Some((region.block_range(block).start(), slot?)));
        self.0.boot_slots.iter().copied().chain(blocks).collect()
    }
}
