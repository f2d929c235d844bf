//! One block, plugged and unplugged again and again beside two vCPUs that touch
//! it, and nothing left behind.
use std::cell::Cell;
use std::time::{Duration, Instant};

use gracefault::hotplug::{BlockKind, Consent};
use libtest_mimic::Trial;

use crate::support::blocks::{
    Blocks, Picture, cooperator, eventually, mappings, status, stop, toucher,
};
use crate::support::{Outcome, kvm_test};

const BLOCK: u64 = 2 << 20;
const VCPUS: u32 = 2;
/// The guest touches so many pages of it.
const PAGES: u64 = 16;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test("cycles_forced", || forced(2_000)),
        kvm_test("cycles_cooperative", || cooperative(500)),
        kvm_test("cycles_forced_100_000", || forced(100_000)).with_ignored_flag(true),
        kvm_test("cycles_cooperative_10_000", || cooperative(10_000)).with_ignored_flag(true),
    ]
}

fn forced(cycles: u64) -> Outcome {
    let blocks = Blocks::new(BLOCK, 1)?;
    let group = blocks.start(VCPUS, toucher(), PAGES)?;
    run(&blocks, cycles, || {
        blocks.region.unplug(0, Consent::Surprise, None)?;
        Ok(())
    })?;
    println!("rounds of the vCPUs: {:?}", stop(group)?);
    Ok(())
}

fn cooperative(cycles: u64) -> Outcome {
    let blocks = Blocks::new(BLOCK, 1)?;
    let group = blocks.start(VCPUS, cooperator(), PAGES)?;
    run(&blocks, cycles, || {
        let consent = Consent::Asked {
            deadline: Instant::now() + Duration::from_secs(60),
            cancelled: &|| false,
        };
        blocks.region.unplug(0, consent, None)?;
        Ok(())
    })?;
    println!("rounds of the vCPUs: {:?}", stop(group)?);
    Ok(())
}

/// Cycles before the first look.
const WARM_UP: u64 = 50;
/// In one cycle of so many the block stays until both vCPUs have touched each of their
/// pages. In the others it is gone as soon as can be, which they may not even notice.
const TOUCHED: u64 = 50;

fn run(blocks: &Blocks, cycles: u64, unplug: impl Fn() -> Outcome) -> Outcome {
    let touched = Cell::new(0);
    let cycle = |number: u64| -> Outcome {
        blocks.region.plug(0, BlockKind::Cooperative)?;
        if number.is_multiple_of(TOUCHED) {
            let is_touched = || blocks.is_touched(VCPUS, PAGES).expect("it is plugged");
            eventually(is_touched);
            assert!(is_touched(), "cycle {number}: a vCPU does not come there");
            touched.set(touched.get() + 1);
        }
        unplug()
    };
    for number in 0..WARM_UP {
        cycle(number)?;
    }
    let now = || (Picture::of(blocks), mappings(), status()["VmRSS"]);
    let before = now();
    let begun = Instant::now();
    for number in 0..cycles {
        cycle(number)?;
    }
    let took = begun.elapsed();
    let after = now();
    println!("{cycles} cycles in {took:.1?}: before {before:?}, after {after:?}");
    println!(
        "the guest has touched the block in {} cycles, or more",
        touched.get()
    );
    assert_eq!(after.0, before.0);
    // The allocator may take or leave a little; nothing per cycle.
    let some = cycles as usize / 100;
    assert!(after.1 <= before.1 + some.clamp(2, 8), "mappings");
    assert!(after.2 <= before.2 + 1024, "KiB of memory");
    Ok(())
}
