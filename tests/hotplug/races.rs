//! Several threads that plug at once.
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::thread;

use gracefault::hotplug::{BlockKind, Consent, HotplugError, HotplugRegion};
use gracefault::kvm::{Exit, SlotError};
use gracefault::mm::WriteError;
use libtest_mimic::Trial;

use crate::support::blocks::{BLOCKS, Blocks, Picture};
use crate::support::{MMIO, Outcome, guest, kvm_test, with_regs};

const PAGE: u64 = 4096;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test("races_of_overlapping_plugs", || overlapping(2_000)),
        kvm_test("races_of_overlapping_plugs_20_000", || overlapping(20_000))
            .with_ignored_flag(true),
        kvm_test(
            "races_of_two_threads_with_200_blocks_each",
            two_hundred_each,
        ),
        kvm_test("races_for_the_number_of_a_plug", number_of_a_plug),
        kvm_test("the_last_memslot_and_one_more", last_memslot),
        kvm_test("blocks_at_the_end_of_the_space", at_the_end),
    ]
}

/// A block that is plugged is unplugged and plugged by another thread before the first one
/// can look: each is told the number of its own plug.
fn number_of_a_plug() -> Outcome {
    let blocks = Blocks::new(PAGE, 1)?;
    let region = &blocks.region;
    let plug = || region.plug(0, BlockKind::Cooperative).map(|r| r.plug);
    for _ in 0..500 {
        let (first, second) = thread::scope(|scope| {
            let other = scope.spawn(|| {
                while region.unplug(0, Consent::Surprise, None).is_err() {
                    std::hint::spin_loop();
                }
                plug()
            });
            (plug(), other.join().expect("no panic"))
        });
        let (first, second) = (first?, second?);
        assert!(first < second, "{first}, {second}");
        assert_eq!(region.plug_of(0), Some(second));
        region.unplug(0, Consent::Surprise, None)?;
    }
    Ok(())
}

/// Two regions over the same addresses, one of which has larger blocks: only the
/// map and KVM can tell that they overlap.
fn overlapping(rounds: u32) -> Outcome {
    let blocks = Blocks::new(PAGE, 4)?;
    let controller = Arc::new(gracefault::devices::HotplugController::new(0));
    let larger = HotplugRegion::new(
        blocks.vm.clone(),
        blocks.space.clone(),
        controller,
        BLOCKS,
        2 * PAGE,
        2,
    );
    let before = Picture::of(&blocks);
    let mut first_won = 0;
    for round in 0..rounds {
        // Its first page, or its second.
        let (block, over) = (round % 4, round % 4 / 2);
        let start = Start::default();
        let (small, large) = thread::scope(|scope| {
            let other = scope.spawn(|| {
                start.together();
                larger.plug(over, BlockKind::Cooperative)
            });
            start.together();
            let small = blocks.region.plug(block, BlockKind::Cooperative);
            (small, other.join().expect("no panic"))
        });
        let (won, lost, winner, number) = match (&small, &large) {
            (Ok(_), Err(lost)) => (1, lost, &*blocks.region, block),
            (Err(lost), Ok(_)) => (0, lost, &larger, over),
            _ => panic!("round {round}: {small:?} and {large:?}"),
        };
        assert!(
            matches!(lost, HotplugError::Map(WriteError::Overlaps { .. })),
            "{lost}"
        );
        first_won += won;
        winner.unplug(number, Consent::Surprise, None)?;
    }
    println!("{rounds} of {rounds} races had one winner; the first {first_won} times");
    assert_eq!(Picture::of(&blocks).slots, before.slots);
    assert_eq!(Picture::of(&blocks).vmas, before.vmas);
    Ok(())
}

/// Where two threads meet; nobody has to be woken, so both go on at once.
#[derive(Default)]
struct Start(AtomicU32);

impl Start {
    fn together(&self) {
        self.0.fetch_add(1, SeqCst);
        while self.0.load(SeqCst) < 2 {
            thread::yield_now();
        }
    }
}

fn two_hundred_each() -> Outcome {
    let blocks = Blocks::new(PAGE, 400)?;
    let before = Picture::of(&blocks);
    let start = Start::default();
    thread::scope(|scope| {
        for parity in 0..2 {
            let (blocks, start) = (&blocks, &start);
            scope.spawn(move || {
                start.together();
                for n in 0..200 {
                    let block = 2 * n + parity;
                    let plugged = blocks.region.plug(block, BlockKind::Cooperative);
                    plugged.expect("nobody else plugs this one");
                }
            });
        }
    });
    assert_eq!(blocks.region.plugged().len(), 400);
    let now = Picture::of(&blocks);
    assert_eq!(now.slots, before.slots + 400);
    assert_eq!(now.vmas.0.len(), before.vmas.0.len() + 400);
    for block in 0..400 {
        let gpa = blocks.region.block_range(block).start();
        blocks.space.write(gpa, &block.to_le_bytes(), None)?;
        let mut found = [0; 4];
        blocks.space.read(gpa, &mut found, None)?;
        assert_eq!(u32::from_le_bytes(found), block);
    }
    Ok(())
}

/// One section for all that KVM takes, and the error of one more.
fn last_memslot() -> Outcome {
    let blocks = Blocks::new(PAGE, 40_000)?;
    let free = blocks.vm.max_slots() - blocks.vm.slots();
    let all: Vec<u32> = (0..free).collect();
    let report = blocks.region.plug_all(&all[1..], BlockKind::Cooperative)?;
    blocks.region.plug(0, BlockKind::Cooperative)?;
    println!("{free} blocks and a slot of boot RAM: {report:?}");
    assert_eq!(blocks.vm.slots(), blocks.vm.max_slots());
    // The last slot there is, and the highest block.
    for (vcpu, block) in [(0, 0), (1, free - 1)] {
        reaches(&blocks, vcpu, block)?;
    }
    let before = Picture::of(&blocks);
    for more in [&[free][..], &[free, free + 1]] {
        let error = blocks.region.plug_all(more, BlockKind::Cooperative);
        let error = error.expect_err("there is no slot left");
        assert!(
            matches!(error, HotplugError::Slot(SlotError::NoneLeft { limit }) if limit == blocks.vm.max_slots()),
            "{error}"
        );
        assert!(
            error
                .to_string()
                .contains(&blocks.vm.max_slots().to_string())
        );
    }
    let after = Picture::of(&blocks);
    assert_eq!((after.slots, after.vmas), (before.slots, before.vmas));
    // One goes, and another comes; two do not.
    blocks.region.unplug(7, Consent::Surprise, None)?;
    let two = blocks.region.plug_all(&[7, free], BlockKind::Cooperative);
    assert!(two.is_err());
    blocks.region.plug(free, BlockKind::Cooperative)?;
    reaches(&blocks, 2, free)
}

/// A guest stores to the block and loads that again, with no exit.
fn reaches(blocks: &Blocks, vcpu: u32, block: u32) -> Outcome {
    let gpa = blocks.region.block_range(block).start();
    let code = guest!("mov [rdi], rdi", "mov rbx, [rdi]", "mov [r13], rbx");
    let mut vcpu = blocks.vcpu(vcpu, code, 1)?;
    with_regs(&mut vcpu, |regs| regs.rdi = gpa)?;
    match vcpu.run()? {
        Exit::MmioWrite {
            gpa: MMIO, data, ..
        } => assert_eq!(data, gpa.to_le_bytes(), "block {block}"),
        other => panic!("block {block}: {other:x?}"),
    }
    let mut word = [0; 8];
    blocks.space.read(gpa, &mut word, None)?;
    assert_eq!(word, gpa.to_le_bytes(), "block {block}");
    Ok(())
}

fn at_the_end() -> Outcome {
    let blocks = Blocks::new(PAGE, 1)?;
    let end = 1_u64 << blocks.vm.physical_bits();
    let region = |start, count| {
        let (vm, space) = (blocks.vm.clone(), blocks.space.clone());
        let controller = Arc::new(gracefault::devices::HotplugController::new(0));
        HotplugRegion::new(vm, space, controller, start, PAGE, count)
    };
    let last = region(end - PAGE, 1);
    last.plug(0, BlockKind::Cooperative)?;
    let both = region(end - 2 * PAGE, 2);
    let error = both.plug_all(&[0, 1], BlockKind::Cooperative).unwrap_err();
    assert!(
        matches!(error, HotplugError::Map(WriteError::Overlaps { .. })),
        "{error}"
    );
    both.plug(0, BlockKind::Cooperative)?;
    Ok(())
}
