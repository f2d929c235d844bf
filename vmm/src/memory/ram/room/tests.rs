//! Hosts that are given as texts, and what they refuse.

use std::fs;
use std::path::Path;

use super::*;
use crate::memory::ram::{Backend, HugePage, RamOptions, RamSizes, ThpAdvice};

const MIB: u64 = 1 << 20;
/// 64 MiB of boot RAM and 64 blocks.
const SIZES: RamSizes = RamSizes {
    boot: 64 * MIB,
    hotplug: 128 * MIB,
    block: 2 * MIB,
};

/// A host whose files are these.
fn host(files: &[(&str, &str)]) -> (HostRoom, tempfile::TempDir) {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let room = HostRoom::read_below(root.path(), Process::default());
    (room, root)
}

fn meminfo(available: u64) -> String {
    format!(
        "MemTotal:  1000000 kB\nMemAvailable:   {available} kB\nSwapFree:  1024 kB\n\
         CommitLimit:  300000 kB\nCommitted_AS:   200000 kB\n"
    )
}

fn backed(backend: Backend) -> RamOptions {
    RamOptions {
        backend,
        ..Default::default()
    }
}

fn prefaulted(backend: Backend) -> RamOptions {
    RamOptions {
        prefault: true,
        ..backed(backend)
    }
}

#[test]
fn a_host_without_files_refuses_nothing() {
    let (room, _root) = host(&[]);
    room.check(&RamOptions::default(), SIZES).unwrap();
}

#[test]
fn this_host_can_be_read_and_has_room_for_a_page() {
    let page = RamSizes {
        boot: 4096,
        hotplug: 0,
        block: 4096,
    };
    let room = HostRoom::read();
    assert!(room.available.is_some() && room.process.mappings > 0);
    room.check(&RamOptions::default(), page).unwrap();
}

#[test]
fn free_memory_counts_unless_promises_are_wanted() {
    let just = 192 * 1024 - 1024;
    for (available, policy, refused) in [
        (just, "0", false),
        (just - 1, "0", true),
        (just - 1, "1", false),
        (just, "2", true),
    ] {
        let (room, _root) = host(&[
            ("proc/meminfo", &meminfo(available)),
            ("proc/sys/vm/overcommit_memory", policy),
        ]);
        let result = room.check(&RamOptions::default(), SIZES);
        assert_eq!(result.is_err(), refused, "{available} {policy} {result:?}");
        if let Err(error) = result {
            assert!(
                error.to_string().contains("vm.overcommit_memory"),
                "{error}"
            );
        }
    }
    let (room, _root) = host(&[
        ("proc/meminfo", &meminfo(just - 1)),
        ("proc/sys/vm/overcommit_memory", "1"),
    ]);
    // What is touched at once is no promise.
    let error = room
        .check(&prefaulted(Backend::Anonymous), SIZES)
        .unwrap_err();
    assert!(matches!(error, Refusal::Memory { promise: false, .. }));
    // The pages of a file can go back to it.
    room.check(&backed(Backend::File("x".into())), SIZES)
        .unwrap();
}

#[test]
fn the_tightest_cgroup_counts_and_its_caches_do_not() {
    let cgroup = |max: &str| {
        host(&[
            ("proc/self/cgroup", "1:cpu:/\n0::/a/b\n"),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("sys/fs/cgroup/a/b/memory.current", "4096\n"),
            ("sys/fs/cgroup/a/memory.max", max),
            ("sys/fs/cgroup/a/memory.current", "8388608\n"),
            (
                "sys/fs/cgroup/a/memory.stat",
                "anon 7\ninactive_file 4194304\nactive_file 0\n",
            ),
        ])
    };
    let (room, _root) = cgroup("205520896"); // 196 MiB
    assert_eq!(room.cgroup.as_ref().unwrap().left, 192 * MIB);
    room.check(&RamOptions::default(), SIZES).unwrap();
    let (room, root) = cgroup("205520895");
    let error = room.check(&RamOptions::default(), SIZES).unwrap_err();
    let file = root.path().join("sys/fs/cgroup/a/memory.max");
    assert!(
        error.to_string().contains(file.to_str().unwrap()),
        "{error}"
    );
}

#[test]
fn version_1_of_cgroups_counts_too() {
    let (room, _root) = host(&[
        ("proc/self/cgroup", "4:cpu,memory:/x\n0::/\n"),
        ("sys/fs/cgroup/memory/x/memory.limit_in_bytes", "134217728"),
        ("sys/fs/cgroup/memory/x/memory.usage_in_bytes", "0"),
        (
            "sys/fs/cgroup/memory/memory.limit_in_bytes",
            "9223372036854771712",
        ),
        ("sys/fs/cgroup/memory/memory.usage_in_bytes", "0"),
    ]);
    let error = room.check(&RamOptions::default(), SIZES).unwrap_err();
    assert!(matches!(error, Refusal::Cgroup { left, .. } if left == 128 * MIB));
}

#[test]
fn swap_that_a_cgroup_may_use_counts() {
    let (room, _root) = host(&[
        ("proc/meminfo", &meminfo(1 << 20)),
        ("proc/self/cgroup", "0::/\n"),
        ("sys/fs/cgroup/memory.max", "1048576"),
        ("sys/fs/cgroup/memory.current", "1048576"),
        ("sys/fs/cgroup/memory.swap.max", "max"),
    ]);
    assert_eq!(room.cgroup.unwrap().left, 1 << 20);
}

/// A host with a pool of 2 MiB pages.
fn pool(free: &str, reserved: &str, growth: &str, cgroup: &str) -> (HostRoom, tempfile::TempDir) {
    let file = |name: &str| format!("sys/kernel/mm/hugepages/hugepages-2048kB/{name}");
    host(&[
        (&file("nr_hugepages"), "100"),
        (&file("free_hugepages"), free),
        (&file("resv_hugepages"), reserved),
        (&file("nr_overcommit_hugepages"), growth),
        (&file("surplus_hugepages"), "0"),
        ("proc/self/cgroup", "0::/g\n"),
        ("sys/fs/cgroup/g/hugetlb.2MB.max", cgroup),
        ("sys/fs/cgroup/g/hugetlb.2MB.current", "0"),
    ])
}

#[test]
fn a_pool_gives_what_is_free_and_not_promised_and_what_it_may_grow_by() {
    let hugetlb = backed(Backend::Hugetlb(HugePage::Size2M));
    let check = |free, reserved, growth, cgroup| {
        let (room, _root) = pool(free, reserved, growth, cgroup);
        room.check(&hugetlb, SIZES)
    };
    check("96", "0", "0", "max").unwrap();
    check("90", "10", "16", "max").unwrap();
    let error = check("96", "1", "0", "max").unwrap_err();
    assert!(matches!(
        error,
        Refusal::HugePages {
            pages: 95,
            enough: 101,
            ..
        }
    ));
    let text = error.to_string();
    assert!(text.contains("hugepages-2048kB/nr_hugepages"), "{text}");
    assert!(text.contains("nr_overcommit_hugepages"), "{text}");
    let error = check("96", "0", "0", "1048576").unwrap_err();
    assert!(error.to_string().contains("hugetlb.2MB.max"), "{error}");
    let (room, _root) = pool("96", "0", "0", "max");
    let error = room.check(&backed(Backend::Hugetlb(HugePage::Size1G)), SIZES);
    assert_eq!(error, Err(Refusal::NoHugePages { page: 1 << 30 }));
}

#[test]
fn version_1_of_cgroups_limits_huge_pages_too() {
    let file = |name: &str| format!("sys/kernel/mm/hugepages/hugepages-2048kB/{name}");
    let group = |name: &str| format!("sys/fs/cgroup/hugetlb/g/hugetlb.2MB.{name}");
    for (kind, limit) in [("", 191 * MIB), ("rsvd.", 191 * MIB), ("", 192 * MIB)] {
        let (room, root) = host(&[
            (&file("nr_hugepages"), "100"),
            (&file("free_hugepages"), "100"),
            ("proc/self/cgroup", "7:cpu,hugetlb:/g\n4:memory:/x\n0::/\n"),
            (&group(&format!("{kind}limit_in_bytes")), &limit.to_string()),
            (&group(&format!("{kind}usage_in_bytes")), "0"),
            ("sys/fs/cgroup/hugetlb/hugetlb.2MB.usage_in_bytes", "0"),
            (
                "sys/fs/cgroup/hugetlb/hugetlb.2MB.limit_in_bytes",
                "9223372036854771712",
            ),
        ]);
        let checked = room.check(&backed(Backend::Hugetlb(HugePage::Size2M)), SIZES);
        match limit < SIZES.all() {
            true => {
                let text = checked.unwrap_err().to_string();
                let name = root.path().join(group(&format!("{kind}limit_in_bytes")));
                assert!(text.contains(name.to_str().unwrap()), "{text}");
            }
            false => checked.unwrap(),
        }
    }
}

#[test]
fn transparent_huge_pages_must_be_on() {
    let thp = |backend, enabled: &str, shmem: &str| {
        let dir = "sys/kernel/mm/transparent_hugepage";
        let (room, _root) = host(&[
            (&format!("{dir}/enabled"), enabled),
            (&format!("{dir}/shmem_enabled"), shmem),
        ]);
        let options = RamOptions {
            thp: ThpAdvice::Wanted,
            ..backed(backend)
        };
        room.check(&options, SIZES)
    };
    let (on, off) = ("always [madvise] never", "always madvise [never]");
    let (shmem_on, shmem_off) = ("always [advise] never deny", "always advise never [deny]");
    thp(Backend::Anonymous, on, shmem_off).unwrap();
    thp(Backend::Memfd, off, shmem_on).unwrap();
    let error = thp(Backend::Anonymous, off, shmem_on)
        .unwrap_err()
        .to_string();
    assert!(error.contains("transparent_hugepage/enabled"), "{error}");
    let error = thp(Backend::Memfd, on, shmem_off).unwrap_err().to_string();
    assert!(
        error.contains("'deny'") && error.contains("shmem_enabled"),
        "{error}"
    );
}

#[test]
fn limits_of_the_process_count_where_they_apply() {
    let limit = |limit| {
        Some(Limit {
            limit,
            used: 10 * MIB,
        })
    };
    let check = |process: Process, backend| {
        let room = HostRoom {
            process,
            ..HostRoom::default()
        };
        let error = room.check(&backed(backend), SIZES).err();
        error.map_or(String::new(), |error| error.to_string())
    };
    let addresses = |bytes| Process {
        address_space: limit(bytes),
        ..Process::default()
    };
    assert_eq!(check(addresses(202 * MIB), Backend::Memfd), "");
    assert!(check(addresses(201 * MIB), Backend::Memfd).contains("RLIMIT_AS"));
    let data = Process {
        data: limit(100 * MIB),
        ..Process::default()
    };
    assert!(check(data, Backend::Anonymous).contains("ulimit -d"));
    assert_eq!(check(data, Backend::Memfd), "");
    let file = Process {
        file_size: Some(100 * MIB),
        ..Process::default()
    };
    assert!(check(file, Backend::File("x".into())).contains("RLIMIT_FSIZE"));
    assert_eq!(check(file, Backend::Anonymous), "");
    // Boot RAM takes a whole block of the file.
    let room = HostRoom {
        process: Process {
            file_size: Some(1536 * MIB),
            ..Process::default()
        },
        ..HostRoom::default()
    };
    let large = RamSizes {
        boot: 64 * MIB,
        hotplug: 1024 * MIB,
        block: 1024 * MIB,
    };
    let error = room.check(&backed(Backend::Memfd), large).unwrap_err();
    assert!(error.to_string().contains("RLIMIT_FSIZE"), "{error}");
    let maps = |most| Process {
        mappings: 100,
        max_map_count: Some(most),
        ..Process::default()
    };
    assert_eq!(check(maps(1190), Backend::Anonymous), "");
    assert!(check(maps(1189), Backend::Anonymous).contains("vm.max_map_count=1190"));
}

#[test]
fn an_old_kernel_does_not_prefault() {
    let room = HostRoom::default();
    let error = room.check(&prefaulted(Backend::Anonymous), SIZES);
    assert_eq!(error, Err(Refusal::Populate));
    assert_eq!(
        HostRoom::read_below(Path::new("/nonexistent"), Process::default()).huge,
        []
    );
}
