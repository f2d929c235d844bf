//! A machine at the socket.

mod exits;
mod hotplug;
mod map;
pub(super) mod metrics;
mod names;
mod recording;
mod sections;

use std::collections::BTreeMap;
use std::fs::File;
use std::time::{Duration, Instant};

use self::hotplug::Hotplug;
use super::Cancel;
use super::figures::Sum;
use super::model::{
    Counters, Doing, ErrorCode, ExitKind, Exits, Failure, Kind, MapEntry, MemoryInfo, PlugReport,
    PlugRequest, ResizeRequest, ResizeStatus, Sections, TraceRequest, TraceStatus, UnplugReport,
    UnplugRequest, VcpuInfo, VmInfo, VmState, Wait,
};
use super::vm::Vm;
use crate::clock::{self, Rate};
use crate::machine::{MachineHandle, Pause, PauseError, Phase, RecordingState};
use crate::trace;
use crate::trace::live;

/// How long vCPUs may take to come to rest.
const PAUSE: Duration = Duration::from_secs(10);

/// A machine, as the socket has it.
#[derive(Debug)]
pub struct MachineVm {
    machine: MachineHandle,
    kind: Kind,
    workload: String,
    hotplug: Hotplug,
    rate: Rate,
    start: Instant,
    /// The storm beside it.
    storm: Option<Storm>,
}

/// A storm beside a machine.
struct Storm {
    counters: Box<dyn Fn() -> BTreeMap<String, u64> + Send + Sync>,
    end: Box<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for Storm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Storm").finish_non_exhaustive()
    }
}

impl MachineVm {
    /// The one that `machine` is a handle of, of a `gracefault run`.
    pub fn new(machine: MachineHandle) -> Self {
        let workload = machine.workload().to_owned();
        Self::of(machine, Kind::Run, workload)
    }

    /// One beside which a storm rages: its writers plug and unplug, and others cannot.
    /// `counters` tells how far it is, and `end` ends it.
    pub fn of_a_storm(
        machine: MachineHandle,
        preset: String,
        counters: impl Fn() -> BTreeMap<String, u64> + Send + Sync + 'static,
        end: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let storm = Storm {
            counters: Box::new(counters),
            end: Box::new(end),
        };
        Self {
            storm: Some(storm),
            ..Self::of(machine, Kind::Stress, preset)
        }
    }

    fn of(machine: MachineHandle, kind: Kind, workload: String) -> Self {
        Self {
            hotplug: Hotplug::new(machine.clone(), kind),
            machine,
            kind,
            workload,
            rate: Rate::of_this_machine(),
            start: Instant::now(),
            storm: None,
        }
    }

    fn state(&self) -> VmState {
        match (self.machine.phase(), self.machine.pause_state()) {
            (Phase::Created, _) => VmState::Created,
            (Phase::Ending, _) => VmState::Ending,
            (Phase::Ended, _) => VmState::Ended,
            (Phase::Running, Pause::None) => VmState::Running,
            (Phase::Running, Pause::Underway) => VmState::Pausing,
            (Phase::Running, Pause::Complete) => VmState::Paused,
        }
    }

    /// From ticks to now, in nanoseconds.
    fn ago(&self, ticks: u64) -> u64 {
        self.rate.ns(clock::ticks().saturating_sub(ticks))
    }
}

impl Vm for MachineVm {
    fn info(&self) -> VmInfo {
        let (config, region) = (self.machine.config(), self.machine.hotplug());
        let size = self.hotplug.size();
        VmInfo {
            kind: self.kind,
            state: self.state(),
            uptime_ns: self.machine.uptime().as_nanos() as u64,
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            vcpus: config.vcpus,
            workload: self.workload.clone(),
            churn: config.churn,
            memory: MemoryInfo {
                boot: config.memory.size,
                block_size: region.block_size(),
                start: region.block_range(0).start(),
                total: size.total,
                requested: size.requested,
                plugged: size.plugged,
            },
            tracing: matches!(self.machine.recording(), RecordingState::Recording { .. }),
            events_lost: self.machine.events_lost(),
        }
    }

    fn vcpus(&self) -> Vec<VcpuInfo> {
        let waits = self.waits();
        let vcpus = (0..).zip(self.machine.vcpus());
        vcpus
            .map(|(index, live)| self.vcpu(index, live, &waits))
            .collect()
    }

    fn exits(&self, limit: usize) -> Exits {
        self.exit_rows(limit)
    }

    fn waits(&self) -> Vec<Wait> {
        self.all_waits()
    }

    fn sections(&self) -> Sections {
        self.all_sections()
    }

    fn map(&self, from: u64, limit: usize) -> Vec<MapEntry> {
        self.map_entries(from, limit)
    }

    fn counters(&self) -> Counters {
        self.all_counters()
    }

    fn metrics(&self) -> String {
        self.openmetrics()
    }

    fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn shutdown(&self) {
        match &self.storm {
            Some(storm) => (storm.end)(),
            None => self.machine.finish(),
        }
    }

    fn pause(&self) -> Result<(), Failure> {
        self.machine.pause(PAUSE).map_err(|error| {
            let code = match error {
                PauseError::TimedOut { .. } => ErrorCode::NotReleased,
                _ => ErrorCode::Conflict,
            };
            Failure::new(code, error.to_string())
        })
    }

    fn resume(&self) -> Result<(), Failure> {
        match self.machine.phase() {
            Phase::Running => {
                self.machine.resume();
                Ok(())
            }
            _ => Err(self.not_running()),
        }
    }

    fn resize_status(&self) -> Result<ResizeStatus, Failure> {
        Ok(self.hotplug.status())
    }

    fn resize(&self, request: &ResizeRequest, cancel: &Cancel) -> Result<ResizeStatus, Failure> {
        self.hotplug.resize(request, cancel)
    }

    fn plug(&self, request: &PlugRequest, cancel: &Cancel) -> Result<PlugReport, Failure> {
        self.hotplug.plug(request, cancel)
    }

    fn unplug(&self, request: &UnplugRequest, cancel: &Cancel) -> Result<UnplugReport, Failure> {
        self.hotplug.unplug(request, cancel)
    }

    fn trace_status(&self) -> TraceStatus {
        self.recording()
    }

    fn trace_start(&self, request: &TraceRequest) -> Result<TraceStatus, Failure> {
        self.start_recording(request)
    }

    fn trace_stop(&self) -> Result<TraceStatus, Failure> {
        self.stop_recording()
    }

    fn trace_data(&self) -> Result<File, Failure> {
        self.recorded()
    }

    fn wake(&self) {
        self.hotplug.wake();
    }
}

impl MachineVm {
    fn not_running(&self) -> Failure {
        let state = match self.machine.phase() {
            Phase::Created => "not started yet",
            _ => "ending, or has ended",
        };
        Failure::conflict(format!("the VM is {state}"))
    }

    fn vcpu(&self, index: u32, live: &trace::LiveVcpu, waits: &[Wait]) -> VcpuInfo {
        // Before the look: what is in the guest then may be out of it a moment later, and
        // its time there must not be said to be longer than it was.
        let at = clock::ticks();
        let now = live.now();
        let (mut doing, mut kind, mut addr) = (doing(now.doing), None, None);
        if let live::Doing::Exit(of, at) = now.doing {
            kind = Some(exit_kind(of));
            let has_addr = !matches!(of, trace::ExitKind::Halt | trace::ExitKind::Interrupted);
            addr = has_addr.then_some(at);
        }
        let wait = waits.iter().find(|wait| wait.vcpu == Some(index));
        // A wait that was over when the vCPU was looked at is none any more.
        let wait = wait.filter(|_| doing == Doing::Exit);
        if wait.is_some() {
            doing = Doing::Wait;
        }
        let since_ns = match now.since {
            0 => 0,
            since => self.ago(since),
        };
        let present = match now.doing {
            live::Doing::Guest => self.rate.ns(at.saturating_sub(now.since)),
            _ => 0,
        };
        VcpuInfo {
            index,
            tid: live.tid(),
            doing,
            since_ns,
            kind,
            addr,
            section: wait.map(|wait| wait.section),
            writer: wait.and_then(|wait| wait.writer.clone()),
            guest_ns: self.rate.ns(now.guest) + present,
            exits: Sum::of(live.exits().map(|(_, times)| times)).histogram(),
            waits: Sum::of([live.waits()]).histogram(),
        }
    }

    fn all_counters(&self) -> Counters {
        let mut counters = super::of_map::counters(self.machine.memory().mm());
        let mut group = |name: &str, counts: &[(&str, u64)]| {
            let counts = counts
                .iter()
                .map(|(name, count)| ((*name).to_owned(), *count));
            counters.insert(name.to_owned(), counts.collect());
        };
        let mut all = trace::VcpuTrace::default();
        let mut exits = 0;
        for live in self.machine.vcpus() {
            exits += live.exits().map(|(_, times)| times.count()).sum::<u64>();
            all.add(&live.counts());
        }
        let waits = self.machine.vcpus().iter().map(|live| live.waits().count());
        group(
            "exits",
            &[
                ("all", exits),
                ("mmio", all.mmio_exits),
                ("mmio_fragments", all.mmio_fragments),
                ("unmapped", all.unmapped),
                ("unmapped_reads", all.unmapped_reads),
                ("rom_writes", all.rom_writes),
                ("device_failures", all.device_failures),
                ("lazy_slots", all.lazy_slots),
                ("lookups_fast", all.lookups_fast),
                ("lookups_none", all.lookups_none),
                ("lookups_waited", waits.sum()),
            ],
        );
        let dma = self.machine.dma();
        group(
            "dma",
            &[
                ("complete", dma.complete),
                ("incomplete", dma.incomplete),
                ("nested", dma.nested),
                ("waited", dma.waited),
            ],
        );
        let guest = self.machine.guest();
        group(
            "guest",
            &[
                ("rounds", guest.rounds),
                ("bytes_written", guest.bytes_written),
                ("bytes_verified", guest.bytes_verified),
                ("blocks_taken", guest.blocks_taken),
                ("blocks_released", guest.blocks_released),
                ("volatile_reads", guest.volatile_reads),
                ("absent_reads", guest.absent_reads),
                ("mismatches", guest.mismatches),
            ],
        );
        group("hotplug", &self.hotplug.counters());
        group("trace", &[("events_lost", self.machine.events_lost())]);
        if let Some(storm) = &self.storm {
            counters.insert("stress".to_owned(), (storm.counters)());
        }
        counters
    }
}

fn doing(doing: live::Doing) -> Doing {
    match doing {
        live::Doing::Starting => Doing::Starting,
        live::Doing::Guest => Doing::Guest,
        live::Doing::Exit(..) => Doing::Exit,
        live::Doing::Paused => Doing::Paused,
        live::Doing::Ended => Doing::Ended,
    }
}

fn exit_kind(kind: trace::ExitKind) -> ExitKind {
    match kind {
        trace::ExitKind::MmioRead => ExitKind::MmioRead,
        trace::ExitKind::MmioWrite => ExitKind::MmioWrite,
        trace::ExitKind::PioIn => ExitKind::PioIn,
        trace::ExitKind::PioOut => ExitKind::PioOut,
        trace::ExitKind::Halt => ExitKind::Halt,
        trace::ExitKind::Interrupted => ExitKind::Interrupted,
    }
}
