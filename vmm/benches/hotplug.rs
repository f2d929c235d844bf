//! What plugging and unplugging a block takes beside running vCPUs, and where the
//! time goes; and what the guest's first touch of a page costs.
//!
//! ```text
//! cargo bench --bench hotplug [-- --quick]
//! ```
//!
//! Blocks come and go back to back, as fast as they can (few are touched then), or
//! each is left plugged until all vCPUs have touched it. In the second case the
//! writer finds its caches and TLB cold where vCPUs have run on its CPU meanwhile,
//! which weighs on the map's part, all of it memory accesses, more than on system
//! calls: with fewer CPUs than threads its share is larger.
//!
//! Prints medians; writes `target/gracefault/hotplug.json`. *Map* is planning, locking
//! and publishing; *drain* is waiting for readers, and counted apart: it lasts as long
//! as they do. *Wake* is waking the vCPUs that ran into the section, of both, after what
//! the map is now can be seen. *Map share* is the map's part of all that plug and unplug
//! take but for the drain; *with wake* is that of map and wake together.
//! Needs `/dev/kvm`.

mod support;

#[path = "../../tests/support/mod.rs"]
mod guests;

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gracefault::hotplug::{BlockKind, Consent, HotplugRegion, PlugReport, UnplugReport};
use gracefault::kvm::{Exit, Kvm};
use gracefault::memory::{PAGE, PageSource, RamSizes, RamSource};
use serde_json::{Value, json};

use guests::blocks::{Blocks, stop, toucher};
use guests::{MMIO, guest};
use support::{is_quick, median, write_json};

/// The guest touches so many pages of a block, if it has as many.
const PAGES: u64 = 16;

struct Effort {
    blocks: &'static [u64],
    vcpus: &'static [u32],
    cycles: usize,
    first_touches: usize,
}

const FULL: Effort = Effort {
    blocks: &[4 << 10, 2 << 20, 128 << 20],
    vcpus: &[0, 1, 2, 4],
    cycles: 1_000,
    first_touches: 200,
};
const QUICK: Effort = Effort {
    blocks: &[2 << 20],
    vcpus: &[0, 2],
    cycles: 300,
    first_touches: 30,
};

fn main() -> Result<(), Box<dyn Error>> {
    let effort = if is_quick() { QUICK } else { FULL };
    if let Err(error) = Kvm::open() {
        println!("left out: {error}");
        return Ok(());
    }
    let mut rows = Vec::new();
    println!("plug + unplug of a block, median microseconds");
    println!(
        "  {:>9} {:>5} {:>12}  {:>27}  {:>41}  {:>5}  {:>9}  {:>9}",
        "block",
        "vCPUs",
        "",
        "plug: map    KVM  mmap   all",
        "unplug: map   KVM munmap  drain    all",
        "wake",
        "map share",
        "with wake"
    );
    for &block in effort.blocks {
        for &vcpus in effort.vcpus {
            rows.push(cycles(block, vcpus, false, effort.cycles)?);
            if vcpus > 0 {
                rows.push(cycles(block, vcpus, true, effort.cycles)?);
            }
        }
    }
    println!("\nfirst touch of a page by the guest, median nanoseconds");
    for way in FIRST_TOUCHES {
        rows.push(first_touch(way, effort.first_touches)?);
    }
    write_json("hotplug", rows);
    Ok(())
}

/// Waits until each vCPU has touched the last of its pages; not for long, since one
/// may not get a CPU.
fn wait_until_touched(blocks: &Blocks, vcpus: u32, pages: u64) -> Result<bool, Box<dyn Error>> {
    let last = blocks.region.block_range(0).start() + (pages - 1) * 4096;
    let begun = Instant::now();
    for vcpu in 0..u64::from(vcpus) {
        let mut word = [0; 8];
        while word == [0; 8] {
            match begun.elapsed() {
                // It may be running right now.
                time if time < Duration::from_micros(200) => std::hint::spin_loop(),
                time if time < Duration::from_millis(20) => std::thread::yield_now(),
                _ => return Ok(false),
            }
            blocks.space.read(last + vcpu * 8, &mut word, None)?;
        }
    }
    Ok(true)
}

/// Forced cycles of one block that all vCPUs touch.
fn cycles(block: u64, vcpus: u32, wait: bool, cycles: usize) -> Result<Value, Box<dyn Error>> {
    let blocks = Blocks::new(block, 1)?;
    let pages = PAGES.min(block / 4096);
    let group = blocks.start(vcpus, toucher(), pages)?;
    let mut touched = 0;
    let mut plugs = Vec::new();
    let mut unplugs = Vec::new();
    for _ in 0..cycles {
        plugs.push(blocks.region.plug(0, BlockKind::Cooperative)?);
        if wait && wait_until_touched(&blocks, vcpus, pages)? {
            touched += 1;
        }
        unplugs.push(blocks.region.unplug(0, Consent::Surprise, None)?);
    }
    if vcpus > 0 {
        stop(group)?;
    }
    let plug = |part: fn(&PlugReport) -> Duration| ns(plugs.iter().map(part));
    let unplug = |part: fn(&UnplugReport) -> Duration| ns(unplugs.iter().map(part));
    let plug = [
        plug(|p| p.map),
        plug(|p| p.kvm),
        plug(|p| p.mmap),
        plug(|p| p.total),
    ];
    let unplug = [
        unplug(|u| u.map),
        unplug(|u| u.kvm),
        unplug(|u| u.munmap),
        unplug(|u| u.drain.waited),
        unplug(|u| u.total - u.drain.waited),
        unplug(|u| u.total),
    ];
    let wakes = plugs.iter().zip(&unplugs);
    let waking = ns(wakes.map(|(plug, unplug)| plug.waking + unplug.waking));
    let (map, all) = (plug[0] + unplug[0], plug[3] + unplug[4]);
    let [share, with_waking] = [map / all, (map + waking) / all];
    let us = |ns: f64| ns / 1e3;
    println!(
        "  {block:9} {vcpus:5} {:>12}  {:9.1} {:6.1} {:5.1} {:5.1}  {:11.1} {:5.1} {:6.1} {:6.1} {:6.1}  {:5.1}  {:7.1} %  {:7.1} %",
        if wait { "touched" } else { "back to back" },
        us(plug[0]),
        us(plug[1]),
        us(plug[2]),
        us(plug[3]),
        us(unplug[0]),
        us(unplug[1]),
        us(unplug[2]),
        us(unplug[3]),
        us(unplug[5]),
        us(waking),
        share * 100.0,
        with_waking * 100.0
    );
    Ok(json!({
        "operation": "plug-unplug", "block": block, "vcpus": vcpus, "waits": wait, "cycles": cycles,
        "touched": touched,
        "plug": { "map_ns": plug[0], "kvm_ns": plug[1], "mmap_ns": plug[2], "total_ns": plug[3] },
        "unplug": {
            "map_ns": unplug[0], "kvm_ns": unplug[1], "munmap_ns": unplug[2],
            "drain_ns": unplug[3], "total_ns": unplug[5],
        },
        "waking_ns": waking, "map_share": share, "map_share_with_waking": with_waking,
    }))
}

fn ns(times: impl Iterator<Item = Duration>) -> f64 {
    median(times.map(|time| time.as_nanos() as f64).collect())
}

/// How a page comes to be there when the guest touches it.
struct FirstTouch {
    name: &'static str,
    block: u64,
    /// Whether the slot goes in at that touch.
    lazy: bool,
    /// Whether the page comes from an image at that touch, by userfaultfd.
    image: bool,
    /// Makes block 0 ready to be touched.
    prepare: fn(&Blocks) -> Result<(), Box<dyn Error>>,
}

const FIRST_TOUCHES: &[FirstTouch] = &[
    FirstTouch {
        name: "slot at plug",
        block: 2 << 20,
        lazy: false,
        image: false,
        prepare: plug,
    },
    FirstTouch {
        name: "slot at plug, touched by the VMM before",
        block: 2 << 20,
        lazy: false,
        image: false,
        prepare: |blocks| {
            plug(blocks)?;
            let range = blocks.region.block_range(0);
            for page in (range.start()..=range.last()).step_by(4096) {
                blocks.space.write(page, &[1], None)?;
            }
            Ok(())
        },
    },
    FirstTouch {
        name: "slot at plug, block of a page",
        block: 4 << 10,
        lazy: false,
        image: false,
        prepare: plug,
    },
    FirstTouch {
        name: "lazy slot",
        block: 2 << 20,
        lazy: true,
        image: false,
        prepare: plug,
    },
    FirstTouch {
        name: "lazy slot, block of a page",
        block: 4 << 10,
        lazy: true,
        image: false,
        prepare: plug,
    },
    FirstTouch {
        name: "userfaultfd, an image of zeroes",
        block: 2 << 20,
        lazy: false,
        image: true,
        prepare: plug,
    },
];

/// An image of nothing but zeroes.
struct Zeroes;

impl PageSource for Zeroes {
    fn read_page(&self, _: u64, page: &mut [u8; PAGE as usize]) -> std::io::Result<()> {
        page.fill(0);
        Ok(())
    }
}

fn plug(blocks: &Blocks) -> Result<(), Box<dyn Error>> {
    blocks.region.plug(0, BlockKind::Cooperative)?;
    Ok(())
}

/// A guest writes to each page of a fresh block once, and again; the difference is
/// what the first touch costs.
fn first_touch(way: &FirstTouch, rounds: usize) -> Result<Value, Box<dyn Error>> {
    let sizes = RamSizes {
        boot: 0,
        hotplug: way.block,
        block: way.block,
    };
    let ram = match way.image {
        false => RamSource::anonymous(sizes),
        true => match RamSource::of_pages(sizes, Arc::new(Zeroes)) {
            Ok(ram) => ram,
            Err(error) => {
                println!("  {:40} left out: {error}", way.name);
                return Ok(json!({ "operation": "first-touch", "name": way.name }));
            }
        },
    };
    let made = |region: HotplugRegion| region.with_ram(Arc::new(ram)).lazy(way.lazy);
    let blocks = Blocks::with(way.block, 1, made)?;
    let pages = way.block / 4096;
    let code = guest!(
        "6: xor r8d, r8d",
        "5: mov rax, r8",
        "shl rax, 12",
        "mov [rdi + rax], r8",
        "inc r8",
        "cmp r8, r12",
        "jb 5b",
        "mov [r13], r8",
        "jmp 6b",
    );
    let mut vcpu = blocks.vcpu(0, code, pages)?;
    let mut sweep = || -> Result<f64, Box<dyn Error>> {
        let begun = Instant::now();
        loop {
            match vcpu.run()? {
                Exit::MmioWrite { gpa: MMIO, .. } => {
                    return Ok(begun.elapsed().as_nanos() as f64);
                }
                // A slot is missing.
                Exit::MmioWrite { gpa, data, .. } => blocks.space.write(gpa, data, None)?,
                other => panic!("the guest writes, and tells that it is done: {other:x?}"),
            };
        }
    };
    let mut per_page = Vec::new();
    for _ in 0..rounds {
        (way.prepare)(&blocks)?;
        let (first, again) = (sweep()?, sweep()?);
        per_page.push((first - again) / pages as f64);
        blocks.region.unplug(0, Consent::Surprise, None)?;
    }
    let per_page = median(per_page);
    println!("  {:40} {per_page:9.0}", way.name);
    Ok(json!({
        "operation": "first-touch", "name": way.name, "block": way.block,
        "ns_per_page": per_page,
    }))
}
