//! The exits, by kind and address.

use serde::{Deserialize, Serialize};

use super::ExitKind;

/// Durations. Count, sum and buckets only grow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    /// How many.
    pub count: u64,
    /// All of them together.
    pub total_ns: u64,
    /// Half of them were not longer; 0 if there is none.
    pub p50_ns: u64,
    /// 99 % of them were not longer; 0 if there is none.
    pub p99_ns: u64,
    /// The longest; 0 if there is none.
    pub max_ns: u64,
    /// `[at most so many ns, how many that are longer than the bucket before takes]`,
    /// in order, those with none left out. The ends are always from the same list: four
    /// to a doubling.
    pub buckets: Vec<(u64, u64)>,
}

/// All exits of a kind at an address, of all vCPUs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExitRow {
    /// Address and kind as `perf kvm stat` has them: `0xd0000000:W`, `0x3f8:POUT`,
    /// `HLT`; `others:W` for those past the most rows that a vCPU has.
    pub key: String,
    /// The kind.
    pub kind: ExitKind,
    /// The address or port: exact for a device, the VMA's start for memory, rounded
    /// down to 2 MiB where nothing was mapped. None where the kind has no address, and
    /// for `others`.
    pub addr: Option<u64>,
    /// Who answered: a device's name (with ` (failed)` if it did), `ram`, `rom`,
    /// `unmapped`, or nothing. With `key` it tells rows apart.
    pub device: String,
    /// How long they took.
    pub times: Histogram,
}

/// `GET /vm.exits`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Exits {
    /// Those that took most time together first.
    pub rows: Vec<ExitRow>,
    /// Rows that there are besides.
    pub left_out: u64,
    /// All exits, of these rows and the others.
    pub all: Histogram,
}
