//! Storms that cannot be: exit status 2, a message that says why and what would do.
use libtest_mimic::Trial;

use crate::command::run;
use crate::support::kvm_test;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test("refused::without_kvm", || {
            without_kvm();
            Ok(())
        }),
        kvm_test("refused::more_blocks_than_memslots", || {
            refused("stress --regions 40000", &["40000 blocks", "memslots"]);
            Ok(())
        }),
    ]
}

#[track_caller]
fn refused(words: &str, expected: &[&str]) {
    let ended = run(words);
    ended.expect_status(2).expect_words(expected);
    assert_eq!(ended.stdout, "", "{ended}");
}

fn without_kvm() {
    for (words, expected) in [
        (
            "stress --preset nothing",
            &["nothing", "smoke", "starve"][..],
        ),
        ("stress --lookup nothing", &["nothing", "native, retry"]),
        ("stress --mix plugs=1", &["plugs", "plug, unplug, split"]),
        ("stress --mix plug", &["plug", "OPERATION=SHARE"]),
        ("stress --mix plug=0", &["all shares are 0"]),
        ("stress --duration 5", &["--duration", "5s"]),
        ("stress --delays maybe", &["maybe", "on, off"]),
        (
            "stress --no-kvm --vcpus 0",
            &["at least one of each", "--vcpus"],
        ),
        (
            "stress --no-kvm --vcpus 1000 --writers 100",
            &["1024 together"],
        ),
        ("stress --no-kvm --regions 0", &["0 regions", "--regions"]),
        ("stress --no-kvm --regions 2000000", &["1048576"]),
        (
            "stress --no-kvm --regions 15 --writers 4",
            &["15 regions", "from 16", "each writer has"],
        ),
        ("stress --no-kvm --duration 0s", &["nothing would be done"]),
        ("stress --no-kvm --ops 0", &["nothing would be done"]),
        ("stress --preset boundary", &["boundary", "--no-kvm"]),
        ("stress --preset pins", &["pins", "--no-kvm"]),
        ("stress --preset starve", &["starve", "--no-kvm"]),
        ("stress --mix move=1", &["move", "--no-kvm"]),
        ("stress --work 5us", &["--no-kvm"]),
        (
            "stress --no-kvm --preset nested --lookup retry",
            &["nested", "retry", "native or refcount or rwlock"],
        ),
        (
            "stress --no-kvm --preset boundary --lookup pin",
            &["boundary", "pin", "native or refcount or rwlock"],
        ),
        (
            "stress --no-kvm --preset starve --lookup retry",
            &["starve", "one section at most", "native or pin"],
        ),
        ("stress --lookup retry", &["smoke", "native or refcount"]),
        ("stress --break drain", &["gracefault_mutants"]),
        (
            "stress --kvm-device /nonexistent/kvm",
            &["/nonexistent/kvm"],
        ),
    ] {
        refused(words, expected);
    }
}
