//! Arguments that cannot be: exit status 2, a message that says which one, why,
//! and what would do; nothing on stdout.
use libtest_mimic::Trial;

use crate::command::{Ended, run};
use crate::support::{Outcome, kvm_test};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test("bad_usage::what_cannot_be_parsed", || {
            unparsable();
            Ok(())
        }),
        Trial::test("bad_usage::help_and_version", || {
            help_and_version();
            Ok(())
        }),
        kvm_test("bad_usage::memory_that_cannot_be", memory),
        kvm_test("bad_usage::too_few_and_too_many_vcpus", vcpus),
        kvm_test("bad_usage::the_smallest_that_fits_is_right", smallest),
    ]
}

#[track_caller]
fn refused(words: &str, expected: &[&str]) -> Ended {
    let ended = run(words);
    ended.expect_status(2).expect_words(expected);
    assert_eq!(ended.stdout, "", "{ended}");
    ended
}

fn unparsable() {
    for (words, expected) in [
        ("run --memory sizes=1G", &["sizes", "hotplug_size"][..]),
        ("run --memory size", &["KEY=VALUE"]),
        ("run --memory size=", &["no size"]),
        ("run --memory size=64X", &["'X' is no unit", "K, M, G or T"]),
        ("run --memory size=-1", &["no size"]),
        ("run --memory size=1.5G", &["no size"]),
        ("run --memory size=99999999999T", &["more than 2^64"]),
        ("run --memory size=64M,,block=2M", &["KEY=VALUE"]),
        ("run --memory sizes=1G", &["backing", "discard"]),
        (
            "run --memory backing=disk",
            &["backing", "disk", "file:PATH"],
        ),
        ("run --memory backing=file:", &["backing", "file:PATH"]),
        ("run --memory prefault=1", &["prefault", "on, off"]),
        ("run --memory discard=maybe", &["discard", "on, off"]),
        ("run --memory hugepages=3M", &["hugepages", "1G"]),
        ("run --memory hugepages=1G", &["backing=hugetlb"]),
        ("run --workload nothing", &["nothing", "hello", "hotplug"]),
        ("run --cpus=-1", &["--cpus"]),
        ("run --cpus two", &["two", "--cpus"]),
        ("run --cpus 99999999999", &["--cpus"]),
        ("run --duration 5", &["--duration", "5s"]),
        ("run --timeout soon", &["--timeout", "5s"]),
        ("run --timeout=-1s", &["--timeout"]),
        ("run --seed x", &["--seed"]),
        ("run --seccomp maybe", &["--seccomp", "on, log, off"]),
        ("stress --no-kvm --seccomp on", &["--seccomp", "--no-kvm"]),
        ("run --break everything", &["--break"]),
        ("run --nonsense", &["--nonsense", "--help"]),
        ("nonsense", &["nonsense"]),
        ("check --cpus 2", &["--cpus"]),
        ("--log-level loud", &["loud", "debug"]),
    ] {
        refused(words, expected);
    }
}

fn help_and_version() {
    let ended = run("--version");
    ended.expect_status(0);
    assert!(ended.stdout.starts_with("gracefault "), "{ended}");
    for words in ["--help", "run --help", "check --help"] {
        let ended = run(words);
        ended.expect_status(0);
        assert!(ended.stdout.contains("--kvm-device"), "{ended}");
        assert_eq!(ended.stderr, "", "{ended}");
    }
}

fn memory() -> Outcome {
    let beyond = &["past its", "ask for less", "hotplug_size="][..];
    for (memory, expected) in [
        ("size=0", &["size of 0 bytes", "not 0"][..]),
        ("size=4097", &["size of 4097 bytes", "multiple of 4096"]),
        ("size=4K", &["4096 bytes of RAM are too small", "at least"]),
        ("size=2M", &["too small", "--memory size="]),
        ("size=99999T", beyond),
        ("size=16777215T", beyond),
        ("size=18446744073709547520", beyond),
        ("hotplug_size=99999T", beyond),
        ("hotplug_size=4M,block=99999T", &["power of two"]),
        (
            "hotplug_size=0,block=8388608T",
            &["end at 0x8000000000000000"],
        ),
        (
            "hotplug_size=3M",
            &["3145728", "multiple of the block size"],
        ),
        ("block=0", &["block size of 0 bytes", "power of two"]),
        ("block=3M", &["3145728", "power of two"]),
        ("block=2K", &["2048", "power of two from 4096"]),
    ] {
        let ended = refused(&format!("run --memory {memory}"), expected);
        ended.expect_message(&[]);
    }
    Ok(())
}

/// The message that there are not memslots enough names a block size: the next
/// smaller one is refused, and this one is not.
fn smallest() -> Outcome {
    let ended = refused(
        "run --memory hotplug_size=512M,block=4K",
        &[
            "memslots",
            "KVM_CAP_NR_MEMSLOTS",
            "536870912 bytes makes 131072",
        ],
    );
    let last = ended.stderr.trim_end().trim_end_matches(" bytes");
    let fits: u64 = last.rsplit(' ').next().unwrap_or_default().parse()?;
    let memory = |block: u64| {
        format!("run --workload hello --no-churn --memory hotplug_size=512M,block={block}")
    };
    refused(&memory(fits / 2), &["memslots"]);
    run(&memory(fits)).expect_status(0);
    Ok(())
}

fn vcpus() -> Outcome {
    for cpus in ["0", "1000", "513", "4294967295"] {
        let asked = format!("{cpus} vCPUs");
        let ended = refused(
            &format!("run --cpus {cpus}"),
            &[&asked, "--cpus", "from 1 to"],
        );
        ended.expect_message(&[]);
    }
    Ok(())
}
