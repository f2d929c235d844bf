//! What guest RAM costs, by backend: a plug, the guest's first touch of a page, an
//! unplug. And what a guest gets done beside hotplug, with and without KVM dropping
//! all of its second-level mappings whenever a memslot goes.
//!
//! ```text
//! cargo bench --bench memory [-- --quick]
//! ```
//!
//! Prints medians; writes `target/gracefault/memory.json`. Needs `/dev/kvm`. A backend
//! that this host cannot give is named with the reason. Root lends the host's pool of
//! huge pages what `hugetlb` takes, and takes it back.

mod support;

#[path = "../../tests/support/mod.rs"]
mod guests;

use std::error::Error;
use std::ops::ControlFlow::{Break, Continue};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gracefault::devices::HotplugController;
use gracefault::hotplug::{BlockKind, Consent, HotplugRegion};
use gracefault::kvm::{Exit, Kvm, SlotZap, VcpuThread};
use gracefault::memory::{
    Backend, GuestSpace, HugePage, RamOptions, RamSizes, RamSource, ThpAdvice,
};
use gracefault::mm::AddrRange;
use serde_json::json;

use guests::pool::Pool;
use guests::{Machine, guest, with_regs};
use support::{is_quick, write_json};

type Outcome<T> = Result<T, Box<dyn Error>>;

const BLOCK: u64 = 2 << 20;
const PAGE: u64 = 4096;
/// Where the blocks are for the guest.
const START: u64 = 4 << 30;
/// In the machine's own RAM: what the guest counts.
const COUNT: u64 = 0x3f_0000;

fn main() {
    if let Err(error) = Kvm::open() {
        println!("left out: {error}");
        return;
    }
    let quick = is_quick();
    let mut rows = Vec::new();
    let (blocks, rounds) = if quick { (8, 3) } else { (32, 9) };
    println!("{blocks} blocks of 2 MiB, median of {rounds} rounds");
    println!(
        "{:<32}{:>14}{:>18}{:>16}",
        "backing", "plug µs/block", "touch ns/4K page", "unplug µs/block"
    );
    for (name, options) in backends() {
        match cost(options, blocks, rounds) {
            Ok([plug, touch, unplug]) => {
                let [plug, touch, unplug] = [plug * 1e6, touch * 1e9, unplug * 1e6];
                println!("{name:<32}{plug:>13.1}{touch:>18.0}{unplug:>16.1}");
                rows.push(json!({
                    "backing": name, "plug_us_per_block": plug,
                    "touch_ns_per_page": touch, "unplug_us_per_block": unplug,
                }));
            }
            Err(why) => {
                println!("{name:<32}left out: {why}");
                rows.push(json!({ "backing": name, "left_out": why.to_string() }));
            }
        }
    }
    let _ = std::fs::remove_file(path());
    let time = Duration::from_secs(if quick { 1 } else { 5 });
    println!(
        "\na guest that goes through 32 MiB, beside a thread that plugs and unplugs one block"
    );
    println!(
        "{:<28}{:>16}{:>20}",
        "a slot that goes takes", "guest pages/s", "plug + unplug /s"
    );
    for zap in [SlotZap::Everything, SlotZap::ThatSlot] {
        match beside(zap, time) {
            Ok((pages, cycles)) => {
                println!("{:<28}{pages:>16.0}{cycles:>20.0}", format!("{zap:?}"));
                rows.push(json!({
                    "zap": format!("{zap:?}"), "guest_pages_per_second": pages,
                    "cycles_per_second": cycles,
                }));
            }
            Err(why) => println!("{zap:?}: left out: {why}"),
        }
    }
    write_json("memory", rows);
}

fn path() -> std::path::PathBuf {
    std::env::temp_dir().join(format!("gracefault-bench-{}", std::process::id()))
}

fn backends() -> Vec<(&'static str, RamOptions)> {
    let of = |backend| RamOptions {
        backend,
        ..Default::default()
    };
    let prefaulted = |backend| RamOptions {
        prefault: true,
        ..of(backend)
    };
    let thp = |thp, prefault| RamOptions {
        thp,
        prefault,
        ..Default::default()
    };
    let (small, huge) = (ThpAdvice::Unwanted, ThpAdvice::Wanted);
    let hugetlb = || Backend::Hugetlb(HugePage::Size2M);
    let file = || Backend::File(path());
    let discarded = RamOptions {
        discard: true,
        ..of(file())
    };
    vec![
        ("anon,hugepages=off", thp(small, false)),
        ("anon,hugepages=off,prefault=on", thp(small, true)),
        ("anon,hugepages=thp", thp(huge, false)),
        ("anon,hugepages=thp,prefault=on", thp(huge, true)),
        ("memfd", of(Backend::Memfd)),
        ("memfd,prefault=on", prefaulted(Backend::Memfd)),
        ("hugetlb", of(hugetlb())),
        ("hugetlb,prefault=on", prefaulted(hugetlb())),
        ("file:PATH", of(file())),
        ("file:PATH,prefault=on", prefaulted(file())),
        ("file:PATH,discard=on", discarded),
        ("private-file:PATH", of(Backend::PrivateFile(path()))),
        (
            "private-file:PATH,prefault=on",
            prefaulted(Backend::PrivateFile(path())),
        ),
        ("image:PATH", of(Backend::Image(path()))),
        ("image:PATH,prefault=on", prefaulted(Backend::Image(path()))),
        ("guest-memfd", of(Backend::GuestMemfd)),
        ("guest-memfd,prefault=on", prefaulted(Backend::GuestMemfd)),
    ]
}

/// A machine with a region of `blocks` blocks.
fn machine(zap: SlotZap, options: RamOptions, blocks: u32) -> Outcome<(Machine, HotplugRegion)> {
    let machine = Machine::new_with(zap)?;
    let sizes = RamSizes {
        boot: 0,
        hotplug: u64::from(blocks) * BLOCK,
        block: BLOCK,
    };
    let source = match options.backend {
        Backend::GuestMemfd => {
            let make = |len| Ok::<_, Box<dyn Error>>(machine.vm.create_guest_memfd(len)?);
            RamSource::of_guest_memfd(options, sizes, make)?
        }
        _ => RamSource::open(options, sizes)?,
    };
    let range = AddrRange::new(0, 1 << 36).expect("not empty");
    let space = Arc::new(GuestSpace::physical(range));
    let controller = Arc::new(HotplugController::new(1));
    let vm = Arc::new(machine.vm.clone());
    let region = HotplugRegion::new(vm, space, controller, START, BLOCK, blocks);
    Ok((machine, region.with_ram(Arc::new(source))))
}

/// Seconds for a plug of a block, for the first touch of a page, for an unplug.
fn cost(options: RamOptions, blocks: u32, rounds: usize) -> Outcome<[f64; 3]> {
    let _pool = match options.backend {
        Backend::Hugetlb(_) => Some(Pool::grow(blocks.into())?),
        _ => None,
    };
    let (machine, region) = machine(SlotZap::default(), options, blocks)?;
    let bytes = u64::from(blocks) * BLOCK;
    // Over all pages, once for each time that it is let on.
    let mut vcpu = machine.vcpu(
        0,
        guest!(
            "6: mov rsi, r8",
            "5: mov [rsi], rsi",
            "add rsi, 0x1000",
            "cmp rsi, rdx",
            "jne 5b",
            "mov [rdi], rsi",
            "jmp 6b",
        ),
    )?;
    with_regs(&mut vcpu, |regs| {
        (regs.r8, regs.rdx) = (START, START + bytes)
    })?;
    let mut times = [const { Vec::new() }; 3];
    for _ in 0..rounds {
        let start = Instant::now();
        for block in 0..blocks {
            region.plug(block, BlockKind::Cooperative)?;
        }
        let plugged = Instant::now();
        match vcpu.run()? {
            Exit::MmioWrite { .. } => {}
            other => return Err(format!("{other:x?}").into()),
        }
        let touched = Instant::now();
        for block in 0..blocks {
            region.unplug(block, Consent::Surprise, None)?;
        }
        let blocks = f64::from(blocks);
        let parts = [plugged - start, touched - plugged, touched.elapsed()];
        let per = [blocks, blocks * (BLOCK / PAGE) as f64, blocks];
        for i in 0..3 {
            times[i].push(parts[i].as_secs_f64() / per[i]);
        }
    }
    Ok(times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    }))
}

/// Pages per second that a guest gets through while one other block comes and goes,
/// and how often that does.
fn beside(zap: SlotZap, time: Duration) -> Outcome<(f64, f64)> {
    let blocks = 16;
    let (machine, region) = machine(zap, RamOptions::default(), blocks + 1)?;
    if machine.vm.slot_zap() != zap {
        return Err("this KVM has no KVM_X86_QUIRK_SLOT_ZAP_ALL to disable".into());
    }
    for block in 0..blocks {
        region.plug(block, BlockKind::Cooperative)?;
    }
    let mut vcpu = machine.vcpu(
        0,
        guest!(
            "6: mov rsi, r8",
            "5: inc qword ptr [rsi]",
            "inc qword ptr [r9]",
            "add rsi, 0x1000",
            "cmp rsi, rdx",
            "jne 5b",
            "jmp 6b",
        ),
    )?;
    let end = START + u64::from(blocks) * BLOCK;
    with_regs(&mut vcpu, |regs| {
        (regs.r8, regs.r9, regs.rdx) = (START, COUNT, end)
    })?;
    let thread = VcpuThread::<()>::spawn(vcpu, |exit, _| match exit {
        Exit::MmioWrite { .. } | Exit::MmioRead { .. } => Break(()),
        _ => Continue(()),
    })?;
    // Through all of it once.
    while machine.ram.read_u64(COUNT) < u64::from(blocks) * (BLOCK / PAGE) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let (before, start) = (machine.ram.read_u64(COUNT), Instant::now());
    let mut cycles = 0_u32;
    while start.elapsed() < time {
        region.plug(blocks, BlockKind::Cooperative)?;
        region.unplug(blocks, Consent::Surprise, None)?;
        cycles += 1;
    }
    let seconds = start.elapsed().as_secs_f64();
    let pages = machine.ram.read_u64(COUNT) - before;
    thread.request_stop();
    let ended = thread.join();
    if ended.end.is_failure() {
        return Err(format!("{:?}", ended.end).into());
    }
    Ok((pages as f64 / seconds, f64::from(cycles) / seconds))
}
