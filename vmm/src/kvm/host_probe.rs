//! Reading and judging each of the [`HostFacts`](super::HostFacts).
use std::fs;
use std::path::{Path, PathBuf};

use super::host::{Fact, HugePool, Memory, Userfaultfd};

pub(super) fn text(root: &Path, path: &str) -> Option<String> {
    Some(fs::read_to_string(root.join(path)).ok()?.trim().to_owned())
}

pub(super) fn cpus(n: usize) -> Fact<usize> {
    match n {
        1 => Fact::limited(
            1,
            "vCPUs and writers take turns: races are found later; give this process more CPUs (taskset, cgroup cpuset)",
        ),
        n => Fact::ok(n),
    }
}

/// Tries what a lazy restore would do.
pub(super) fn try_userfaultfd() -> Userfaultfd {
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

pub(super) fn judge_userfaultfd(found: Userfaultfd) -> Fact<Userfaultfd> {
    const FIX: &str = "lazy populate and restore do not work: give yourself /dev/userfaultfd (`sudo setfacl -m u:$USER:rw /dev/userfaultfd`, Linux 6.1), or `sudo sysctl vm.unprivileged_userfaultfd=1`, or CAP_SYS_PTRACE";
    match found {
        Userfaultfd::SystemCall | Userfaultfd::Device => Fact::ok(found),
        Userfaultfd::UserModeOnly | Userfaultfd::No => Fact::missing(found, FIX),
    }
}

pub(super) fn huge_pages(root: &Path) -> Fact<Vec<HugePool>> {
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

pub(super) fn transparent_huge_pages(root: &Path) -> Fact<String> {
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

pub(super) fn memory(root: &Path) -> Fact<Memory> {
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
