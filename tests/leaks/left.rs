//! Counting what a process has, before and after.
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

/// What `/proc/self` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Had {
    threads: usize,
    descriptors: usize,
    mappings: usize,
    /// Kibibytes of address space, in case a mapping grows into its neighbour.
    space: u64,
}

impl Had {
    fn now() -> Self {
        let entries = |dir| fs::read_dir(dir).expect("procfs is there").count();
        let text = |file| fs::read_to_string(file).expect("procfs is there");
        let status = text("/proc/self/status");
        let space = status
            .lines()
            .find_map(|line| line.strip_prefix("VmSize:"))
            .and_then(|size| size.split_whitespace().next())
            .and_then(|size| size.parse().ok());
        Self {
            threads: entries("/proc/self/task"),
            descriptors: entries("/proc/self/fd"),
            mappings: text("/proc/self/maps").lines().count(),
            space: space.expect("a size"),
        }
    }

    /// Threads and descriptors to the last one. The allocator may keep an arena
    /// (64 MiB of addresses) or the stack of a thread that has gone: some mappings,
    /// and some space, but not as much as a launch's own each time.
    fn is_left_of(&self, before: &Self, launches: usize) -> bool {
        self.threads == before.threads
            && self.descriptors == before.descriptors
            && self.mappings < before.mappings + launches / 5
            && self.space < before.space + (128 << 10) + ((launches as u64) << 10)
    }
}

/// Calls `launch` some times to warm up, then `times` times, and compares.
#[track_caller]
pub(crate) fn assert_nothing_left(times: usize, mut launch: impl FnMut(usize)) {
    for run in 0..10 {
        launch(run);
    }
    let before = Had::now();
    for run in 0..times {
        launch(run);
    }
    // A thread that has been joined may be in its directory a moment longer.
    let limit = Instant::now() + Duration::from_secs(10);
    let mut after = Had::now();
    while !after.is_left_of(&before, times) && Instant::now() < limit {
        thread::sleep(Duration::from_millis(20));
        after = Had::now();
    }
    println!("before {before:?}, after {times} more {after:?}");
    assert!(
        after.is_left_of(&before, times),
        "before {before:?}, after {times} more {after:?}"
    );
}
