//! A small machine with a region to plug blocks into, guests that touch its first
//! block, and a picture of all there is.
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::fs;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gracefault::devices::HotplugController;
use gracefault::hotplug::HotplugRegion;
use gracefault::kvm::{End, Exit, Vcpu, VcpuGroup, Vm};
use gracefault::memory::{GuestSpace, Served};
use gracefault::mm::{AddrRange, VmaInfo};
use gracefault_guest::abi;

use super::{MMIO, Machine, guest, with_regs};

/// Where block 0 is; the guests' map goes on for 2 GiB.
pub(crate) const BLOCKS: u64 = 4 << 30;

/// A machine with a region of blocks, and a controller that a guest can join.
pub(crate) struct Blocks {
    pub(crate) machine: Machine,
    pub(crate) vm: Arc<Vm>,
    pub(crate) space: Arc<GuestSpace>,
    pub(crate) controller: Arc<HotplugController>,
    pub(crate) region: Arc<HotplugRegion>,
}

/// What a vCPU was told by its guest: a value that cannot be right.
pub(crate) type Wrong = u64;

impl Blocks {
    pub(crate) fn new(block_size: u64, blocks: u32) -> Result<Self, Box<dyn Error>> {
        Self::with(block_size, blocks, |region| region)
    }

    /// With a region that is `made` different.
    pub(crate) fn with(
        block_size: u64,
        blocks: u32,
        made: impl FnOnce(HotplugRegion) -> HotplugRegion,
    ) -> Result<Self, Box<dyn Error>> {
        Self::of_vm(block_size, blocks, |_, region| Ok(made(region)))
    }

    /// With a region that is `made` different, for which the VM may be needed.
    pub(crate) fn of_vm(
        block_size: u64,
        blocks: u32,
        made: impl FnOnce(&Vm, HotplugRegion) -> Result<HotplugRegion, Box<dyn Error>>,
    ) -> Result<Self, Box<dyn Error>> {
        let machine = Machine::new()?;
        let vm = Arc::new(machine.vm.clone());
        let all = AddrRange::new(0, 1 << vm.physical_bits()).ok_or("an address space")?;
        let space = Arc::new(GuestSpace::physical(all));
        let controller = Arc::new(HotplugController::new(2));
        let registers = AddrRange::new(abi::HOTPLUG_GPA, controller.len()).ok_or("registers")?;
        space.map_device(registers, controller.clone())?;
        let region = HotplugRegion::new(
            vm.clone(),
            space.clone(),
            controller.clone(),
            BLOCKS,
            block_size,
            blocks,
        );
        let region = Arc::new(made(&vm, region)?);
        Ok(Self {
            machine,
            vm,
            space,
            controller,
            region,
        })
    }

    /// vCPU `id`, about to run `code`, which may touch `pages` pages of block 0.
    pub(crate) fn vcpu(&self, id: u32, code: &[u8], pages: u64) -> Result<Vcpu, Box<dyn Error>> {
        let mut vcpu = self.machine.vcpu(id, code)?;
        with_regs(&mut vcpu, |regs| {
            regs.rdi = BLOCKS;
            regs.rsi = u64::from(id);
            regs.r12 = pages;
            regs.r13 = MMIO;
            regs.r14 = 0;
            regs.r15 = abi::HOTPLUG_GPA + u64::from(id) * abi::BANK;
        })?;
        Ok(vcpu)
    }

    /// Whether each of so many vCPUs has left its word in each of so many pages of block
    /// 0, which is plugged.
    pub(crate) fn is_touched(&self, vcpus: u32, pages: u64) -> Result<bool, Box<dyn Error>> {
        for page in 0..pages {
            for vcpu in 0..u64::from(vcpus) {
                let mut word = [0; 8];
                let access = self
                    .space
                    .read(BLOCKS + page * 4096 + vcpu * 8, &mut word, None)?;
                assert_eq!(access.served, Served::Memory, "it is plugged");
                if word == [0; 8] {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Starts vCPUs from 0 on with `code`, each of which may touch `pages` pages.
    pub(crate) fn start(
        &self,
        vcpus: u32,
        code: &[u8],
        pages: u64,
    ) -> Result<VcpuGroup<Wrong>, Box<dyn Error>> {
        let mut group = VcpuGroup::new();
        for id in 0..vcpus {
            let vcpu = self.vcpu(id, code, pages)?;
            let space = self.space.clone();
            group.spawn(vcpu, move |exit, _| answer(&space, exit))?;
        }
        Ok(group)
    }
}

/// As the machine's own exit path does; a store to [`MMIO`] ends the vCPU.
fn answer(space: &GuestSpace, exit: Exit<'_>) -> ControlFlow<Wrong> {
    let done = match exit {
        Exit::MmioWrite { gpa, data, .. } if gpa == MMIO => {
            let mut wrong = [0; 8];
            wrong[..data.len()].copy_from_slice(data);
            return ControlFlow::Break(u64::from_le_bytes(wrong));
        }
        Exit::MmioWrite { gpa, data, .. } => space.write(gpa, data, None).map(drop),
        Exit::MmioRead { gpa, data, .. } => {
            let answered = space.read(gpa, data, None).map(drop);
            if gpa >= abi::HOTPLUG_GPA && data.iter().all(|byte| *byte == 0) {
                // Nothing to do. There may be fewer CPUs than threads here.
                std::thread::yield_now();
            }
            answered
        }
        Exit::Interrupted => Ok(()),
        other => panic!("no guest here does that: {other:x?}"),
    };
    done.expect("the access is inside the space");
    ControlFlow::Continue(())
}

/// Writes a word that names its address into each page of block 0, in turn, and
/// reads it back: it may find that, or 0 in a block that was plugged anew, or all
/// ones where there is none. Counts its rounds in `r14`.
pub(crate) fn toucher() -> &'static [u8] {
    guest!(
        "6: xor r8d, r8d",
        "5: mov rax, r8",
        "shl rax, 12",
        "add rax, rdi",
        "lea rdx, [rax + rsi*8]",
        "mov [rdx], rdx",
        "mov rbx, [rdx]",
        "cmp rbx, rdx",
        "je 7f",
        "test rbx, rbx",
        "je 7f",
        "cmp rbx, -1",
        "je 7f",
        "mov [r13], rbx",
        "7: inc r8",
        "cmp r8, r12",
        "jb 5b",
        "inc r14",
        "jmp 6b",
    )
}

/// Joins the controller, and while block 0 is offered to it, and only then, writes
/// to each page and reads back: it must find what it wrote. Counts its rounds in
/// `r14`.
pub(crate) fn cooperator() -> &'static [u8] {
    guest!(
        "mov eax, 1",
        "mov [r15], rax",
        "xor r10d, r10d",
        // What does the controller want?
        "5: mov rax, [r15 + 8]",
        "test rax, rax",
        "jz 7f",
        "mov rbx, rax",
        "shr rbx, 32",
        "xor r10d, r10d",
        "cmp ebx, 1",
        "sete r10b",
        "mov [r15 + 16], rax",
        // Do we have it? Then all of it is touched once at least.
        "7: test r10d, r10d",
        "jz 5b",
        "xor r8d, r8d",
        "6: mov rax, r8",
        "shl rax, 12",
        "add rax, rdi",
        "lea rdx, [rax + rsi*8]",
        "inc r9",
        "mov [rdx], r9",
        "mov rbx, [rdx]",
        "cmp rbx, r9",
        "je 8f",
        "mov [r13], rbx",
        "8: inc r8",
        "cmp r8, r12",
        "jb 6b",
        "inc r14",
        "jmp 5b",
    )
}

/// Stops the vCPUs, which must have gone round, and found nothing wrong. Tells how
/// often each went round.
pub(crate) fn stop(group: VcpuGroup<Wrong>) -> Result<Vec<u64>, Box<dyn Error>> {
    let mut rounds = Vec::new();
    for ended in group.stop() {
        assert!(matches!(ended.end, End::Stopped), "{ended:x?}");
        rounds.push(ended.vcpu.regs()?.r14);
    }
    assert!(rounds.iter().sum::<u64>() > 0, "nobody went round");
    Ok(rounds)
}

/// What there is, in the map, in KVM and in this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Picture {
    pub(crate) vmas: Vmas,
    pub(crate) slots: u32,
    pub(crate) descriptors: usize,
    pub(crate) threads: usize,
    /// MiB of address space, rounded: the allocator has its way below that.
    pub(crate) space: u64,
}

impl Picture {
    pub(crate) fn of(blocks: &Blocks) -> Self {
        Self {
            vmas: Vmas(blocks.space.mm().vmas(blocks.space.mm().range())),
            slots: blocks.vm.slots(),
            ..Self::of_process()
        }
    }

    pub(crate) fn of_process() -> Self {
        let entries = |dir| fs::read_dir(dir).expect("procfs is there").count();
        Self {
            vmas: Vmas(Vec::new()),
            slots: 0,
            descriptors: entries("/proc/self/fd"),
            threads: entries("/proc/self/task"),
            space: (status()["VmSize"] + 512) / 1024,
        }
    }

    /// As [`of`](Self::of), once this process has so many threads.
    pub(crate) fn with_threads(blocks: &Blocks, threads: usize) -> Self {
        eventually(|| Self::of_process().threads == threads);
        Self::of(blocks)
    }

    /// Asserts that `now` comes to be this, soon.
    #[track_caller]
    pub(crate) fn assert_again(&self, what: &str, now: impl Fn() -> Self) {
        eventually(|| now() == *self);
        assert_eq!(now(), *self, "{what}");
    }
}

/// Waits until it is so, for some seconds at most: a thread that has been joined may
/// be in its directory a moment longer.
pub(crate) fn eventually(is_so: impl Fn() -> bool) {
    let limit = Instant::now() + Duration::from_secs(10);
    while !is_so() && Instant::now() < limit {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Many, as a rule.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Vmas(pub(crate) Vec<VmaInfo>);

impl fmt::Debug for Vmas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0[..] {
            few @ ([] | [_] | [_, _] | [_, _, _]) => write!(f, "{few:?}"),
            [first, .., last] => write!(f, "{} from {first:?} to {last:?}", self.0.len()),
        }
    }
}

/// `/proc/self/status`, what is given in KiB.
pub(crate) fn status() -> BTreeMap<String, u64> {
    let text = fs::read_to_string("/proc/self/status").expect("procfs is there");
    let fields = text.lines().filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        let kib = value.trim().strip_suffix(" kB")?;
        Some((name.to_owned(), kib.parse().ok()?))
    });
    fields.collect()
}

/// Bytes of this process's mappings whose lines in its `maps` are such.
pub(crate) fn mapped(is_it: impl Fn(&str) -> bool) -> u64 {
    let text = fs::read_to_string("/proc/self/maps").expect("procfs is there");
    let hex = |digits: &str| u64::from_str_radix(digits, 16).expect("an address");
    let len = |line: &str| {
        let (range, _) = line.split_once(' ').expect("a range first");
        let (start, end) = range.split_once('-').expect("from, to");
        hex(end) - hex(start)
    };
    text.lines().filter(|line| is_it(line)).map(len).sum()
}

/// Mappings of this process.
pub(crate) fn mappings() -> usize {
    let text = fs::read_to_string("/proc/self/maps").expect("procfs is there");
    text.lines().count()
}

/// One arena for all threads: another would be 64 MiB of address space, at some
/// moment. To be called before there are threads.
pub(crate) fn one_arena() {
    // SAFETY: sets a number in the allocator.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}
