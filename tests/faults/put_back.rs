//! Memslots that were taken out go in again, since the one of another block stays.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use gracefault::hotplug::{BlockKind, Consent, HotplugError};
use gracefault::kvm::{End, VcpuThread};
use gracefault::memory::faults::{Fault, Step, Watch};
use gracefault::memory::{Mapping, PAGE};
use libtest_mimic::Trial;

use crate::support::blocks::{Blocks, eventually};
use crate::support::space::{ByMap, DONE, met};
use crate::support::{Outcome, guest, kvm_test, with_regs};

const BLOCK: u64 = 2 << 20;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test("put_back_that_kvm_refuses", that_kvm_refuses),
        kvm_test("put_back_with_all_ids_in_use", with_all_ids_in_use),
        kvm_test("put_back_beside_sse", beside_sse),
        kvm_test("put_back_makes_new_vmas", makes_new_vmas),
    ]
}

fn two_blocks(lazy: bool) -> Result<Blocks, Box<dyn std::error::Error>> {
    let blocks = Blocks::with(BLOCK, 2, |region| region.lazy(lazy))?;
    blocks.region.plug_all(&[0, 1], BlockKind::Cooperative)?;
    blocks.space.put_in_missing(None)?;
    Ok(blocks)
}

/// An unplug of both blocks that KVM refuses at the second, with these faults more.
fn rolled_back(blocks: &Blocks, more: &[Fault]) {
    blocks
        .space
        .put_in_missing(None)
        .expect("nothing fails yet");
    let mut faults = vec![Fault::once(Step::RemoveSlot, 1)];
    faults.extend(more);
    let watch = Watch::begin(&faults);
    let result = blocks.region.unplug_all(&[0, 1], Consent::Surprise, None);
    assert_eq!(watch.failed(Step::RemoveSlot), 1, "{result:?}");
    assert!(matches!(result, Err(HotplugError::Slot(_))), "{result:?}");
    let plugged: Vec<_> = blocks.region.plugged().iter().map(|(b, _)| *b).collect();
    assert_eq!(plugged, [0, 1]);
}

/// KVM takes none in again.
const NONE_IN: Fault = Fault {
    step: Step::AddSlot,
    after: 0,
    times: u64::MAX,
};

/// Two vCPUs add 1 to a word of block 0, so often each.
fn lock_inc(blocks: &Blocks, ids: [u32; 2], times: u64) -> Result<u64, Box<dyn std::error::Error>> {
    let gpa = blocks.region.block_range(0).start();
    let word = || -> Result<u64, Box<dyn std::error::Error>> {
        let mut bytes = [0; 8];
        blocks.space.read(gpa, &mut bytes, None)?;
        Ok(u64::from_le_bytes(bytes))
    };
    let code = guest!(
        "5: lock inc qword ptr [rbx]",
        "dec rcx",
        "jnz 5b",
        "mov [rbp], eax",
    );
    let mut threads = Vec::new();
    for id in ids {
        let mut vcpu = blocks.machine.vcpu(id, code)?;
        with_regs(&mut vcpu, |r| (r.rbx, r.rcx, r.rbp) = (gpa, times, DONE))?;
        threads.push(VcpuThread::spawn_with(vcpu, ByMap::new(&blocks.space))?);
    }
    for thread in threads {
        met(thread)?;
    }
    word()
}

/// The block is there as before: no update is lost, what KVM cannot emulate runs, and
/// it is unplugged and plugged again.
fn that_kvm_refuses() -> Outcome {
    const TIMES: u64 = 20_000;
    for lazy in [false, true] {
        let blocks = two_blocks(lazy)?;
        let slots = blocks.vm.slots();
        rolled_back(&blocks, &[NONE_IN]);
        assert_eq!(lock_inc(&blocks, [0, 1], TIMES)?, 2 * TIMES);
        if blocks.vm.reports_emulation_failures() {
            rolled_back(&blocks, &[NONE_IN]);
            let code = guest!("movq xmm0, [rbx]", "mov [rbp], eax");
            let mut vcpu = blocks.machine.vcpu(2, code)?;
            let gpa = blocks.region.block_range(0).start();
            with_regs(&mut vcpu, |r| (r.rbx, r.rbp) = (gpa, DONE))?;
            met(VcpuThread::spawn_with(vcpu, ByMap::new(&blocks.space))?)?;
        }
        // With no slot, and with one.
        for faults in [&[NONE_IN][..], &[]] {
            rolled_back(&blocks, faults);
            assert_eq!(blocks.vm.slots(), slots);
            let report = blocks.region.unplug_all(&[0, 1], Consent::Surprise, None)?;
            assert!(report.unmap_error.is_none(), "{report:?}");
            assert_eq!(blocks.vm.slots(), slots - 2);
            blocks.region.plug_all(&[0, 1], BlockKind::Cooperative)?;
        }
        assert_eq!(lock_inc(&blocks, [3, 4], TIMES)?, 2 * TIMES);
    }
    Ok(())
}

/// Another thread waits for a slot's number all the time, and gets none of those that
/// are only out for a moment.
fn with_all_ids_in_use() -> Outcome {
    let blocks = two_blocks(false)?;
    let memory = Arc::new(Mapping::anonymous(PAGE)?);
    let elsewhere = || blocks.vm.lazy_slot(1 << 34, memory.clone());
    let mut taken = Vec::new();
    while let Ok(slot) = elsewhere() {
        taken.push(slot);
    }
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            while !over.load(SeqCst) {
                if let Ok(slot) = elsewhere() {
                    return Some(slot);
                }
            }
            None
        });
        let rounds = || {
            for round in 0..200 {
                let faults = if round % 2 == 0 { &[NONE_IN][..] } else { &[] };
                rolled_back(&blocks, faults);
            }
        };
        // So that the other ends, too, if this fails.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(rounds));
        over.store(true, SeqCst);
        let stolen = other.join().expect("no panic");
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
        assert!(
            stolen.is_none(),
            "the number of a slot that is to come back"
        );
    });
    blocks.region.unplug_all(&[0, 1], Consent::Surprise, None)?;
    elsewhere()?;
    Ok(())
}

/// A vCPU that uses, all the time, what KVM cannot emulate, on a block whose slot is out
/// for moments.
fn beside_sse() -> Outcome {
    for lazy in [false, true] {
        let blocks = two_blocks(lazy)?;
        if !blocks.vm.reports_emulation_failures() {
            return Ok(());
        }
        let code = guest!(
            "5: movq xmm0, [rbx]",
            "inc rcx",
            "mov [rsp - 8], rcx",
            "jmp 5b"
        );
        let gpa = blocks.region.block_range(0).start();
        let mut vcpu = blocks.machine.vcpu(0, code)?;
        let mut stack = 0;
        with_regs(&mut vcpu, |r| {
            (r.rbx, r.rcx) = (gpa, 0);
            stack = r.rsp;
        })?;
        let vcpu = VcpuThread::spawn_with(vcpu, ByMap::new(&blocks.space))?;
        let rounds = || blocks.machine.ram.read_u64(stack - 8);
        for _ in 0..200 {
            // It is a second failure of one instruction that ends a vCPU.
            let before = rounds();
            eventually(|| rounds() > before + 1);
            rolled_back(&blocks, &[]);
        }
        vcpu.request_stop();
        let ended = vcpu.join();
        assert!(matches!(ended.end, End::Stopped), "{ended:?}");
    }
    Ok(())
}

/// A slot does not leave and come back while its VMA lives.
fn makes_new_vmas() -> Outcome {
    for lazy in [false, true] {
        let blocks = two_blocks(lazy)?;
        let generations = || {
            let start = |block| blocks.region.block_range(block);
            [0, 1].map(|block| blocks.space.mm().vmas(start(block))[0].generation)
        };
        let slots = blocks.region.slots();
        let before = generations();
        rolled_back(&blocks, &[]);
        let after = generations();
        assert!(after[0] > before[0], "its slot was out");
        assert_eq!(after[1], before[1], "its slot was not");
        assert_eq!(blocks.region.slots(), slots, "with the numbers they had");
    }
    Ok(())
}
