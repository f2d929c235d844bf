//! The vCPUs.

use serde::{Deserialize, Serialize};

use super::{Histogram, Thread};

/// The kind of an exit, in the words of traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitKind {
    /// A load that no memslot served.
    MmioRead,
    /// A store that no memslot took.
    MmioWrite,
    /// An `in`.
    PioIn,
    /// An `out`.
    PioOut,
    /// A `hlt`.
    Halt,
    /// A signal; nothing that the guest did.
    Interrupted,
}

/// What a vCPU's thread is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Doing {
    /// It has not run yet.
    Starting,
    /// It is in `KVM_RUN`.
    Guest,
    /// It answers an exit.
    Exit,
    /// It answers an exit, and sleeps for the end of a write section.
    Wait,
    /// It rests between two exits, since the VM is paused.
    Paused,
    /// It has ended.
    Ended,
}

/// One vCPU. `GET /vm.vcpus` has all of them, in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VcpuInfo {
    /// Its number.
    pub index: u32,
    /// Its thread, as the kernel numbers it; 0 before it runs.
    pub tid: u32,
    /// What it is doing.
    pub doing: Doing,
    /// For how long; of a wait, for how long it has answered this exit.
    pub since_ns: u64,
    /// Of an exit or a wait: its kind.
    pub kind: Option<ExitKind>,
    /// Of an exit or a wait: the address or port, where the kind has one.
    pub addr: Option<u64>,
    /// Of a wait: the number of the write section.
    pub section: Option<u64>,
    /// Of a wait: whose section that is, as far as known.
    pub writer: Option<Thread>,
    /// Time in `KVM_RUN` so far, the present stay included.
    pub guest_ns: u64,
    /// Its exits so far: from `KVM_RUN` returning to its next call.
    pub exits: Histogram,
    /// The sleeps of its lookups for the end of a write section.
    pub waits: Histogram,
}
