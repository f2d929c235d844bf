//! What this host can do for guest memory, beyond KVM: the facts behind
//! `gracefault check`. Data only; nothing here prints or changes anything.
//!
//! ```
//! let facts = gracefault::kvm::HostFacts::read();
//! assert!(facts.cpus.value >= 1);
//! ```
use std::path::Path;

use super::host_probe as probe;
use super::seccomp;

/// How good a fact is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing to do.
    Ok,
    /// It works, with less; the advice says with what less.
    Limited,
    /// It is not there; what needs it does not work.
    Missing,
}

/// One fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact<T> {
    /// What was found.
    pub value: T,
    /// How good that is.
    pub verdict: Verdict,
    /// What to do about it; empty if nothing.
    pub advice: &'static str,
}

impl<T> Fact<T> {
    pub(super) fn ok(value: T) -> Self {
        Self {
            value,
            verdict: Verdict::Ok,
            advice: "",
        }
    }

    pub(super) fn limited(value: T, advice: &'static str) -> Self {
        Self {
            value,
            verdict: Verdict::Limited,
            advice,
        }
    }

    pub(super) fn missing(value: T, advice: &'static str) -> Self {
        Self {
            value,
            verdict: Verdict::Missing,
            advice,
        }
    }
}

/// How this process can get a userfaultfd that sees KVM's own faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Userfaultfd {
    /// By the system call: `CAP_SYS_PTRACE`, or `vm.unprivileged_userfaultfd`.
    SystemCall,
    /// By `/dev/userfaultfd`.
    Device,
    /// Only for faults of user code, so not for those of vCPUs.
    UserModeOnly,
    /// Not at all.
    No,
}

/// A pool of huge pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HugePool {
    /// Bytes per page.
    pub page: u64,
    /// Pages in the pool.
    pub total: u64,
    /// Pages that nobody has, some of which may be promised to somebody.
    pub free: u64,
}

/// Memory, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// All of the host's.
    pub total: u64,
    /// What can be had without swapping.
    pub available: u64,
    /// The least `memory.max` of the cgroups (version 2) that this process is
    /// in, if any.
    pub cgroup_limit: Option<u64>,
}

/// All of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// CPUs that this process may run on.
    pub cpus: Fact<usize>,
    /// Memory.
    pub memory: Fact<Memory>,
    /// Whether guest memory can be restored and populated lazily.
    pub userfaultfd: Fact<Userfaultfd>,
    /// Pools of huge pages, by size; none on kernels without them.
    pub huge_pages: Fact<Vec<HugePool>>,
    /// Transparent huge pages: `always`, `madvise` or `never`.
    pub transparent_huge_pages: Fact<String>,
    /// `vm.max_map_count`: mappings that a process can have. Plugged blocks
    /// take one each, and unmapping the middle of one takes another.
    pub max_map_count: Fact<u64>,
    /// `vm.overcommit_memory`: 0, 1, or 2 (strict).
    pub overcommit: Fact<u64>,
    /// Whether vCPU threads can be confined.
    pub seccomp: Fact<bool>,
}

impl HostFacts {
    /// Reads them all, now. Opens and closes a userfaultfd; blocks for file
    /// reads in `/proc` and `/sys` only. What cannot be read counts as missing.
    pub fn read() -> Self {
        Self::read_below(Path::new("/"), probe::try_userfaultfd())
    }

    fn read_below(root: &Path, userfaultfd: Userfaultfd) -> Self {
        let number = |path: &str| probe::text(root, path).and_then(|t| t.parse().ok());
        Self {
            cpus: probe::cpus(std::thread::available_parallelism().map_or(1, usize::from)),
            memory: probe::memory(root),
            userfaultfd: probe::judge_userfaultfd(userfaultfd),
            huge_pages: probe::huge_pages(root),
            transparent_huge_pages: probe::transparent_huge_pages(root),
            max_map_count: match number("proc/sys/vm/max_map_count") {
                Some(n) if n >= 65_530 => Fact::ok(n),
                n => Fact::limited(
                    n.unwrap_or(0),
                    "few blocks can be plugged: `sudo sysctl vm.max_map_count=262144`",
                ),
            },
            overcommit: match number("proc/sys/vm/overcommit_memory") {
                Some(2) => Fact::limited(
                    2,
                    "a guest's memory is charged when it is mapped, used or not: keep guests small, or `sudo sysctl vm.overcommit_memory=0`",
                ),
                n => Fact::ok(n.unwrap_or(0)),
            },
            seccomp: match seccomp::is_there() {
                Ok(()) => Fact::ok(true),
                Err(_) => Fact::missing(
                    false,
                    "vCPU threads are not confined: run a kernel with CONFIG_SECCOMP_FILTER, or use --seccomp off",
                ),
            },
        }
    }
}

#[cfg(test)]
#[path = "host_tests.rs"]
mod tests;
