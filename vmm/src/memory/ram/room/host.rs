//! Reading it all.

use std::fs;
use std::path::Path;

use super::{CgroupRoom, HugeRoom, Process};

/// What the host can give now. What cannot be read is `None` and refuses nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostRoom {
    /// Bytes that can be had: `MemAvailable` and `SwapFree`.
    pub available: Option<u64>,
    /// What the host lets programs promise themselves.
    pub commit: Commit,
    /// The cgroup with the least room for memory.
    pub cgroup: Option<CgroupRoom>,
    /// The pools of huge pages.
    pub huge: Vec<HugeRoom>,
    /// What transparent huge pages are set to: of anonymous memory, and of files
    /// in memory.
    pub thp: [Option<String>; 2],
    /// The limits of this process.
    pub process: Process,
    /// Whether memory can be populated without touching it.
    pub can_populate: bool,
}

/// What the host lets programs promise themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Commit {
    /// `vm.overcommit_memory`: 0, 1 (anything), or 2 (strict).
    pub policy: u64,
    /// Bytes left of `CommitLimit`. A limit only if the policy is 2.
    pub left: Option<u64>,
}

impl HostRoom {
    /// Reads it all, now.
    pub fn read() -> Self {
        Self {
            can_populate: super::super::advice::can_populate(),
            ..Self::read_below(Path::new("/"), Process::read())
        }
    }

    /// As [`read`](Self::read), of a host whose `/proc` and `/sys` are below `root`.
    pub(super) fn read_below(root: &Path, process: Process) -> Self {
        let meminfo = text(root, "proc/meminfo").unwrap_or_default();
        let field = |name| kib_field(&meminfo, name);
        let swap = field("SwapFree").unwrap_or(0);
        let thp = |file| text(root, &format!("sys/kernel/mm/transparent_hugepage/{file}"));
        Self {
            available: field("MemAvailable").map(|bytes| bytes + swap),
            commit: Commit {
                policy: number(root, "proc/sys/vm/overcommit_memory").unwrap_or(0),
                left: field("CommitLimit")
                    .zip(field("Committed_AS"))
                    .map(|(limit, used)| limit.saturating_sub(used)),
            },
            cgroup: CgroupRoom::tightest(root, swap),
            huge: HugeRoom::read(root),
            thp: [thp("enabled"), thp("shmem_enabled")],
            process: Process {
                max_map_count: number(root, "proc/sys/vm/max_map_count"),
                ..process
            },
            can_populate: true,
        }
    }
}

/// The trimmed text of a file, if it can be read.
pub(super) fn text(root: &Path, path: &str) -> Option<String> {
    Some(fs::read_to_string(root.join(path)).ok()?.trim().to_owned())
}

/// The number in a file, if there is one.
pub(super) fn number(root: &Path, path: &str) -> Option<u64> {
    text(root, path)?.parse().ok()
}

/// The bytes of a line like `MemFree:   123 kB`.
pub(super) fn kib_field(lines: &str, name: &str) -> Option<u64> {
    let line = lines
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}
