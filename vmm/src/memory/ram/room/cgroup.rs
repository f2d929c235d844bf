//! Limits of the cgroups that this process is in, of both versions.

use std::path::{Path, PathBuf};

use super::host::{number, text};

/// What a cgroup leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupRoom {
    /// The file with the limit.
    pub file: PathBuf,
    /// The limit, bytes.
    pub limit: u64,
    /// What is left of it, counting as left what can be dropped.
    pub left: u64,
}

/// Where a version of cgroups keeps a limit.
struct Place {
    /// The controller's name in `/proc/self/cgroup`; version 2 has none.
    controller: &'static str,
    mounts: &'static [&'static str],
    limit: &'static str,
    usage: &'static str,
    /// Lines of `memory.stat`: what was only read from files, and can be dropped.
    caches: [&'static str; 2],
}

const PLACES: [Place; 2] = [
    Place {
        controller: "",
        mounts: &["sys/fs/cgroup", "sys/fs/cgroup/unified"],
        limit: "memory.max",
        usage: "memory.current",
        caches: ["inactive_file", "active_file"],
    },
    Place {
        controller: "memory",
        mounts: &["sys/fs/cgroup/memory"],
        limit: "memory.limit_in_bytes",
        usage: "memory.usage_in_bytes",
        caches: ["total_inactive_file", "total_active_file"],
    },
];

/// The same of huge pages, whose files have a size in their names.
const HUGE_PLACES: [Place; 2] = [
    Place {
        limit: "max",
        usage: "current",
        ..PLACES[0]
    },
    Place {
        controller: "hugetlb",
        mounts: &["sys/fs/cgroup/hugetlb"],
        limit: "limit_in_bytes",
        usage: "usage_in_bytes",
        ..PLACES[1]
    },
];

impl CgroupRoom {
    /// The one with the least room among all that this process is in, its own and
    /// those above. `swap`: bytes of free swap space on the host.
    pub(super) fn tightest(root: &Path, swap: u64) -> Option<Self> {
        let own = text(root, "proc/self/cgroup")?;
        let rooms = PLACES.iter().flat_map(|place| {
            dirs(root, &own, place).filter_map(move |dir| memory_room(&dir, place, swap))
        });
        rooms.min_by_key(|room| room.left)
    }

    /// As [`tightest`](Self::tightest), of the huge pages of a size.
    pub(super) fn tightest_huge(root: &Path, page: u64) -> Option<Self> {
        let own = text(root, "proc/self/cgroup")?;
        let size = match page >> 30 {
            0 => format!("{}MB", page >> 20),
            gib => format!("{gib}GB"),
        };
        let limit = |dir: &Path, place: &Place, kind: &str| {
            let name = |what| format!("hugetlb.{size}.{kind}{what}");
            Self::of(dir, &name(place.limit), number(dir, &name(place.usage))?)
        };
        let rooms = HUGE_PLACES.iter().flat_map(|place| {
            let both = |dir: PathBuf| ["", "rsvd."].map(|kind| limit(&dir, place, kind));
            dirs(root, &own, place).flat_map(both).flatten()
        });
        rooms.min_by_key(|room| room.left)
    }

    /// What `used` leaves of the limit in a file of `dir`; `None` if that is "max",
    /// or version 1's word for no limit: all that fits.
    fn of(dir: &Path, file: &str, used: u64) -> Option<Self> {
        let limit = number(dir, file).filter(|&limit| limit < 1 << 62)?;
        let left = limit.saturating_sub(used);
        let file = dir.join(file);
        Some(Self { file, limit, left })
    }
}

fn memory_room(dir: &Path, place: &Place, swap: u64) -> Option<CgroupRoom> {
    let stat = text(dir, "memory.stat").unwrap_or_default();
    let line = |name: &str| -> Option<u64> {
        let of_name = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
        stat.lines().find_map(of_name)
    };
    let cached: u64 = place.caches.iter().filter_map(|name| line(name)).sum();
    let used = number(dir, place.usage)?.saturating_sub(cached);
    let mut room = CgroupRoom::of(dir, place.limit, used)?;
    // Version 2 counts swap apart.
    let swap_used = number(dir, "memory.swap.current").unwrap_or(0);
    let swap_left = match text(dir, "memory.swap.max").as_deref() {
        None => 0,
        Some("max") => swap,
        Some(limit) => limit.parse().unwrap_or(0_u64).saturating_sub(swap_used),
    };
    room.left = room.left.saturating_add(swap_left.min(swap));
    Some(room)
}

/// The directories of this process's cgroup and of those above it, as
/// `/proc/self/cgroup` (`own`) and the usual mounts have them.
fn dirs(root: &Path, own: &str, place: &'static Place) -> impl Iterator<Item = PathBuf> {
    let path = own.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let is_it = controllers.split(',').any(|name| name == place.controller);
        is_it.then(|| PathBuf::from(path.trim_start_matches('/')))
    });
    let root = root.to_path_buf();
    let ancestors = path.into_iter().flat_map(|path| {
        let up: Vec<_> = path.ancestors().map(Path::to_path_buf).collect();
        up
    });
    ancestors.flat_map(move |dir| {
        let root = root.clone();
        place
            .mounts
            .iter()
            .map(move |mount| root.join(mount).join(&dir))
    })
}
