//! The VM as a whole.

use serde::{Deserialize, Serialize};

use super::{Counters, Exits, MapEntry, Sections, VcpuInfo, Wait};

/// `GET /vmm.ping`: who answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ping {
    /// Its version.
    pub version: String,
    /// Its process.
    pub pid: u32,
}

/// How far the VM is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VmState {
    /// No vCPU has run yet.
    Created,
    /// The vCPUs run.
    Running,
    /// A pause is under way: some vCPU has not come to rest yet.
    Pausing,
    /// Every vCPU is out of the guest, and holds nothing.
    Paused,
    /// It is being ended.
    Ending,
    /// No vCPU runs any more.
    Ended,
}

/// What the socket belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// `gracefault run`.
    Run,
    /// `gracefault stress`: its writers are the ones that plug and unplug.
    Stress,
}

/// `GET /vm.info`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VmInfo {
    /// What the socket belongs to.
    pub kind: Kind,
    /// How far the VM is.
    pub state: VmState,
    /// Since its vCPUs were started; the time in which it was paused included.
    pub uptime_ns: u64,
    /// The process.
    pub pid: u32,
    /// The version of Gracefault.
    pub version: String,
    /// How many vCPUs there are; 0 in a storm without KVM.
    pub vcpus: u32,
    /// What the guest does, or the preset of the storm.
    pub workload: String,
    /// Whether a thread of the run's own plugs and unplugs blocks.
    pub churn: bool,
    /// Its memory; all 0 in a storm without KVM.
    pub memory: MemoryInfo,
    /// Whether each exit is being recorded.
    pub tracing: bool,
    /// Events that recordings have lost so far.
    pub events_lost: u64,
}

/// The guest's memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryInfo {
    /// RAM that is there from the start.
    pub boot: u64,
    /// A block: what is plugged and unplugged at once.
    pub block_size: u64,
    /// The first guest address of what can be plugged.
    pub start: u64,
    /// The most that can be plugged.
    pub total: u64,
    /// What was asked for by the last resize; 0 before.
    pub requested: u64,
    /// What is plugged.
    pub plugged: u64,
}

/// `GET /vm.live`: all that a live view shows, in one answer. The parts are from
/// slightly different moments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Live {
    /// When it was put together, on a clock of the VM's that does not go back: what to
    /// divide differences by.
    pub now_ns: u64,
    /// As `GET /vm.info`.
    pub info: VmInfo,
    /// As `GET /vm.vcpus`.
    pub vcpus: Vec<VcpuInfo>,
    /// As `GET /vm.exits`.
    pub exits: Exits,
    /// As `GET /vm.waits`.
    pub waits: Vec<Wait>,
    /// As `GET /vm.sections`.
    pub sections: Sections,
    /// As `GET /vm.counters`.
    pub counters: Counters,
    /// As `GET /vm.map`.
    pub map: Vec<MapEntry>,
}
