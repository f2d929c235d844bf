//! What a run has to show: one object, printed as tables or as JSON. The JSON is
//! documented in `docs/run.md`.

use std::collections::BTreeMap;

use serde::Serialize;

use super::MemoryConfig;
use crate::devices::{ConsoleReport, DmaCounts};
use crate::hotplug::OpSummary;
use crate::mm::AddrRange;
use crate::trace::{ExitKind, Summary, Times};

/// How a run ended, whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every vCPU ended as it should, and all checks that could be made hold.
    Passed,
    /// Stopped from outside; the checks that could still be made hold.
    Stopped,
    /// Something is wrong: see [`RunReport::findings`].
    Failed,
}

/// All that is known about a run.
#[derive(Clone, Debug, Serialize)]
pub struct RunReport {
    /// The verdict.
    pub verdict: Verdict,
    /// What is wrong, one sentence each. Empty unless the verdict is `Failed`.
    pub findings: Vec<String>,
    /// Guest-physical addresses that they are about, as far as they are about any.
    #[serde(skip)]
    pub concerned: Vec<AddrRange>,
    /// What could not be checked, and why.
    pub unchecked: Vec<String>,
    /// From the start of the vCPUs to the end of the last, in seconds.
    pub seconds: f64,
    /// The workload's name.
    pub workload: &'static str,
    /// The seed of the plugging and unplugging.
    pub seed: u64,
    /// The guest's memory.
    pub memory: MemoryConfig,
    /// Where it came from, as `--memory backing=` has it, without a path.
    pub backing: &'static str,
    /// Each vCPU, in order.
    pub vcpus: Vec<VcpuReport>,
    /// Exits by kind and who answered, the most frequent first.
    pub exits_by_target: Vec<ExitGroup>,
    /// Exits by kind and address, the most frequent first.
    pub exits: Vec<ExitRow>,
    /// How the lookups of all exits went.
    pub lookups: LookupReport,
    /// Accesses that nothing, or no device, took.
    pub refused: RefusedReport,
    /// Memslots that went in because an access had missed them (`lazy=on`).
    pub lazy_slots: u64,
    /// What the DMA device did.
    pub dma: DmaCounts,
    /// How the guest's console fared.
    pub console: ConsoleReport,
    /// Plugs and unplugs; `None` if none were to be made.
    pub hotplug: Option<HotplugReport>,
    /// What was recorded of it; `None` if nothing was to be.
    pub trace: Option<TraceReport>,
    /// The guest's own figures, all vCPUs together; `None` if no vCPU of it told.
    pub guest: Option<GuestReport>,
}

/// One vCPU.
#[derive(Clone, Debug, Serialize)]
pub struct VcpuReport {
    /// How it ended, as a sentence.
    pub end: String,
    /// Where it was, as far as KVM tells.
    pub rip: Option<u64>,
    /// MMIO exits as we count them, second fragments left out.
    pub mmio_exits: u64,
    /// Second fragments of an access that KVM split.
    pub mmio_fragments: u64,
    /// MMIO exits as KVM counts them; `None` if it does not.
    pub kvm_mmio_exits: Option<u64>,
    /// Accesses to each device, as we count them.
    pub device_accesses: BTreeMap<&'static str, u64>,
    /// Accesses to each device, as the guest counted them; `None` if it did not
    /// say.
    pub guest_device_accesses: Option<BTreeMap<&'static str, u64>>,
}

/// All exits of a kind that one device, or memory, or nobody answered.
#[derive(Clone, Debug, Serialize)]
pub struct ExitGroup {
    /// The kind.
    pub kind: ExitKind,
    /// Who answered, as in [`ExitRow::target`].
    pub target: String,
    /// How many different addresses.
    pub addresses: usize,
    /// Its share of all exits, from 0 to 1.
    pub share: f64,
    /// The figures.
    #[serde(flatten)]
    pub times: Summary,
}

/// A row of the exit table. Times are from `KVM_RUN` returning to its next call.
#[derive(Clone, Debug, Serialize)]
pub struct ExitRow {
    /// Address or port, and direction.
    pub key: String,
    /// Who answered: a device's name, `ram`, `unmapped`.
    pub target: String,
    /// Its share of all exits, from 0 to 1.
    pub share: f64,
    /// The figures.
    #[serde(flatten)]
    pub times: Summary,
}

/// How lookups went.
#[derive(Clone, Debug, Serialize)]
pub struct LookupReport {
    /// Had their answer at once.
    pub fast: u64,
    /// Slept for the end of a write section: how often, and how long.
    pub waited: Summary,
    /// The same in full.
    #[serde(skip)]
    pub waits: Times,
    /// Found nothing mapped.
    pub none: u64,
}

/// Accesses that nothing, or no device, took.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct RefusedReport {
    /// Found nothing mapped: read as all ones, or were dropped.
    pub unmapped: u64,
    /// Writes to ROM, dropped.
    pub rom_writes: u64,
    /// A device refused, failed or panicked: all ones, or dropped.
    pub device_failures: u64,
}

/// Plugs and unplugs.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct HotplugReport {
    /// Plugs.
    pub plug: OpSummary,
    /// Unplugs that the guest agreed to.
    pub unplug: OpSummary,
    /// Unplugs that it was not asked for.
    pub surprise_unplug: OpSummary,
    /// Readers that had to be waited for.
    pub drained_readers: u64,
    /// Unplugs after which the host kept the addresses (not the memory).
    pub unmap_errors: u64,
}

/// What was recorded.
#[derive(Clone, Debug, Serialize)]
pub struct TraceReport {
    /// Events that the file has, or had before it overwrote them.
    pub events: u64,
    /// Events that were lost for want of room, in a ring or in the file.
    pub lost: u64,
    /// If the file could not be written.
    pub error: Option<String>,
}

/// What the guest says.
#[derive(Clone, Debug, Default, Serialize)]
pub struct GuestReport {
    /// vCPUs that reported to the end.
    pub reported: u32,
    /// Rounds of the workload.
    pub rounds: u64,
    /// Bytes written with patterns.
    pub bytes_written: u64,
    /// Bytes read back and compared.
    pub bytes_verified: u64,
    /// Blocks taken into use.
    pub blocks_taken: u64,
    /// Blocks given back.
    pub blocks_released: u64,
    /// Reads of a volatile block that was there.
    pub volatile_reads: u64,
    /// Reads of a volatile block that was gone.
    pub absent_reads: u64,
    /// Values that were not what they had to be.
    pub mismatches: u64,
}
