//! What is wrong with a command or a file is said, with what to do.
use libtest_mimic::Trial;

use crate::command::run;
use crate::support::Outcome;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test("usage::no_such_file", || Ok(no_such_file()?)),
        Trial::test("usage::something_else", || Ok(something_else()?)),
        Trial::test("usage::odd_options", || Ok(odd_options()?)),
    ]
}

fn no_such_file() -> Outcome {
    for command in ["report", "export --format jsonl", "replay"] {
        run(&format!("trace {command} /no/such/file"))
            .expect_status(2)
            .expect_message(&["/no/such/file", "No such file"]);
    }
    run("trace record -o /no/such/dir/x -- run --workload hello")
        .expect_status(2)
        .expect_message(&["/no/such/dir/x", "No such file"]);
    run("trace record -o /dev/null -- run --workload hello")
        .expect_status(2)
        .expect_message(&["/dev/null", "not a regular file"]);
    Ok(())
}

fn something_else() -> Outcome {
    let dir = tempfile::tempdir()?;
    for (name, bytes) in [
        ("empty", &b""[..]),
        ("text", b"hello, world"),
        ("elf", b"\x7fELF"),
    ] {
        let file = dir.path().join(name);
        std::fs::write(&file, bytes)?;
        run(&format!("trace report {}", file.display()))
            .expect_status(2)
            .expect_message(&["no trace of Gracefault's"]);
    }
    Ok(())
}

fn odd_options() -> Outcome {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/mmio.trace");
    for (command, words) in [
        ("report --addr x", "no address"),
        ("report --time 5", "no time"),
        ("report --event none", "vmexit"),
        ("report --json --html x", "cannot be used with"),
        ("export", "--format"),
        ("replay --pace slow", "recorded"),
    ] {
        run(&format!("trace {command} {file}"))
            .expect_status(2)
            .expect_words(&[words]);
    }
    let dir = tempfile::tempdir()?;
    let output = dir.path().join("x");
    let record = format!("trace record -o {}", output.display());
    for (command, words) in [
        ("--events none -- run", "mmio_read"),
        ("--size 4K -- run", "at least"),
        ("-- check", "what is recorded is a run"),
        ("-- run --trace y", "leave one out"),
        ("-- run --cpus x", "--cpus"),
    ] {
        run(&format!("{record} {command}"))
            .expect_status(2)
            .expect_words(&[words]);
    }
    assert!(!output.exists(), "nothing was recorded");
    // Filters leave out what they should.
    let count = |words: &str| {
        let view = run(&format!("trace report --json{words} {file}"));
        view.expect_status(0).json()["all"]["count"]
            .as_u64()
            .expect("a count")
    };
    let all = count("");
    assert_eq!(count(" --vcpu 0") + count(" --vcpu 1"), all);
    assert_eq!(
        count(" --vma test") + count(" --vma exit") + count(" --vma serial"),
        all
    );
    assert_eq!(count(" --vma 0xd0000000"), count(" --vma test"));
    assert_eq!(count(" --addr 0xd0000000-0xd00fffff"), count(" --vma test"));
    let parts = count(" --time -0.05") + count(" --time 50000001ns-");
    assert_eq!(parts, all);
    assert!(count(" --vcpu 7") == 0 && all > 100);
    Ok(())
}
