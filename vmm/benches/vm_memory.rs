//! Guest memory through the `vm-memory` traits: what an access costs, and a change.
//!
//! ```text
//! cargo bench --bench vm_memory [-- --quick]
//! ```
//!
//! Each access begins with `memory()`, as a device's does. Compared are `GuestRam` and
//! `GuestDma` with `GuestMemoryAtomic`, and with the floor: a `GuestMemoryMmap` that is
//! borrowed and can never change. Prints the time per access and thread, and the ratio
//! to `GuestMemoryAtomic` measured in the same rounds; writes
//! `target/gracefault/vm_memory.json`.

mod support;

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use gracefault::memory::vm_memory::GuestRam;
use gracefault::memory::{GuestSpace, Mapping};
use gracefault::mm::AddrRange;
use serde_json::{Value, json};
use support::{is_quick, median, stay_on_cpu, write_json};
use vm_memory::guest_memory::GuestMemorySliceIterator;
use vm_memory::{
    Bytes, GuestAddress, GuestAddressSpace, GuestMemory, GuestMemoryAtomic, GuestMemoryMmap,
    GuestRegionMmap, Permissions,
};

/// One access.
#[derive(Clone, Copy)]
enum Op {
    Obj,
    Slice(usize),
    /// Slices of so many regions.
    Slices(usize),
}

impl Op {
    fn name(self) -> String {
        match self {
            Self::Obj => "read_obj::<u64>".into(),
            Self::Slice(len) => format!("read_slice {} KiB", len >> 10),
            Self::Slices(regions) => format!("get_slices over {regions}"),
        }
    }
}

/// Regions, one after the other without a hole, and what is done with them.
struct Setting {
    regions: usize,
    len: u64,
    op: Op,
    threads: usize,
}

impl Setting {
    /// Where accesses begin.
    fn addresses(&self) -> Vec<u64> {
        let mut random = fastrand::Rng::with_seed(5);
        let mut address = || match self.op {
            Op::Obj => random.u64(0..self.regions as u64 * self.len / 8) * 8,
            Op::Slice(len) => {
                let within = (self.len - len as u64) / 8;
                random.u64(0..self.regions as u64) * self.len + random.u64(0..=within) * 8
            }
            Op::Slices(over) => random.u64(0..=(self.regions - over) as u64) * self.len,
        };
        (0..4096).map(|_| address()).collect()
    }
}

/// A memory under test.
trait Memory: Sync {
    fn name(&self) -> &'static str;
    /// Accesses until `stop`; how many, and how long they took.
    fn spin(&self, setting: &Setting, addresses: &[u64], stop: &AtomicBool) -> (u64, Duration);
    /// Puts new memory in the place of region `index`. Not what cannot change.
    fn replace(&self, index: usize);
}

/// Accesses between two looks at the stop flag.
const BATCH: usize = 32;

fn spin<A: GuestAddressSpace>(
    space: &A,
    setting: &Setting,
    addresses: &[u64],
    stop: &AtomicBool,
) -> (u64, Duration) {
    match setting.op {
        Op::Obj => turn(addresses, stop, |addr| {
            let memory = space.memory();
            memory.read_obj::<u64>(addr).expect("mapped")
        }),
        Op::Slice(len) => {
            let mut data = vec![0; len];
            turn(addresses, stop, |addr| {
                let memory = space.memory();
                memory.read_slice(&mut data, addr).expect("mapped");
                u64::from(data[0])
            })
        }
        Op::Slices(over) => {
            let len = over * setting.len as usize;
            turn(addresses, stop, |addr| {
                let memory = space.memory();
                let slices = memory.get_slices(addr, len, Permissions::Read);
                let slices = slices.and_then(GuestMemorySliceIterator::stop_on_error);
                let slices = slices.expect("mapped");
                slices
                    .map(|slice| slice.ptr_guard().as_ptr() as u64 & 1)
                    .sum::<u64>()
            })
        }
    }
}

fn turn(
    addresses: &[u64],
    stop: &AtomicBool,
    mut access: impl FnMut(GuestAddress) -> u64,
) -> (u64, Duration) {
    let (mut done, mut at, mut sum) = (0, 0, 0_u64);
    let mut batch = |accesses: usize| {
        for _ in 0..accesses {
            at = (at + 1) % addresses.len();
            sum = sum.wrapping_add(access(GuestAddress(addresses[at])));
        }
    };
    // What is measured is not how it begins; and it is measured in any case.
    batch(BATCH);
    let begun = Instant::now();
    while done == 0 || !stop.load(Ordering::Relaxed) {
        batch(BATCH);
        done += BATCH as u64;
    }
    black_box(sum);
    (done, begun.elapsed())
}

/// The floor: nobody can change it.
struct Fixed(GuestMemoryMmap);

impl Memory for Fixed {
    fn name(&self) -> &'static str {
        "floor"
    }
    fn spin(&self, setting: &Setting, addresses: &[u64], stop: &AtomicBool) -> (u64, Duration) {
        spin(&&self.0, setting, addresses, stop)
    }
    fn replace(&self, _: usize) {
        unreachable!("it cannot change");
    }
}

struct Theirs(GuestMemoryAtomic<GuestMemoryMmap>, u64);

impl Memory for Theirs {
    fn name(&self) -> &'static str {
        "vm-memory"
    }
    fn spin(&self, setting: &Setting, addresses: &[u64], stop: &AtomicBool) -> (u64, Duration) {
        spin(&self.0, setting, addresses, stop)
    }
    fn replace(&self, index: usize) {
        let Self(memory, len) = self;
        let base = GuestAddress(index as u64 * len);
        let alone = memory.lock().expect("nobody panics");
        let (without, _) = memory.memory().remove_region(base, *len).expect("there");
        let region = GuestRegionMmap::from_range(base, *len as usize, None).expect("room");
        alone.replace(without.insert_region(Arc::new(region)).expect("free"));
    }
}

struct Ours(GuestRam, u64);

impl Memory for Ours {
    fn name(&self) -> &'static str {
        "gracefault (GuestRam)"
    }
    fn spin(&self, setting: &Setting, addresses: &[u64], stop: &AtomicBool) -> (u64, Duration) {
        spin(&self.0, setting, addresses, stop)
    }
    fn replace(&self, index: usize) {
        let Self(memory, len) = self;
        let base = GuestAddress(index as u64 * len);
        let new = Arc::new(Mapping::anonymous(*len).expect("room"));
        memory.replace_region(base, new, None).expect("there");
    }
}

struct OursChecked(GuestRam);

impl Memory for OursChecked {
    fn name(&self) -> &'static str {
        "gracefault (GuestDma)"
    }
    fn spin(&self, setting: &Setting, addresses: &[u64], stop: &AtomicBool) -> (u64, Duration) {
        spin(&self.0.dma(), setting, addresses, stop)
    }
    fn replace(&self, _: usize) {
        unreachable!("it is the same as the other");
    }
}

/// What it is compared with.
const PEER: usize = 1;

fn memories(regions: usize, len: u64) -> Vec<Box<dyn Memory>> {
    let ranges: Vec<_> = (0..regions as u64)
        .map(|i| (GuestAddress(i * len), len as usize))
        .collect();
    let theirs = || GuestMemoryMmap::<()>::from_ranges(&ranges).expect("room");
    let space = GuestSpace::physical(AddrRange::new(0, 1 << 40).expect("not empty"));
    let ours = GuestRam::new(Arc::new(space));
    for (base, len) in &ranges {
        let memory = Mapping::anonymous(*len as u64).expect("room");
        ours.insert_region(*base, Arc::new(memory)).expect("free");
    }
    let floor = theirs();
    let theirs = GuestMemoryAtomic::new(theirs());
    // All pages are there, and no two memories have the same.
    for (base, len) in &ranges {
        let bytes = vec![1; *len];
        floor.write_slice(&bytes, *base).expect("mapped");
        theirs.memory().write_slice(&bytes, *base).expect("mapped");
        ours.memory().write_slice(&bytes, *base).expect("mapped");
    }
    vec![
        Box::new(Fixed(floor)),
        Box::new(Theirs(theirs, len)),
        Box::new(Ours(ours.clone(), len)),
        Box::new(OursChecked(ours)),
    ]
}

struct Effort {
    sizes: &'static [usize],
    rounds: usize,
    turn: Duration,
}

const FULL: Effort = Effort {
    sizes: &[16, 1024, 32_768],
    rounds: 21,
    turn: Duration::from_millis(8),
};
const QUICK: Effort = Effort {
    sizes: &[16, 32_768],
    rounds: 5,
    turn: Duration::from_millis(4),
};

fn main() {
    let effort = if is_quick() { QUICK } else { FULL };
    let mut results = Vec::new();
    for &regions in effort.sizes {
        let len = 0x1000;
        let memories = memories(regions, len);
        let slices = [1, 2, 64].into_iter().filter(|over| *over <= regions);
        let mut ops = vec![Op::Obj, Op::Slice(4 << 10)];
        ops.extend(slices.map(Op::Slices));
        measure_all(&memories, regions, len, &ops, &effort, &mut results);
    }
    let (regions, len) = (16, 2 << 20);
    let memories = memories(regions, len);
    let ops = [Op::Slice(1 << 20)];
    measure_all(&memories, regions, len, &ops, &effort, &mut results);
    drop(memories);
    for &regions in effort.sizes {
        results.extend(replace(regions, &effort));
    }
    write_json("vm_memory", results);
}

fn measure_all(
    memories: &[Box<dyn Memory>],
    regions: usize,
    len: u64,
    ops: &[Op],
    effort: &Effort,
    results: &mut Vec<Value>,
) {
    for &op in ops {
        for threads in [1, 2] {
            let setting = Setting {
                regions,
                len,
                op,
                threads,
            };
            results.extend(measure(memories, &setting, effort));
        }
    }
}

fn measure(memories: &[Box<dyn Memory>], setting: &Setting, effort: &Effort) -> Vec<Value> {
    let addresses = setting.addresses();
    let mut times = vec![Vec::new(); memories.len()];
    for _ in 0..effort.rounds {
        for (memory, times) in memories.iter().zip(&mut times) {
            times.push(one_turn(&**memory, setting, &addresses, effort.turn));
        }
    }
    let (op, threads, regions) = (setting.op.name(), setting.threads, setting.regions);
    println!("\n{op}, {regions} regions, {threads} threads");
    report(memories, &times, &op, regions, threads)
}

fn report(
    memories: &[Box<dyn Memory>],
    times: &[Vec<f64>],
    op: &str,
    regions: usize,
    threads: usize,
) -> Vec<Value> {
    let mut rows = Vec::new();
    for (memory, mine) in memories.iter().zip(times) {
        let ratios = mine
            .iter()
            .zip(&times[PEER])
            .map(|(mine, peer)| mine / peer);
        let (ns, ratio) = (median(mine.clone()), median(ratios.collect()));
        let name = memory.name();
        println!("  {name:22} {ns:12.1} ns  {ratio:7.3} x vm-memory");
        rows.push(json!({
            "name": name, "operation": op, "regions": regions, "threads": threads,
            "ns": ns, "vm_memory_ratio": ratio,
        }));
    }
    rows
}

/// One memory's turn: nanoseconds per access and thread.
fn one_turn(memory: &dyn Memory, setting: &Setting, addresses: &[u64], time: Duration) -> f64 {
    let stop = AtomicBool::new(false);
    let start = Barrier::new(setting.threads + 1);
    thread::scope(|s| {
        let readers: Vec<_> = (0..setting.threads)
            .map(|thread| {
                let (start, stop) = (&start, &stop);
                s.spawn(move || {
                    stay_on_cpu(thread);
                    start.wait();
                    memory.spin(setting, addresses, stop)
                })
            })
            .collect();
        start.wait();
        thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
        let results = readers
            .into_iter()
            .map(|reader| reader.join().expect("no access fails"));
        let (done, took) = results.fold((0, Duration::ZERO), |(n, t), (m, u)| (n + m, t + u));
        took.as_nanos() as f64 / done as f64
    })
}

/// What it takes to put new memory in the place of a region.
fn replace(regions: usize, effort: &Effort) -> Vec<Value> {
    let memories: Vec<_> = memories(regions, 0x1000).drain(PEER..=PEER + 1).collect();
    let mut times = vec![Vec::new(); memories.len()];
    for round in 0..effort.rounds {
        for (memory, times) in memories.iter().zip(&mut times) {
            let begun = Instant::now();
            let mut done = 0;
            while done == 0 || begun.elapsed() < effort.turn {
                // Spread over the map, as hotplug would be.
                memory.replace((round * 31 + done * 7919) % regions);
                done += 1;
            }
            times.push(begun.elapsed().as_nanos() as f64 / done as f64);
        }
    }
    println!("\nreplace one, {regions} regions");
    let op = "replace";
    let mut rows = Vec::new();
    for (memory, mine) in memories.iter().zip(&times) {
        let ratios = mine.iter().zip(&times[0]).map(|(mine, peer)| mine / peer);
        let (ns, ratio) = (median(mine.clone()), median(ratios.collect()));
        let name = memory.name();
        println!("  {name:22} {ns:12.1} ns  {ratio:7.4} x vm-memory");
        rows.push(json!({
            "name": name, "operation": op, "regions": regions, "threads": 1,
            "ns": ns, "vm_memory_ratio": ratio,
        }));
    }
    rows
}
