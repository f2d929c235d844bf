//! What this host can do for guest memory, beyond KVM: the facts behind
//! `gracefault check`. Data only; nothing here prints or changes anything.
//!
//! ```
//! let facts = gracefault::kvm::HostFacts::read();
//! assert!(facts.cpus.value >= 1);
//! ```
use std::fs;
use std::path::{Path, PathBuf};

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
    fn ok(value: T) -> Self {
        Self {
            value,
            verdict: Verdict::Ok,
            advice: "",
        }
    }

    fn limited(value: T, advice: &'static str) -> Self {
        Self {
            value,
            verdict: Verdict::Limited,
            advice,
        }
    }

    fn missing(value: T, advice: &'static str) -> Self {
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
}

impl HostFacts {
    /// Reads them all, now. Opens and closes a userfaultfd; blocks for file
    /// reads in `/proc` and `/sys` only. What cannot be read counts as missing.
    pub fn read() -> Self {
        Self::read_below(Path::new("/"), probe_userfaultfd())
    }

    fn read_below(root: &Path, userfaultfd: Userfaultfd) -> Self {
        let number = |path: &str| text(root, path).and_then(|t| t.parse().ok());
        Self {
            cpus: cpus(std::thread::available_parallelism().map_or(1, usize::from)),
            memory: memory(root),
            userfaultfd: judge_userfaultfd(userfaultfd),
            huge_pages: huge_pages(root),
            transparent_huge_pages: transparent_huge_pages(root),
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
        }
    }
}

fn text(root: &Path, path: &str) -> Option<String> {
    Some(fs::read_to_string(root.join(path)).ok()?.trim().to_owned())
}

fn cpus(n: usize) -> Fact<usize> {
    match n {
        1 => Fact::limited(
            1,
            "vCPUs and writers take turns: races are found later; give this process more CPUs (taskset, cgroup cpuset)",
        ),
        n => Fact::ok(n),
    }
}

/// Tries what a lazy restore would do.
fn probe_userfaultfd() -> Userfaultfd {
    let open = |flags: i32| {
        // SAFETY: returns a new descriptor or an error.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
        // SAFETY: the descriptor is new and nobody else's.
        fd >= 0 && unsafe { libc::close(fd as i32) } == 0
    };
    const USER_MODE_ONLY: i32 = 1;
    if open(libc::O_CLOEXEC) {
        return Userfaultfd::SystemCall;
    }
    if fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/userfaultfd")
        .is_ok()
    {
        return Userfaultfd::Device;
    }
    match open(libc::O_CLOEXEC | USER_MODE_ONLY) {
        true => Userfaultfd::UserModeOnly,
        false => Userfaultfd::No,
    }
}

fn judge_userfaultfd(found: Userfaultfd) -> Fact<Userfaultfd> {
    const FIX: &str = "lazy populate and restore do not work: give yourself /dev/userfaultfd (`sudo setfacl -m u:$USER:rw /dev/userfaultfd`, Linux 6.1), or `sudo sysctl vm.unprivileged_userfaultfd=1`, or CAP_SYS_PTRACE";
    match found {
        Userfaultfd::SystemCall | Userfaultfd::Device => Fact::ok(found),
        Userfaultfd::UserModeOnly | Userfaultfd::No => Fact::missing(found, FIX),
    }
}

fn huge_pages(root: &Path) -> Fact<Vec<HugePool>> {
    let entries = fs::read_dir(root.join("sys/kernel/mm/hugepages"));
    let mut pools: Vec<HugePool> = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let kib: u64 = name
                .strip_prefix("hugepages-")?
                .strip_suffix("kB")?
                .parse()
                .ok()?;
            let number = |file| text(&entry.path(), file)?.parse().ok();
            Some(HugePool {
                page: kib << 10,
                total: number("nr_hugepages")?,
                free: number("free_hugepages")?,
            })
        })
        .collect();
    pools.sort_by_key(|p| p.page);
    if pools.is_empty() {
        Fact::missing(
            pools,
            "guest memory in huge pages does not work: run a kernel with CONFIG_HUGETLBFS",
        )
    } else if pools.iter().all(|p| p.free == 0) {
        Fact::limited(
            pools,
            "no huge page is free: `sudo sysctl vm.nr_hugepages=512` sets 1 GiB of 2 MiB pages aside",
        )
    } else {
        Fact::ok(pools)
    }
}

fn transparent_huge_pages(root: &Path) -> Fact<String> {
    let line = text(root, "sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    let chosen = line
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'));
    const FIX: &str = "guest memory is mapped by 4 KiB pages, so first touches are slow: `echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled`";
    match chosen.map(|(word, _)| word) {
        None => Fact::missing(
            String::new(),
            "guest memory is mapped by 4 KiB pages: run a kernel with CONFIG_TRANSPARENT_HUGEPAGE",
        ),
        Some("never") => Fact::limited("never".into(), FIX),
        Some(word) => Fact::ok(word.into()),
    }
}

fn memory(root: &Path) -> Fact<Memory> {
    let meminfo = text(root, "proc/meminfo").unwrap_or_default();
    let field = |name: &str| {
        let line = meminfo
            .lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
    };
    let (Some(total), Some(available)) = (field("MemTotal"), field("MemAvailable")) else {
        return Fact::missing(
            Memory::default(),
            "/proc/meminfo cannot be read: mount /proc",
        );
    };
    let found = Memory {
        total,
        available,
        cgroup_limit: cgroup_limit(root),
    };
    if available.min(found.cgroup_limit.unwrap_or(u64::MAX)) < 512 << 20 {
        Fact::limited(
            found,
            "less than 512 MiB for guests: end other programs, raise the cgroup's memory.max, or use small guests",
        )
    } else {
        Fact::ok(found)
    }
}

fn cgroup_limit(root: &Path) -> Option<u64> {
    let own = text(root, "proc/self/cgroup")?;
    let path = own.lines().find_map(|l| l.strip_prefix("0::/"))?;
    let path = PathBuf::from(path);
    let up = path
        .ancestors()
        .map(|dir| root.join("sys/fs/cgroup").join(dir));
    up.filter_map(|dir| text(&dir, "memory.max")?.parse().ok())
        .min()
}

#[cfg(test)]
#[path = "host_tests.rs"]
mod tests;
