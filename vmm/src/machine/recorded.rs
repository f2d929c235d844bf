//! A machine whose run is recorded.

use std::fs::File;

use super::handle::Inner;
use super::report::{RunReport, TraceReport, Verdict};
use super::{Machine, MachineHandle, verdict};
use crate::clock;
use crate::memory::GuestSpace;
use crate::trace::event;
use crate::trace::file::{self, Meta, Outcome, VcpuCounts};
use crate::trace::record::{RecordError, RecordOptions, Recording};

impl Machine {
    /// Has the run recorded into `file`, which is empty: each exit of its vCPUs, and
    /// each write section of its map, as the options say. The run finishes the file;
    /// what became of it is in [`RunReport::trace`].
    ///
    /// # Errors
    /// See [`RecordError`]; also if it is being recorded already.
    pub fn record(&mut self, file: File, options: &RecordOptions) -> Result<(), RecordError> {
        self.inner.record(file, None, options)
    }

    /// A handle by which the machine is seen and steered from other threads, also while
    /// it runs. From the first on its write sections are watched.
    ///
    /// # Errors
    /// [`RecordError::Observed`] if somebody else observes its map.
    pub fn handle(&self) -> Result<MachineHandle, RecordError> {
        self.inner.watch()?;
        Ok(MachineHandle(self.inner.clone()))
    }
}

impl Inner {
    /// What the file says about itself.
    pub(super) fn meta(&self, options: &RecordOptions) -> Meta {
        let config = &self.config;
        let map: Vec<_> = [
            mapped(&self.shared.memory, "memory"),
            mapped(&self.shared.ports, "ports"),
        ]
        .concat();
        let is_device = |vma: &&file::MappedAtStart| !matches!(&*vma.name, "ram" | "rom");
        let devices = map.iter().filter(is_device).map(|vma| file::Device {
            name: vma.name.clone(),
            space: vma.space.clone(),
            start: vma.start,
            last: vma.last,
        });
        let since_1970 = std::time::UNIX_EPOCH.elapsed();
        let kernel = config.kernel.as_ref();
        Meta {
            gracefault: env!("CARGO_PKG_VERSION").to_owned(),
            started: since_1970.map_or(0.0, |time| time.as_secs_f64()),
            clock: if clock::is_counter() { "tsc" } else { "ns" }.to_owned(),
            host: file::Host {
                arch: std::env::consts::ARCH.to_owned(),
                pid: std::process::id(),
                cpus: std::thread::available_parallelism().map_or(0, usize::from),
            },
            events: options
                .events
                .names()
                .into_iter()
                .map(str::to_owned)
                .collect(),
            on_full: options.on_full,
            size: options.size,
            machine: file::Machine {
                vcpus: config.vcpus,
                workload: verdict::workload_name(config.workload).to_owned(),
                seed: config.seed,
                kernel: kernel.map(|path| path.display().to_string()),
                memory: config.memory.size,
                hotplug: Some(file::Region {
                    start: self.region.block_range(0).start(),
                    block: self.region.block_size(),
                    blocks: self.region.blocks(),
                }),
                devices: devices.collect(),
            },
            map,
            schema: serde_json::from_str(event::SCHEMA).expect("tested"),
        }
    }
}

/// What is mapped in a space, by name.
fn mapped(space: &GuestSpace, name: &str) -> Vec<file::MappedAtStart> {
    let map = space
        .mm()
        .mmap_read_lock()
        .expect("no section of this thread's");
    let vmas = map.iter();
    vmas.map(|vma| file::MappedAtStart {
        space: name.to_owned(),
        name: vma.payload().name().to_owned(),
        start: vma.range().start(),
        last: vma.range().last(),
        flags: vma.flags().bits(),
        offset: vma.offset(),
        generation: vma.generation(),
    })
    .collect()
}

/// Ends a recording with how the run ended, and says what became of it.
pub(super) fn finish(recording: Recording, report: &RunReport) -> TraceReport {
    let sum = |counts: &std::collections::BTreeMap<&str, u64>| counts.values().sum();
    let vcpus = report.vcpus.iter().map(|vcpu| VcpuCounts {
        mmio_exits: vcpu.mmio_exits,
        mmio_fragments: vcpu.mmio_fragments,
        kvm_mmio_exits: vcpu.kvm_mmio_exits,
        device_accesses: sum(&vcpu.device_accesses),
        guest_device_accesses: vcpu.guest_device_accesses.as_ref().map(sum),
    });
    let verdict = match report.verdict {
        Verdict::Passed => "passed",
        Verdict::Stopped => "stopped",
        Verdict::Failed => "failed",
    };
    let outcome = Outcome {
        verdict: verdict.to_owned(),
        vcpus: vcpus.collect(),
    };
    let (written, error) = recording.finish(outcome);
    TraceReport {
        events: written.events,
        lost: written.lost,
        error: error.map(|error| error.to_string()),
    }
}
