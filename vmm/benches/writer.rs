//! What a change costs: unmap + map of one region, a section of 64 replaced at
//! once, and unmap + map while readers look up elsewhere or hold the region.
//!
//! ```text
//! cargo bench --bench writer [-- --quick]
//! ```
//!
//! Prints each contender's time per change, and the ratio to Gracefault's measured
//! in the same rounds; writes `target/gracefault/writer.json`. What only Gracefault
//! does (protect of a part of a VMA; the drain, with readers that hold it) is
//! measured for it alone, and so is the memory that its VMAs take.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::contender::Contender;
use support::{addresses, is_quick, median, peers, write_json};

/// Counts what is allocated and not yet freed.
struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Effort {
    sizes: &'static [usize],
    rounds: usize,
    /// How long a contender's turn lasts; one change at least.
    turn: Duration,
}

const FULL: Effort = Effort {
    sizes: &[16, 1024, 32_768, 1_000_000],
    rounds: 9,
    turn: Duration::from_millis(30),
};
const QUICK: Effort = Effort {
    sizes: &[16, 32_768],
    rounds: 3,
    turn: Duration::from_millis(4),
};

fn main() {
    let effort = if is_quick() { QUICK } else { FULL };
    let mut results = Vec::new();
    for &regions in effort.sizes {
        // Room for a section of 64 beside the regions that readers look up.
        let contenders = peers::all(regions + 64);
        let change = |operation: &str, readers, op: &(dyn Fn(&dyn Contender, usize) + Sync)| {
            measure(&contenders, &effort, regions, operation, readers, op)
        };
        for readers in [0, 1, 4] {
            let op = |c: &dyn Contender, n: usize| c.unmap_map(n % regions);
            results.extend(change("unmap-map", readers, &op));
        }
        let op = |c: &dyn Contender, _: usize| c.replace_many(regions);
        results.extend(change("replace-64", 0, &op));
        results.extend(native(regions, &effort));
    }
    write_json("writer", results);
}

/// A change that every contender can make, `readers` threads looking up all the
/// while.
fn measure(
    contenders: &[Box<dyn Contender>],
    effort: &Effort,
    regions: usize,
    operation: &str,
    readers: usize,
    change: &(dyn Fn(&dyn Contender, usize) + Sync),
) -> Vec<Value> {
    // The floor cannot change.
    let contenders = &contenders[1..];
    let mut times = vec![Vec::new(); contenders.len()];
    let mut ratios = vec![Vec::new(); contenders.len()];
    for _ in 0..effort.rounds {
        let mut ours = f64::NAN;
        for (i, contender) in contenders.iter().enumerate() {
            let op = |n| change(&**contender, n);
            let ns = beside_readers(&**contender, regions, readers, || turn(effort.turn, &op));
            if i == 0 {
                ours = ns;
            }
            times[i].push(ns);
            ratios[i].push(ns / ours);
        }
    }
    println!("\n{regions} VMAs, {operation}, {readers} readers");
    let mut rows = Vec::new();
    for ((contender, times), ratios) in contenders.iter().zip(times).zip(ratios) {
        let (ns, ratio) = (median(times), median(ratios));
        println!("  {:22} {ns:12.0} ns  {ratio:9.2} x ours", contender.name());
        rows.push(row(
            contender.name(),
            regions,
            operation,
            readers,
            ns,
            ratio,
        ));
    }
    rows
}

fn row(name: &str, vmas: usize, operation: &str, readers: usize, ns: f64, ratio: f64) -> Value {
    json!({
        "name": name, "vmas": vmas, "operation": operation, "readers": readers,
        "ns": ns, "ours_ratio": ratio,
    })
}

/// Nanoseconds per change, over one turn.
fn turn(time: Duration, change: &dyn Fn(usize)) -> f64 {
    let begun = Instant::now();
    let mut done = 0;
    while done == 0 || begun.elapsed() < time {
        // Spread over the map, as hotplug would be.
        change(done * 7919);
        done += 1;
    }
    begun.elapsed().as_nanos() as f64 / done as f64
}

fn beside_readers<R>(
    contender: &dyn Contender,
    regions: usize,
    readers: usize,
    run: impl FnOnce() -> R,
) -> R {
    let stop = AtomicBool::new(false);
    let addresses = addresses(regions, false);
    thread::scope(|s| {
        for reader in 0..readers {
            let (addresses, stop) = (&addresses, &stop);
            s.spawn(move || contender.spin(addresses, reader * 777, stop));
        }
        let result = run();
        stop.store(true, Ordering::Relaxed);
        result
    })
}

/// What only Gracefault does, and what its VMAs take.
fn native(regions: usize, effort: &Effort) -> Vec<Value> {
    let before = ALLOCATED.load(Ordering::Relaxed);
    let map = peers::native(regions);
    let bytes = (ALLOCATED.load(Ordering::Relaxed) - before) as f64 / regions as f64;
    println!("\n{regions} VMAs take {bytes:.0} bytes each, all included");
    let mut rows = vec![json!({
        "name": "gracefault", "vmas": regions, "operation": "memory", "bytes_per_vma": bytes,
    })];

    let rounds = || 0..effort.rounds;
    let protect = |n: usize| map.protect_half(n % regions);
    let ns = median(rounds().map(|_| turn(effort.turn, &protect)).collect());
    println!("  protect of a half and back: {ns:.0} ns");
    rows.push(row("gracefault", regions, "protect-half", 0, ns, 1.0));

    for holders in [0, 1, 4] {
        let ns = median(
            rounds()
                .map(|_| drain_beside(&map, holders, effort.turn))
                .collect(),
        );
        println!("  replace, {holders} threads holding and letting go of it: {ns:.0} ns");
        rows.push(row("gracefault", regions, "drain", holders, ns, 1.0));
    }
    rows
}

/// Nanoseconds per replacement of region 0, which `holders` threads look up, hold
/// for a moment, and let go.
fn drain_beside(map: &peers::Gracefault, holders: usize, time: Duration) -> f64 {
    let stop = AtomicBool::new(false);
    thread::scope(|s| {
        for _ in 0..holders {
            s.spawn(|| map.hold_again_and_again(0, &stop));
        }
        let ns = turn(time, &|_| support::contender::Map::replace(map, 0));
        stop.store(true, Ordering::Relaxed);
        ns
    })
}
