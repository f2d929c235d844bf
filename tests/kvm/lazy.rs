//! RAM whose memslot goes in when it is first missed.
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gracefault::kvm::{End, Kvm, LazyMemSlot, SlotAccess, SlotError, VcpuError, VcpuThread, Vm};
use gracefault::memory::{AccessError, LazySlot, PutInError};
use gracefault::mm::VmFlags;
use libtest_mimic::{Completion, Trial};

use crate::support::space::{ByMap, DONE, map_lazy, met, range, space, word};
use crate::support::{MMIO, Machine, Outcome, Ram, guest, kvm_test, kvm_test_if, with_regs};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test("lazy_lock_inc_loses_nothing", lock_inc_loses_nothing),
        kvm_test(
            "lazy_lock_inc_shows_a_late_slot",
            lock_inc_shows_a_late_slot,
        ),
        kvm_test("lazy_slot_comes_and_goes", comes_and_goes),
        kvm_test("lazy_slot_ids_are_taken_at_once", ids_are_taken_at_once),
        kvm_test_if("lazy_what_kvm_cannot_emulate_runs", not_emulated_runs),
        kvm_test_if("lazy_block_that_was_protected_runs", protected_runs),
        kvm_test_if(
            "lazy_what_kvm_cannot_emulate_stops_at_mmio",
            not_emulated_stops,
        ),
        kvm_test_if("lazy_two_vcpus_miss_one_block", two_miss_one),
        kvm_test("lazy_waits_for_no_writer_elsewhere", waits_for_no_writer),
        kvm_test("lazy_slot_that_kvm_refuses", refused),
    ]
}

/// Where blocks are.
const BLOCKS: u64 = 4 << 30;
const PAGE: u64 = 4096;
/// What a guest may do with its memory.
const ALL: VmFlags = VmFlags::READ.union(VmFlags::WRITE).union(VmFlags::EXEC);

/// Puts the slot in at the second request: after the access that missed it.
struct Late {
    slot: Arc<LazyMemSlot>,
    asked: AtomicBool,
}

impl LazySlot for Late {
    fn put_in(&self) -> Result<bool, PutInError> {
        match self.asked.swap(true, Ordering::SeqCst) {
            false => Ok(false),
            true => self.slot.put_in(),
        }
    }
}

fn in_time(slot: Arc<LazyMemSlot>) -> Arc<dyn LazySlot> {
    slot
}

fn late(slot: Arc<LazyMemSlot>) -> Arc<dyn LazySlot> {
    let asked = AtomicBool::new(false);
    Arc::new(Late { slot, asked })
}

/// Two vCPUs, which go over `blocks` fresh blocks at once in each of `rounds`
/// rounds and add 1 to each: how many blocks end at 2, and how many slots the vCPUs
/// put in.
fn lock_inc(
    rounds: u64,
    blocks: u64,
    wrap: fn(Arc<LazyMemSlot>) -> Arc<dyn LazySlot>,
) -> Result<(u64, u64), Box<dyn Error>> {
    let machine = Machine::new()?;
    let space = space();
    let code = guest!(
        "5: lock inc qword ptr [rbx]",
        "add rbx, 4096",
        "dec rcx",
        "jnz 5b",
        "mov [rbp], eax",
    );
    let mut vcpus = vec![machine.vcpu(0, code)?, machine.vcpu(1, code)?];
    let start = vcpus[0].regs()?.rip;
    let (mut at_2, mut slots) = (0, 0);
    for _ in 0..rounds {
        let block = |i| map_lazy(&machine.vm, &space, BLOCKS + i * PAGE, PAGE, wrap);
        let plugged = (0..blocks).map(block).collect::<Result<Vec<_>, _>>()?;
        let mut threads = Vec::new();
        for mut vcpu in vcpus.drain(..) {
            let entry = start + u64::from(vcpu.id()) * PAGE;
            with_regs(&mut vcpu, |r| {
                (r.rip, r.rbx, r.rcx, r.rbp) = (entry, BLOCKS, blocks, DONE);
            })?;
            threads.push(VcpuThread::spawn_with(vcpu, ByMap::new(&space))?);
        }
        for thread in threads {
            let ended = thread.join();
            match ended.end {
                End::Handler(met) => slots += met?.slots,
                other => return Err(format!("{other:?}").into()),
            }
            vcpus.push(ended.vcpu);
        }
        at_2 += plugged.iter().filter(|(ram, _)| word(ram, 0) == 2).count() as u64;
        space.mm().unmap(range(BLOCKS, blocks * PAGE), None)?;
    }
    Ok((at_2, slots))
}

fn lock_inc_loses_nothing() -> Outcome {
    let (rounds, blocks) = (20, 2000);
    let (at_2, slots) = lock_inc(rounds, blocks, in_time)?;
    assert_eq!(at_2, rounds * blocks);
    assert_eq!(slots, rounds * blocks, "each slot by one of the two");
    Ok(())
}

/// The test above can fail.
fn lock_inc_shows_a_late_slot() -> Outcome {
    let (rounds, blocks) = (2, 2000);
    let (at_2, _) = lock_inc(rounds, blocks, late)?;
    eprintln!(
        "{} of {} lost an update",
        rounds * blocks - at_2,
        rounds * blocks
    );
    assert!(at_2 < rounds * blocks, "no update was lost");
    Ok(())
}

/// In at the first access, and out again only if it was in.
fn comes_and_goes() -> Outcome {
    let machine = Machine::new()?;
    let space = space();
    let (touched, slot) = map_lazy(&machine.vm, &space, BLOCKS, PAGE, in_time)?;
    let (_, other) = map_lazy(&machine.vm, &space, BLOCKS + PAGE, PAGE, in_time)?;
    touched.write(16, &7u64.to_le_bytes())?;
    let code = guest!(
        "mov rax, [rbx + 16]",
        "mov [rbx + 24], rax",
        "mov [rbp], eax"
    );
    let run = |id| -> Result<u64, Box<dyn Error>> {
        let mut vcpu = machine.vcpu(id, code)?;
        with_regs(&mut vcpu, |r| (r.rbx, r.rbp) = (BLOCKS, DONE))?;
        Ok(met(VcpuThread::spawn_with(vcpu, ByMap::new(&space))?)?.slots)
    };
    assert_eq!((run(0)?, run(1)?), (1, 0));
    assert_eq!(word(&touched, 24), 7);
    assert!(slot.is_in() && !other.is_in());
    // As an unplug does it: map, then slot.
    space.mm().unmap(range(BLOCKS, 2 * PAGE), None)?;
    assert_eq!((slot.take_out()?, other.take_out()?), (true, false));
    assert!(!slot.is_in());
    assert_eq!(run(2)?, 0, "nothing is there");
    assert_eq!(word(&touched, 24), 7, "no write after the removal");
    // The id is its own, and goes with it.
    drop((slot, other));
    let again = machine
        .vm
        .add_slot(BLOCKS, touched, SlotAccess::ReadWrite)?;
    assert_eq!(again.id(), 1);
    Ok(())
}

/// A guest cannot come upon RAM for which there is no slot left.
fn ids_are_taken_at_once() -> Outcome {
    let vm = Vm::new(&Kvm::open()?)?;
    let ram = Ram::new(PAGE as usize);
    let mut slots = Vec::new();
    let error = loop {
        let gpa = slots.len() as u64 * PAGE;
        match vm.lazy_slot(gpa, ram.clone()) {
            Ok(slot) => slots.push(slot),
            Err(error) => break error,
        }
    };
    let limit = vm.max_slots();
    assert!(matches!(error, SlotError::NoneLeft { limit: l } if l == limit));
    assert!(error.to_string().contains(&format!("all {limit} memslots")));
    assert_eq!(slots.len() as u64, u64::from(limit));
    // The last one works.
    let last = slots.last().expect("some");
    assert_eq!((last.put_in(), last.put_in()), (Ok(true), Ok(false)));
    slots.pop();
    vm.lazy_slot(0x1000_0000, ram)?;
    Ok(())
}

/// Guests that load 7 from what `rbx` points to, in ways that KVM does not emulate.
fn not_emulated() -> [(&'static str, &'static [u8]); 5] {
    [
        (
            "movq",
            guest!(
                "movq xmm0, [rbx]",
                "movq rax, xmm0",
                "mov [rsp], rax",
                "mov [rbp], eax"
            ),
        ),
        (
            "paddq",
            guest!(
                "pxor xmm0, xmm0",
                "paddq xmm0, [rbx]",
                "movq rax, xmm0",
                "mov [rsp], rax",
                "mov [rbp], eax"
            ),
        ),
        (
            "cmpxchg16b",
            guest!(
                "push rbx",
                "mov rdi, rbx",
                "xor eax, eax",
                "xor edx, edx",
                "xor ebx, ebx",
                "xor ecx, ecx",
                "lock cmpxchg16b [rdi]",
                "pop rbx",
                "mov [rsp], rax",
                "mov [rbp], eax",
            ),
        ),
        (
            "movq store",
            guest!(
                "mov eax, 7",
                "movq xmm0, rax",
                "movq [rbx], xmm0",
                "mov rax, [rbx]",
                "mov [rsp], rax",
                "mov [rbp], eax",
            ),
        ),
        ("jmp", guest!("lea rax, [rbx + 0x100]", "jmp rax")),
    ]
}

/// What is in the memory that they touch: a 7, and code that leaves a 7 behind.
fn fill(ram: &gracefault::memory::Mapping) -> Outcome {
    ram.write(0, &7u64.to_le_bytes())?;
    ram.write(
        0x100,
        guest!("mov eax, 7", "mov [rsp], rax", "mov [rbp], eax"),
    )?;
    Ok(())
}

type Judged = Result<Completion, Box<dyn Error>>;

/// Why it cannot be seen here what KVM does not emulate.
const SILENT: &str = "needs KVM_CAP_EXIT_ON_EMULATION_FAILURE: run Linux 5.14 or later";

fn not_emulated_runs() -> Judged {
    let machine = Machine::new()?;
    if !machine.vm.reports_emulation_failures() {
        return Ok(Completion::ignored_with(SILENT));
    }
    let space = space();
    for (id, (what, code)) in (0..).zip(not_emulated()) {
        let gpa = BLOCKS + u64::from(id) * 4 * PAGE;
        let (ram, _) = map_lazy(&machine.vm, &space, gpa, PAGE, in_time)?;
        // Missing as well, and put in as well: nobody knows which it was.
        let (_, beside) = map_lazy(&machine.vm, &space, gpa + 2 * PAGE, PAGE, in_time)?;
        fill(&ram)?;
        let mut vcpu = machine.vcpu(id, code)?;
        let mut stack = 0;
        with_regs(&mut vcpu, |r| {
            (r.rbx, r.rbp, stack) = (gpa, DONE, r.rsp);
        })?;
        let met = met(VcpuThread::spawn_with(vcpu, ByMap::new(&space))?);
        let slots = met.map_err(|error| format!("{what}: {error}"))?.slots;
        assert_eq!(machine.ram.read_u64(stack), 7, "{what}");
        assert_eq!(slots, 2, "{what}");
        assert!(beside.is_in(), "{what}");
    }
    Ok(Completion::Completed)
}

/// Other access for a block, or for a part of one: it is lazy RAM for all that.
fn protected_runs() -> Judged {
    let machine = Machine::new()?;
    if !machine.vm.reports_emulation_failures() {
        return Ok(Completion::ignored_with(SILENT));
    }
    let space = space();
    let code = guest!("movq xmm0, [rbx]", "mov [rbp], eax");
    for (id, changed) in (0..).zip([1, 2]) {
        let gpa = BLOCKS + u64::from(id) * 2 * PAGE;
        let (_, slot) = map_lazy(&machine.vm, &space, gpa, 2 * PAGE, in_time)?;
        let mut section = space.mm().mmap_write_lock()?;
        section.protect(range(gpa, changed * PAGE), VmFlags::READ)?;
        section.protect(range(gpa, changed * PAGE), ALL)?;
        section.lock()?.publish();
        let mut vcpu = machine.vcpu(id, code)?;
        with_regs(&mut vcpu, |r| (r.rbx, r.rbp) = (gpa, DONE))?;
        let met = met(VcpuThread::spawn_with(vcpu, ByMap::new(&space))?)?;
        assert_eq!((met.slots, slot.is_in()), (1, true));
    }
    Ok(Completion::Completed)
}

/// Where there is no memory they end the vCPU, with and without lazy RAM elsewhere.
fn not_emulated_stops() -> Judged {
    let machine = Machine::new()?;
    if !machine.vm.reports_emulation_failures() {
        return Ok(Completion::ignored_with(SILENT));
    }
    let space = space();
    let mut ids = 0..;
    for lazy in [false, true] {
        let mut slot = None;
        if lazy {
            slot = Some(map_lazy(&machine.vm, &space, BLOCKS, PAGE, in_time)?.1);
        }
        for (what, code) in not_emulated() {
            let id = ids.next().expect("endless");
            let mut vcpu = machine.vcpu(id, code)?;
            with_regs(&mut vcpu, |r| (r.rbx, r.rbp) = (MMIO, DONE))?;
            let ended = VcpuThread::spawn_with(vcpu, ByMap::new(&space))?.join();
            let End::Failed(error) = ended.end else {
                panic!("{what}: {:?}", ended.end);
            };
            let text = error.to_string();
            let VcpuError::Emulation { vcpu, rip, bytes } = error else {
                panic!("{what}: {text}");
            };
            let code_at = 0x20_0000 + u64::from(id) * PAGE;
            let at = if what == "jmp" { MMIO + 0x100 } else { rip };
            assert_eq!((vcpu, rip), (id, at), "{what}: {text}");
            assert!(text.contains(&format!("rip {rip:#x}")), "{text}");
            if what != "jmp" {
                let offset = (rip - code_at) as usize;
                let first = code.get(offset).copied();
                assert_eq!(bytes.as_slice().first().copied(), first, "{what}: {text}");
            }
        }
        assert!(slot.is_none_or(|slot| slot.is_in()), "tried, all the same");
    }
    Ok(Completion::Completed)
}

/// Whoever comes second finds nothing missing, and must not stop for that.
fn two_miss_one() -> Judged {
    let machine = Machine::new()?;
    if !machine.vm.reports_emulation_failures() {
        return Ok(Completion::ignored_with(SILENT));
    }
    let space = space();
    let code = guest!(
        "5: movq xmm0, [rbx]",
        "add rbx, 4096",
        "dec rcx",
        "jnz 5b",
        "mov [rbp], eax",
    );
    // Each miss puts in all that is missing: so a block per round.
    for round in 0..50 {
        let gpa = BLOCKS + round * PAGE;
        map_lazy(&machine.vm, &space, gpa, PAGE, in_time)?;
        let mut threads = Vec::new();
        for cpu in 0..2 {
            let mut vcpu = machine.vcpu((round * 2 + cpu) as u32, code)?;
            with_regs(&mut vcpu, |r| (r.rbx, r.rcx, r.rbp) = (gpa, 1, DONE))?;
            threads.push(VcpuThread::spawn_with(vcpu, ByMap::new(&space))?);
        }
        let mut slots = 0;
        for thread in threads {
            slots += met(thread)?.slots;
        }
        assert_eq!(slots, 1, "round {round}");
    }
    Ok(Completion::Completed)
}

/// A slot goes in beside an open write section, whose thread is this one: to wait
/// for that would be for ever.
fn waits_for_no_writer() -> Outcome {
    let machine = Machine::new()?;
    let space = space();
    let (ram, slot) = map_lazy(&machine.vm, &space, BLOCKS, PAGE, in_time)?;
    map_lazy(&machine.vm, &space, BLOCKS + PAGE, PAGE, in_time)?;
    let mut section = space.mm().mmap_write_lock()?;
    section.unmap(range(BLOCKS + PAGE, PAGE))?;
    let drained = section.lock()?;
    let mut vcpu = machine.vcpu(0, guest!("lock inc qword ptr [rbx]", "mov [rbp], eax"))?;
    with_regs(&mut vcpu, |r| (r.rbx, r.rbp) = (BLOCKS, DONE))?;
    let met = met(VcpuThread::spawn_with(vcpu, ByMap::new(&space))?)?;
    assert_eq!((met.slots, word(&ram, 0)), (1, 1));
    assert!(slot.is_in());
    drained.publish();
    Ok(())
}

/// The guest does not go on then; and the slot goes in as soon as KVM takes it.
fn refused() -> Outcome {
    let machine = Machine::new()?;
    let space = space();
    let (ram, slot) = map_lazy(&machine.vm, &space, BLOCKS, 2 * PAGE, in_time)?;
    let in_the_way = Ram::new(PAGE as usize);
    let in_the_way = machine
        .vm
        .add_slot(BLOCKS + PAGE, in_the_way, SlotAccess::ReadWrite)?;
    let vcpu = |id| -> Result<VcpuThread<_>, Box<dyn Error>> {
        let code = guest!("lock inc qword ptr [rbx]", "mov [rbp], eax");
        let mut vcpu = machine.vcpu(id, code)?;
        with_regs(&mut vcpu, |r| (r.rbx, r.rbp) = (BLOCKS, DONE))?;
        Ok(VcpuThread::spawn_with(vcpu, ByMap::new(&space))?)
    };
    match vcpu(0)?.join().end {
        End::Handler(Err(AccessError::Slot {
            addr: BLOCKS,
            error,
        })) => {
            assert_eq!(error.errno, libc::EEXIST);
        }
        other => panic!("{other:?}"),
    }
    assert!(!slot.is_in());
    assert_eq!(word(&ram, 0), 0);
    in_the_way.remove().map_err(|(_, error)| error)?;
    assert_eq!((met(vcpu(1)?)?.slots, word(&ram, 0)), (1, 1));
    Ok(())
}
