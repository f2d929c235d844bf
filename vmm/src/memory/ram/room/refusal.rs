//! What the host cannot give, and the setting that would help.

use std::path::PathBuf;

/// What the host cannot give, and the setting that would help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Not enough free memory.
    #[error(
        "{needed} bytes of guest memory are more than this host can give now: {available} are \
         available (MemAvailable and SwapFree of /proc/meminfo); ask for less (--memory size=, \
         hotplug_size=), or end other programs{}",
        if *.promise { ", or let it promise more than it has with `sudo sysctl vm.overcommit_memory=1`" } else { "" }
    )]
    Memory {
        /// What is asked for.
        needed: u64,
        /// What there is.
        available: u64,
        /// Whether a promise would do: not if all of it is touched at once.
        promise: bool,
    },
    /// The host is strict about promises.
    #[error(
        "{needed} bytes of guest memory are more than this host can give: vm.overcommit_memory is \
         2 and CommitLimit leaves {left}; ask for less (--memory size=, hotplug_size=), raise \
         vm.overcommit_ratio, or `sudo sysctl vm.overcommit_memory=0`"
    )]
    Commit {
        /// What is asked for.
        needed: u64,
        /// What is left.
        left: u64,
    },
    /// A cgroup's limit.
    #[error(
        "{needed} bytes of guest memory are more than this host can give: the cgroup limit in {} \
         is {limit} and leaves {left}; raise it, or ask for less (--memory size=, hotplug_size=)",
        file.display()
    )]
    Cgroup {
        /// What is asked for.
        needed: u64,
        /// The file with the limit.
        file: PathBuf,
        /// The limit.
        limit: u64,
        /// What is left.
        left: u64,
    },
    /// The pool of huge pages is short.
    #[error(
        "{needed} huge pages of {page} bytes are needed, and {pages} can be had: `echo {enough} | \
         sudo tee /sys/kernel/mm/hugepages/hugepages-{}kB/nr_hugepages` (or raise \
         nr_overcommit_hugepages there), or ask for less (--memory size=, hotplug_size=)",
        .page >> 10
    )]
    HugePages {
        /// Pages asked for.
        needed: u64,
        /// Bytes in a page.
        page: u64,
        /// Pages to be had.
        pages: u64,
        /// What the pool would have to be.
        enough: u64,
    },
    /// There is no pool of such pages.
    #[error(
        "this host has no huge pages of {page} bytes (/sys/kernel/mm/hugepages lists what it has): \
         choose another size (hugepages=2M or 1G)"
    )]
    NoHugePages {
        /// Bytes in a page.
        page: u64,
    },
    /// Transparent huge pages are off.
    #[error(
        "hugepages=thp: the host's setting is '{found}'; `echo {wanted} | sudo tee \
         /sys/kernel/mm/transparent_hugepage/{file}`"
    )]
    Thp {
        /// What it is.
        found: String,
        /// The file with it.
        file: &'static str,
        /// What it would have to be.
        wanted: &'static str,
    },
    /// A limit of this process.
    #[error(
        "{needed} bytes of guest memory are more than this process may have: its limit on {what} \
         ({name}) leaves {left}; raise it (`ulimit {flag} unlimited`), or ask for less (--memory \
         size=, hotplug_size=)"
    )]
    Process {
        /// What is asked for.
        needed: u64,
        /// What is limited.
        what: &'static str,
        /// The limit's name.
        name: &'static str,
        /// The shell's flag for it.
        flag: &'static str,
        /// What is left.
        left: u64,
    },
    /// Too many mappings.
    #[error(
        "{needed} mappings are needed, one per block, and vm.max_map_count leaves {left}: `sudo \
         sysctl vm.max_map_count={enough}`, or choose larger blocks (--memory block=)"
    )]
    Mappings {
        /// Mappings asked for.
        needed: u64,
        /// What is left.
        left: u64,
        /// What the setting would have to be.
        enough: u64,
    },
    /// The kernel is too old to prefault.
    #[error("prefault=on needs Linux 5.14 or later (MADV_POPULATE_WRITE): prefault=off")]
    Populate,
}
