//! A device that copies between guest buffers while writers remove the buffers, and
//! the device itself.
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use gracefault::devices::DmaDevice;
use gracefault::kvm::{MemSlot, SlotAccess, VcpuThread, Vm};
use gracefault::memory::{Backing, GuestSpace, Mapping};
use gracefault::mm::VmFlags;
use libtest_mimic::Trial;

use crate::support::space::{ByMap, DONE, met, range, space, word};
use crate::support::{MMIO, Machine, Outcome, guest, kvm_test, with_regs};

pub(crate) fn trials() -> Vec<Trial> {
    vec![kvm_test(
        "dma_beside_removals_of_all_it_touches",
        beside_removals,
    )]
}

const VCPUS: u64 = 2;
/// Each vCPU's memory that stays: what it sends, what comes back, the rest.
const STAYS: u64 = 4 << 30;
const STAYS_LEN: u64 = 0x30000;
const BACK: u64 = 0x10000;
const DESCRIPTORS: u64 = 0x20000;
const COUNTERS: u64 = 0x200c0;
const STOP: u64 = 0x20100;
/// Each vCPU's blocks that come and go, four in a row.
const BLOCKS: u64 = 5 << 30;
const BLOCK: u64 = 0x4000;
/// In the first block up to the last.
const VIA: u64 = 0x1000;
const LENGTH: u64 = 0xc000;

/// How long it may take to see all that is to be seen.
const PATIENCE: Duration = Duration::from_secs(200);
/// How long a copy may keep a writer waiting.
const DRAIN: Duration = Duration::from_secs(60);

/// Sends numbers through the blocks and back, each round others, by two copies;
/// counts rounds, those whose numbers came back, those of which some came back as
/// zeroes (a block was new), those of which some was not there, and wrong numbers.
fn sender() -> &'static [u8] {
    guest!(
        "5: inc r8",
        "mov r9, r8",
        "shl r9, 20",
        "xor ecx, ecx",
        "6: lea rax, [r9 + rcx + 1]",
        "mov [rbx + rcx * 8], rax",
        "inc ecx",
        "cmp ecx, 0x1800",
        "jb 6b",
        "mov qword ptr [rbx + 0x20018], 0",
        "mov qword ptr [rbx + 0x20058], 0",
        "lea rax, [rbx + 0x20000]",
        "mov [rdi], rax",
        "lea rax, [rbx + 0x20040]",
        "mov [rdi], rax",
        "inc qword ptr [rbx + 0x200c0]",
        "mov rax, [rbx + 0x20018]",
        "and rax, [rbx + 0x20058]",
        "cmp rax, 1",
        "jne 9f",
        "xor ecx, ecx",
        "xor edx, edx",
        "7: mov rax, [rbx + rcx * 8 + 0x10000]",
        "cmp rax, [rbx + rcx * 8]",
        "je 8f",
        "inc edx",
        "test rax, rax",
        "jz 8f",
        "inc qword ptr [rbx + 0x200e0]",
        "8: inc ecx",
        "cmp ecx, 0x1800",
        "jb 7b",
        "test edx, edx",
        "jnz 22f",
        "inc qword ptr [rbx + 0x200c8]",
        "jmp 23f",
        "22: inc qword ptr [rbx + 0x200d0]",
        "jmp 23f",
        "9: inc qword ptr [rbx + 0x200d8]",
        "23: cmp dword ptr [rbx + 0x20100], 0",
        "je 5b",
        "mov [rbp], eax",
    )
}

/// A VM, its map, and what is in it.
struct World {
    vm: Vm,
    space: Arc<GuestSpace>,
    dma: Arc<DmaDevice>,
    /// Sections that removed the device, the device with two blocks, a block.
    removals: [AtomicU64; 3],
    over: AtomicBool,
}

impl World {
    fn stays(vcpu: u64) -> u64 {
        STAYS + vcpu * (1 << 20)
    }

    fn block(vcpu: u64, block: u64) -> u64 {
        BLOCKS + (vcpu * 4 + block) * BLOCK
    }

    fn plug(&self, gpa: u64, len: u64) -> Result<(Arc<Mapping>, MemSlot), Box<dyn Error>> {
        let memory = Arc::new(Mapping::anonymous(len)?);
        let slot = self
            .vm
            .add_slot(gpa, memory.clone(), SlotAccess::ReadWrite)?;
        self.space.map_ram(range(gpa, len), memory.clone())?;
        Ok((memory, slot))
    }

    /// Takes the blocks out, and the device if asked to, in one section; when that is
    /// over their memory is nobody's any more. Then puts all back.
    fn replace(&self, slots: &mut BTreeMap<u64, MemSlot>, blocks: &[u64], device: bool) -> Outcome {
        let at_device = range(MMIO, DmaDevice::LEN);
        let mut section = self.space.mm().mmap_write_lock()?;
        for &gpa in blocks {
            section.unmap(range(gpa, BLOCK))?;
        }
        if device {
            section.unmap(at_device)?;
        }
        let drained = section.lock_until(Instant::now() + DRAIN)?;
        for gpa in blocks {
            let slot = slots.remove(gpa).ok_or("a slot that is not there")?;
            slot.remove().map_err(|(_, error)| error)?;
        }
        for vma in drained.publish().removed {
            if let Backing::Ram(memory) = vma.into_payload() {
                let alone = Arc::into_inner(memory).ok_or("somebody has the memory yet")?;
                alone.unmap()?;
            }
        }
        if !device {
            // The guest meets the hole.
            thread::yield_now();
        }
        for &gpa in blocks {
            slots.insert(gpa, self.plug(gpa, BLOCK)?.1);
        }
        if device {
            let backing = Backing::Mmio(self.dma.clone());
            let flags = VmFlags::READ | VmFlags::WRITE | VmFlags::IO;
            self.space.mm().map(at_device, flags, 0, backing)?;
        }
        Ok(())
    }

    /// Removes what it has the slots of, until it is over: single blocks, or else
    /// the device, alone and with two blocks.
    fn remove_on(&self, slots: &mut BTreeMap<u64, MemSlot>, device: bool) -> Outcome {
        for round in 0.. {
            if self.over.load(Relaxed) {
                break;
            }
            let vcpu = round / 2 % VCPUS;
            let (kind, blocks) = match (device, round % 2) {
                (true, 0) => (0, vec![]),
                (true, _) => (1, vec![Self::block(vcpu, 0), Self::block(vcpu, 1)]),
                (false, n) => (2, vec![Self::block(vcpu, 2 + n)]),
            };
            self.replace(slots, &blocks, device)?;
            self.removals[kind].fetch_add(1, Relaxed);
            // Or the device is hardly ever there.
            thread::sleep(Duration::from_micros(200));
        }
        Ok(())
    }

    /// Whether everything that is to be seen has been, by these counters.
    fn seen(&self, stays: &[Arc<Mapping>]) -> bool {
        let counts = self.dma.counts();
        let removals = self.removals.iter().all(|n| n.load(Relaxed) >= 50);
        let came_back = stays.iter().all(|ram| word(ram, COUNTERS + 8) >= 20);
        let met = counts.nested >= 10 && counts.waited >= 1 && counts.incomplete >= 1;
        removals && came_back && met
    }

    /// Waits for that; then all are to end.
    fn watch(&self, stays: &[Arc<Mapping>]) -> Result<bool, Box<dyn Error>> {
        let start = Instant::now();
        let mut seen = false;
        while !seen && !self.over.load(Relaxed) && start.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(20));
            seen = self.seen(stays);
        }
        self.over.store(true, Relaxed);
        for ram in stays {
            ram.write(STOP, &[1])?;
        }
        Ok(seen)
    }
}

fn beside_removals() -> Outcome {
    let machine = Machine::new()?;
    let space = space();
    let dma = Arc::new(DmaDevice::new(Arc::downgrade(&space), Arc::default()));
    space.map_device(range(MMIO, DmaDevice::LEN), dma.clone())?;
    let world = World {
        vm: machine.vm.clone(),
        space,
        dma,
        removals: Default::default(),
        over: AtomicBool::new(false),
    };
    let (mut stays, mut kept) = (Vec::new(), Vec::new());
    let mut slots = [BTreeMap::new(), BTreeMap::new()];
    let mut threads = Vec::new();
    for vcpu in 0..VCPUS {
        let at = World::stays(vcpu);
        let (ram, slot) = world.plug(at, STAYS_LEN)?;
        for block in 0..4 {
            let gpa = World::block(vcpu, block);
            slots[block as usize / 2].insert(gpa, world.plug(gpa, BLOCK)?.1);
        }
        let via = World::block(vcpu, 0) + VIA;
        let copies = [[at, via, LENGTH, 0], [via, at + BACK, LENGTH, 0]];
        for (copy, offset) in copies.into_iter().zip([DESCRIPTORS, DESCRIPTORS + 0x40]) {
            ram.write(offset, copy.map(u64::to_le_bytes).as_flattened())?;
        }
        let mut cpu = machine.vcpu(vcpu as u32, sender())?;
        with_regs(&mut cpu, |r| (r.rbx, r.rdi, r.rbp) = (at, MMIO, DONE))?;
        threads.push(VcpuThread::spawn_with(cpu, ByMap::new(&world.space))?);
        stays.push(ram);
        kept.push(slot);
    }
    let seen = run_beside(&world, slots, &stays)?;
    for thread in threads {
        met(thread)?;
    }
    let counts = world.dma.counts();
    let removals = world.removals.each_ref().map(|n| n.load(Relaxed));
    eprintln!("{counts:?}; removals {removals:?}");
    for ram in &stays {
        let [rounds, back, fresh, absent, wrong] =
            [0, 8, 16, 24, 32].map(|at| word(ram, COUNTERS + at));
        eprintln!("{rounds} rounds: {back} came back, {fresh} with zeroes, {absent} not all there");
        assert_eq!(wrong, 0, "numbers that nobody sent");
        assert_eq!(rounds, back + fresh + absent);
    }
    assert!(seen, "invalid: not everything that is to be seen was");
    Ok(())
}

/// Lets both writers work until there is nothing left to see, and says whether that
/// was so; or what went wrong.
fn run_beside(
    world: &World,
    slots: [BTreeMap<u64, MemSlot>; 2],
    stays: &[Arc<Mapping>],
) -> Result<bool, Box<dyn Error>> {
    let [mut with_device, mut single] = slots;
    let writer = |slots: &mut BTreeMap<u64, MemSlot>, device| {
        let result = world.remove_on(slots, device);
        world.over.store(true, Relaxed);
        result.map_err(|error| error.to_string())
    };
    thread::scope(|scope| {
        let writers = [
            scope.spawn(|| writer(&mut with_device, true)),
            scope.spawn(|| writer(&mut single, false)),
        ];
        let seen = world.watch(stays);
        for ended in writers {
            ended.join().map_err(|_| "a writer panicked")??;
        }
        seen
    })
}
