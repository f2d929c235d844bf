//! What a file says about itself, in JSON: at its beginning what was run and recorded,
//! at its end how that went.

use std::ops::{Index, IndexMut};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::record::{OnFull, Written};

/// The header's JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Meta {
    /// The version of Gracefault that wrote it.
    pub gracefault: String,
    /// When it began, seconds since 1970.
    pub started: f64,
    /// What a tick is: `tsc` or `ns`.
    pub clock: String,
    /// Where it was.
    pub host: Host,
    /// Names of the events that were recorded.
    pub events: Vec<String>,
    /// What was to be lost when there were too many.
    pub on_full: OnFull,
    /// The most bytes that the file was to have.
    pub size: u64,
    /// What was run.
    pub machine: Machine,
    /// What was mapped when it began.
    pub map: Vec<MappedAtStart>,
    /// What the words of a record mean.
    pub schema: Value,
}

/// The host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Host {
    /// The processor's architecture.
    pub arch: String,
    /// The process.
    pub pid: u32,
    /// Processors.
    pub cpus: usize,
}

/// The machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    /// vCPUs.
    pub vcpus: u32,
    /// The workload's name.
    pub workload: String,
    /// The seed of the plugging and unplugging.
    pub seed: u64,
    /// The image that was run; none for the built-in guest.
    pub kernel: Option<String>,
    /// Bytes of boot RAM.
    pub memory: u64,
    /// Where blocks come and go.
    pub hotplug: Option<Region>,
    /// The devices.
    pub devices: Vec<Device>,
}

/// Where blocks come and go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Region {
    /// The first address.
    pub start: u64,
    /// Bytes in a block.
    pub block: u64,
    /// How many blocks there are at most.
    pub blocks: u32,
}

/// A device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// `memory` or `ports`.
    pub space: String,
    /// Its first address.
    pub start: u64,
    /// Its last.
    pub last: u64,
}

/// A VMA that was there when the recording began.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MappedAtStart {
    /// `memory` or `ports`.
    pub space: String,
    /// What stands behind it: a device's name, `ram`, `rom`.
    pub name: String,
    /// Its first address.
    pub start: u64,
    /// Its last.
    pub last: u64,
    /// Its [`VmFlags`](crate::mm::VmFlags).
    pub flags: u32,
    /// Where in what it shows the first address is.
    pub offset: u64,
    /// The section that made it.
    pub generation: u64,
}

/// How the run ended; in the end block, whose presence says that all is there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Outcome {
    /// A word.
    pub verdict: String,
    /// The counts that were kept beside the trace, of each vCPU.
    pub vcpus: Vec<VcpuCounts>,
}

/// What was counted of one vCPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VcpuCounts {
    /// MMIO exits, second parts left out, as the VMM counted them.
    pub mmio_exits: u64,
    /// Second parts.
    pub mmio_fragments: u64,
    /// MMIO exits as KVM counted them.
    pub kvm_mmio_exits: Option<u64>,
    /// Accesses to devices as the VMM counted them.
    pub device_accesses: u64,
    /// Accesses to devices as the guest counted them.
    pub guest_device_accesses: Option<u64>,
}

/// What became of a thread's events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ThreadEnd {
    /// The thread's id.
    pub tid: u32,
    /// Its name.
    pub name: String,
    /// The vCPU that it ran.
    pub vcpu: Option<u32>,
    /// Events that were written to the file. (Where the file overwrites, they need
    /// not be there any more.)
    pub written: u64,
    /// Events that were lost in the thread's ring.
    pub lost: u64,
    /// Events for which the file had no room.
    pub not_written: u64,
}

impl ThreadEnd {
    pub(in super::super) fn new(tid: u32, name: String, vcpu: Option<u32>) -> Self {
        Self {
            tid,
            name,
            vcpu,
            ..Self::default()
        }
    }
}

/// The threads of a file, in the order in which they came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(in super::super) struct Threads(pub(super) Vec<ThreadEnd>);

impl Threads {
    pub(in super::super) fn written(&self) -> Written {
        let threads = self.0.iter();
        threads.fold(Written::default(), |sum, thread| Written {
            events: sum.events + thread.written,
            lost: sum.lost + thread.lost + thread.not_written,
        })
    }

    /// Adds one; its number.
    pub(in super::super) fn add(&mut self, thread: ThreadEnd) -> usize {
        self.0.push(thread);
        self.0.len() - 1
    }
}

impl Index<usize> for Threads {
    type Output = ThreadEnd;

    fn index(&self, thread: usize) -> &ThreadEnd {
        &self.0[thread]
    }
}

impl IndexMut<usize> for Threads {
    fn index_mut(&mut self, thread: usize) -> &mut ThreadEnd {
        &mut self.0[thread]
    }
}

/// The end block's JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct End {
    /// How the run ended; nothing if nobody said.
    pub(super) outcome: Option<Outcome>,
    pub(super) threads: Threads,
}
