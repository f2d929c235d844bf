//! The host's pools of huge pages.

use std::fs;
use std::path::Path;

use super::CgroupRoom;
use super::host::number;

/// What a pool can give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HugeRoom {
    /// Bytes per page.
    pub page: u64,
    /// Pages that nobody has or was promised, and those that the pool may grow by.
    pub pages: u64,
    /// How many pages the pool has in all.
    pub total: u64,
    /// The cgroup with the least room for such pages.
    pub cgroup: Option<CgroupRoom>,
}

impl HugeRoom {
    /// All of them.
    pub(super) fn read(root: &Path) -> Vec<Self> {
        let dirs = fs::read_dir(root.join("sys/kernel/mm/hugepages"));
        let mut pools: Vec<_> = dirs
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|dir| Self::of(root, &dir.path()))
            .collect();
        pools.sort_by_key(|pool| pool.page);
        pools
    }

    fn of(root: &Path, dir: &Path) -> Option<Self> {
        let name = dir.file_name()?.to_str()?;
        let kib = name.strip_prefix("hugepages-")?.strip_suffix("kB")?;
        let page = kib.parse::<u64>().ok()?.checked_mul(1024)?;
        let file = |name| number(dir, name);
        let free = file("free_hugepages")?.saturating_sub(file("resv_hugepages").unwrap_or(0));
        let surplus = file("surplus_hugepages").unwrap_or(0);
        let growth = file("nr_overcommit_hugepages").unwrap_or(0);
        Some(Self {
            page,
            pages: free + growth.saturating_sub(surplus),
            total: file("nr_hugepages")?,
            cgroup: CgroupRoom::tightest_huge(root, page),
        })
    }
}
