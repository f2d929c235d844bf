use std::fs;

use super::*;

/// A root directory with these files.
fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

#[test]
fn a_good_host_has_no_advice() {
    let dir = root(&[
        (
            "proc/meminfo",
            "MemTotal:       8000000 kB\nMemFree: 1 kB\nMemAvailable:   4000000 kB\n",
        ),
        ("proc/self/cgroup", "0::/a/b\n"),
        ("sys/fs/cgroup/a/memory.max", "2147483648\n"),
        ("sys/fs/cgroup/a/b/memory.max", "max\n"),
        ("proc/sys/vm/max_map_count", "65530\n"),
        ("proc/sys/vm/overcommit_memory", "0\n"),
        (
            "sys/kernel/mm/transparent_hugepage/enabled",
            "always [madvise] never\n",
        ),
        (
            "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
            "8\n",
        ),
        (
            "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages",
            "3\n",
        ),
        (
            "sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages",
            "0\n",
        ),
        (
            "sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages",
            "0\n",
        ),
    ]);
    let facts = HostFacts::read_below(dir.path(), Userfaultfd::Device);
    let expected = Memory {
        total: 8_192_000_000,
        available: 4_096_000_000,
        cgroup_limit: Some(2 << 30),
    };
    assert_eq!(facts.memory, Fact::ok(expected));
    let pools = vec![
        HugePool {
            page: 2 << 20,
            total: 8,
            free: 3,
        },
        HugePool {
            page: 1 << 30,
            total: 0,
            free: 0,
        },
    ];
    assert_eq!(facts.huge_pages, Fact::ok(pools));
    assert_eq!(facts.transparent_huge_pages, Fact::ok("madvise".into()));
    assert_eq!(facts.max_map_count, Fact::ok(65_530));
    assert_eq!(facts.overcommit, Fact::ok(0));
    assert_eq!(facts.userfaultfd, Fact::ok(Userfaultfd::Device));
}

#[test]
fn a_bare_host_is_told_what_to_do() {
    let dir = root(&[
        ("proc/sys/vm/overcommit_memory", "2\n"),
        (
            "sys/kernel/mm/transparent_hugepage/enabled",
            "always madvise [never]\n",
        ),
    ]);
    let facts = HostFacts::read_below(dir.path(), Userfaultfd::UserModeOnly);
    let verdicts = [
        (facts.memory.verdict, facts.memory.advice),
        (facts.userfaultfd.verdict, facts.userfaultfd.advice),
        (facts.huge_pages.verdict, facts.huge_pages.advice),
        (
            facts.transparent_huge_pages.verdict,
            facts.transparent_huge_pages.advice,
        ),
        (facts.max_map_count.verdict, facts.max_map_count.advice),
        (facts.overcommit.verdict, facts.overcommit.advice),
    ];
    use Verdict::{Limited, Missing};
    assert_eq!(
        verdicts.map(|v| v.0),
        [Missing, Missing, Missing, Limited, Limited, Limited]
    );
    assert!(verdicts.iter().all(|v| !v.1.is_empty()));
}

#[test]
fn one_cpu_is_few() {
    assert_eq!(probe::cpus(1).verdict, Verdict::Limited);
    assert_eq!(probe::cpus(64).verdict, Verdict::Ok);
}

#[test]
fn this_host_can_be_read() {
    assert!(HostFacts::read().memory.value.total > 0);
}
