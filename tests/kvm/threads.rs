//! vCPU threads: ends, kicks, and what is left behind.
use std::cell::Cell;
use std::ops::ControlFlow::{Break, Continue};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use gracefault::kvm::{
    End, Exit, Registers, Seccomp, SlotAccess, VcpuError, VcpuFilter, VcpuGroup, VcpuThread, Waited,
};
use libtest_mimic::Trial;

use crate::support::{MMIO, Machine, Outcome, Ram, guest, kvm_test};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test("thread_ends", ends),
        kvm_test("thread_handler_panics", handler_panics),
        kvm_test("thread_errors_can_be_judged", errors_can_be_judged),
        kvm_test("thread_stop_says_where", stop_says_where),
        kvm_test("thread_kicks_are_not_lost", kicks_are_not_lost),
        kvm_test("thread_stops_are_not_lost", stops_are_not_lost),
        kvm_test("thread_stops_inside_an_instruction", inside_an_instruction),
        kvm_test("thread_handler_s_errors_are_its_own", errors_of_its_own),
        kvm_test("thread_makes_its_handler", makes_its_handler),
        kvm_test("thread_kicks_before_the_start_are_not_lost", early_kicks),
        kvm_test("thread_stops_though_signals_were_blocked", signals_blocked),
        kvm_test("group_waits_and_stops", group),
        kvm_test("group_of_many_stops_at_once", many),
        kvm_test("group_two_vcpus_beside_slot_changes", slot_changes),
        kvm_test("launches_leave_nothing", launches),
    ]
}

fn spin() -> &'static [u8] {
    guest!("5: inc rax", "jmp 5b")
}

fn exit_loop() -> &'static [u8] {
    guest!("5: mov [rdi], eax", "jmp 5b")
}

fn ends() -> Outcome {
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(0, exit_loop())?;
    let mut count = 0;
    let thread = VcpuThread::spawn(vcpu, move |exit, regs| {
        assert_eq!(std::thread::current().name(), Some("vcpu 0"));
        assert!(regs.rip >= 0x20_0000);
        count += u32::from(matches!(exit, Exit::MmioWrite { gpa: MMIO, .. }));
        if count == 10 {
            Break(count)
        } else {
            Continue(())
        }
    })?;
    let ended = thread.join();
    assert!(matches!(ended.end, End::Handler(10)), "{ended:?}");
    // The vCPU may run again.
    let again = VcpuThread::<()>::spawn(ended.vcpu, |_, _| Break(()))?;
    assert!(matches!(again.join().end, End::Handler(())));

    let failing = machine.vcpu(1, guest!("hlt"))?;
    let ended = VcpuThread::<()>::spawn(failing, |_, _| Continue(()))?.join();
    assert!(
        matches!(ended.end, End::Failed(VcpuError::Shutdown { vcpu: 1, .. })),
        "{ended:?}"
    );
    Ok(())
}

fn handler_panics() -> Outcome {
    let machine = Machine::new()?;
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let vcpu = machine.vcpu(0, exit_loop())?;
    let ended = VcpuThread::<()>::spawn(vcpu, |_, _| panic!("device {}", 7))?.join();
    std::panic::set_hook(hook);
    assert!(
        matches!(&ended.end, End::Panicked(m) if m == "device 7"),
        "{ended:?}"
    );
    assert!(ended.end.is_failure() && ended.rip.is_some());
    Ok(())
}

/// KVM goes on with an instruction that reads a device many times, each time with another
/// exit, also where it has been told to come back at once.
fn inside_an_instruction() -> Outcome {
    let machine = Machine::new()?;
    let code = guest!(
        "mov rsi, rdi",
        "lea rdi, [rsp - 0x800]",
        "mov ecx, 1024",
        "rep movsb",
        "5: jmp 5b",
    );
    let (here, is_here) = mpsc::channel();
    let (go, may_go) = mpsc::channel::<()>();
    let reads = Arc::new(AtomicU64::new(0));
    let counted = reads.clone();
    let vcpu = machine.vcpu(0, code)?;
    let thread = VcpuThread::<()>::spawn(vcpu, move |exit, _| {
        if let Exit::MmioRead { data, .. } = exit {
            data.fill(1);
            if counted.fetch_add(1, SeqCst) == 2 {
                here.send(()).expect("it waits");
                may_go.recv().expect("it is let on");
            }
        }
        Continue(())
    })?;
    is_here.recv()?;
    thread.request_stop();
    go.send(())?;
    let ended = thread.join();
    assert!(matches!(ended.end, End::Stopped), "{ended:?}");
    assert_eq!(reads.load(SeqCst), 3);
    Ok(())
}

/// What it does as soon as `KVM_RUN` has returned may fail.
struct Failing;

impl gracefault::kvm::VcpuHandler for Failing {
    type Output = bool;

    fn returned(&mut self) {
        // SAFETY: no descriptor has this number.
        let failed = unsafe { libc::close(-1) };
        assert_eq!(failed, -1);
    }

    fn exit(&mut self, exit: Exit<'_>, _: &Registers) -> std::ops::ControlFlow<bool> {
        Break(matches!(exit, Exit::Interrupted))
    }
}

fn errors_of_its_own() -> Outcome {
    let machine = Machine::new()?;
    let mut vcpu = machine.vcpu(0, spin())?;
    // Its handler makes a system call.
    vcpu.confine(None);
    let thread = VcpuThread::spawn_with(vcpu, Failing)?;
    thread.kick();
    let ended = thread.join();
    assert!(matches!(ended.end, End::Handler(true)), "{ended:?}");
    Ok(())
}

/// Cannot leave the thread that made it.
struct Staying {
    exits: Rc<Cell<u64>>,
    gone: Arc<AtomicU64>,
}

impl gracefault::kvm::VcpuHandler for Staying {
    type Output = u64;

    fn exit(&mut self, _: Exit<'_>, _: &Registers) -> std::ops::ControlFlow<u64> {
        self.exits.set(self.exits.get() + 1);
        match self.exits.get() {
            3 => Break(3),
            _ => Continue(()),
        }
    }
}

impl Drop for Staying {
    fn drop(&mut self) {
        self.gone.fetch_add(1, SeqCst);
    }
}

/// Also what it makes is dropped, once, before it has ended; and what panics while it is
/// made ends the vCPU as a handler's panic does. Before the filter: it opens a file.
fn makes_its_handler() -> Outcome {
    let machine = Machine::new()?;
    let gone = Arc::new(AtomicU64::new(0));
    let mut vcpu = machine.vcpu(0, exit_loop())?;
    vcpu.confine(VcpuFilter::new(Seccomp::On, &[])?);
    let of_thread = gone.clone();
    let make = move || {
        assert!(std::fs::File::open("/dev/null").is_ok());
        Staying {
            exits: Rc::default(),
            gone: of_thread,
        }
    };
    let ended = VcpuThread::spawn_from(vcpu, make)?.join();
    assert!(matches!(ended.end, End::Handler(3)), "{ended:?}");
    assert_eq!(gone.load(SeqCst), 1);
    let make = || -> Staying { panic!("while it is made") };
    let ended = VcpuThread::spawn_from(ended.vcpu, make)?.join();
    assert!(
        matches!(&ended.end, End::Panicked(message) if message == "while it is made"),
        "{ended:?}"
    );
    Ok(())
}

/// Installs the memory that an instruction failed for.
struct Lazy {
    vm: gracefault::kvm::Vm,
    slot: Option<gracefault::kvm::MemSlot>,
}

impl gracefault::kvm::VcpuHandler for Lazy {
    type Output = u64;

    fn exit(
        &mut self,
        exit: Exit<'_>,
        _: &gracefault::kvm::Registers,
    ) -> std::ops::ControlFlow<u64> {
        match exit {
            Exit::MmioWrite { gpa, .. } => Break(gpa),
            _ => Continue(()),
        }
    }

    fn error(&mut self, error: VcpuError, _: &Registers) -> Result<(), VcpuError> {
        match error {
            VcpuError::Emulation { .. } if self.slot.is_none() => {
                self.slot = self
                    .vm
                    .add_slot(MMIO, Ram::new(4096), SlotAccess::ReadWrite)
                    .ok();
                Ok(())
            }
            other => Err(other),
        }
    }
}

fn errors_can_be_judged() -> Outcome {
    let machine = Machine::new()?;
    if !machine.vm.reports_emulation_failures() {
        return Ok(());
    }
    let vcpu = machine.vcpu(0, guest!("movq xmm0, [rdi]", "mov [rdi + 0x1000], eax"))?;
    let lazy = Lazy {
        vm: machine.vm.clone(),
        slot: None,
    };
    let ended = VcpuThread::spawn_with(vcpu, lazy)?.join();
    assert!(
        matches!(ended.end, End::Handler(gpa) if gpa == MMIO + 0x1000),
        "{ended:?}"
    );
    Ok(())
}

/// What is lost never comes; what comes may be late, where others have the processors.
const LONG: Duration = Duration::from_secs(60);

fn stop_says_where() -> Outcome {
    let machine = Machine::new()?;
    let thread = VcpuThread::<()>::spawn(machine.vcpu(2, spin())?, |_, _| Continue(()))?;
    sleep(Duration::from_millis(20));
    assert!(!thread.is_finished());
    let begun = Instant::now();
    let ended = thread.stop();
    assert!(begun.elapsed() < LONG);
    assert!(matches!(ended.end, End::Stopped), "{ended:?}");
    assert!(
        (0x20_2000..0x20_2010).contains(&ended.rip.unwrap()),
        "{ended:?}"
    );
    Ok(())
}

/// Kicks at random moments; each must be seen.
fn kicks_are_not_lost() -> Outcome {
    let machine = Machine::new()?;
    for (id, code) in [(0, spin()), (1, exit_loop())] {
        let seen = Arc::new(AtomicU64::new(0));
        let count = seen.clone();
        let thread = VcpuThread::<()>::spawn(machine.vcpu(id, code)?, move |exit, _| {
            if exit == Exit::Interrupted {
                count.fetch_add(1, SeqCst);
            }
            Continue(())
        })?;
        let mut slowest = Duration::ZERO;
        for n in 0..5_000 {
            let pause = fastrand::u32(0..2_000);
            (0..pause).for_each(|_| std::hint::spin_loop());
            let (before, begun) = (seen.load(SeqCst), Instant::now());
            thread.kick();
            while seen.load(SeqCst) == before {
                assert!(begun.elapsed() < LONG, "kick {n} of vCPU {id} was lost");
                std::thread::yield_now();
            }
            slowest = slowest.max(begun.elapsed());
        }
        eprintln!("  vCPU {id}: slowest of 5000 kicks {slowest:?}");
        assert!(matches!(thread.stop().end, End::Stopped));
    }
    Ok(())
}

/// A stop right after the start, when the thread is on its way into the guest.
fn stops_are_not_lost() -> Outcome {
    let machine = Machine::new()?;
    let mut vcpu = machine.vcpu(0, spin())?;
    for _ in 0..1_000 {
        let thread = VcpuThread::<()>::spawn(vcpu, |_, _| Continue(()))?;
        (0..fastrand::u32(0..5_000)).for_each(|_| std::hint::spin_loop());
        let begun = Instant::now();
        let ended = thread.stop();
        assert!(begun.elapsed() < LONG);
        assert!(matches!(ended.end, End::Stopped), "{ended:?}");
        vcpu = ended.vcpu;
    }
    Ok(())
}

/// A kick, and nothing else, right after the start.
fn early_kicks() -> Outcome {
    let machine = Machine::new()?;
    let mut vcpu = machine.vcpu(0, spin())?;
    for _ in 0..1_000 {
        let thread = VcpuThread::spawn(vcpu, |exit, _| match exit {
            Exit::Interrupted => Break(()),
            _ => Continue(()),
        })?;
        (0..fastrand::u32(0..3_000)).for_each(|_| std::hint::spin_loop());
        thread.kick();
        let begun = Instant::now();
        while !thread.is_finished() {
            assert!(begun.elapsed() < LONG, "the kick was lost");
            std::thread::yield_now();
        }
        vcpu = thread.join().vcpu;
    }
    Ok(())
}

/// A thread inherits its maker's signal mask.
fn signals_blocked() -> Outcome {
    let machine = Machine::new()?;
    let vcpu = machine.vcpu(0, spin())?;
    let maker = std::thread::spawn(move || {
        vmm_sys_util::signal::block_signal(gracefault::kvm::kick::signal()).unwrap();
        VcpuThread::<()>::spawn(vcpu, |_, _| Continue(()))
    });
    let thread = maker.join().unwrap()?;
    sleep(Duration::from_millis(20));
    assert!(matches!(thread.stop().end, End::Stopped));
    Ok(())
}

fn group() -> Outcome {
    let machine = Machine::new()?;
    let mut group = VcpuGroup::<u32>::new();
    group.spawn(machine.vcpu(0, spin())?, |_, _| Continue(()))?;
    group.spawn(machine.vcpu(1, exit_loop())?, |_, _| Break(5))?;
    assert_eq!(group.wait(Duration::from_millis(200)), Waited::TimedOut);
    group.spawn(machine.vcpu(2, guest!("hlt"))?, |_, _| Continue(()))?;
    assert_eq!(group.wait(Duration::from_secs(10)), Waited::Failed);
    assert_eq!(
        group
            .threads()
            .iter()
            .map(VcpuThread::id)
            .collect::<Vec<_>>(),
        [0, 1, 2]
    );
    let ended = group.stop();
    assert!(matches!(ended[0].end, End::Stopped), "{ended:?}");
    assert!(matches!(ended[1].end, End::Handler(5)), "{ended:?}");
    assert!(matches!(ended[2].end, End::Failed(_)), "{ended:?}");
    // Dropped while running: stopped.
    let mut group = VcpuGroup::<()>::new();
    group.spawn(machine.vcpu(3, spin())?, |_, _| Continue(()))?;
    drop(group);
    assert_eq!(
        VcpuGroup::<()>::new().wait(Duration::ZERO),
        Waited::AllEnded
    );
    Ok(())
}

/// Many more vCPUs than CPUs, all busy.
fn many() -> Outcome {
    let machine = Machine::new()?;
    let mut group = VcpuGroup::<()>::new();
    for id in 0..100 {
        group.spawn(machine.vcpu(id, spin())?, |_, _| Continue(()))?;
    }
    assert_eq!(group.wait(Duration::from_millis(100)), Waited::TimedOut);
    let begun = Instant::now();
    let ended = group.stop();
    eprintln!("  stopping 100 vCPUs: {:?}", begun.elapsed());
    assert!(begun.elapsed() < LONG);
    assert_eq!(ended.len(), 100);
    assert!(
        ended
            .iter()
            .all(|e| matches!(e.end, End::Stopped) && e.rip.is_some())
    );
    Ok(())
}

/// Two vCPUs sweep blocks that two threads plug and unplug. Reads find the
/// block's value or nothing's, and every access is counted once.
fn slot_changes() -> Outcome {
    let machine = Machine::new()?;
    const BLOCKS: u64 = 4;
    const BLOCK: u64 = 2 << 20;
    let code = guest!(
        "5: mov rbx, rdi",
        "mov ecx, 4",
        "6: mov rax, [rbx]",
        "cmp rax, -1",
        "je 7f",
        "cmp rax, 0x5a5a",
        "jne 8f",
        "7: mov [rbx + 8], rsi",
        "add rbx, 0x200000",
        "dec ecx",
        "jnz 6b",
        "inc r12",
        "jmp 5b",
        "8: ud2",
    );
    let mut group = VcpuGroup::<()>::new();
    let counts: [Arc<AtomicU64>; 2] = Default::default();
    let mut stats = Vec::new();
    for id in 0..2 {
        let vcpu = machine.vcpu(id, code)?;
        stats.push(vcpu.stats().ok());
        let count = counts[id as usize].clone();
        group.spawn(vcpu, move |exit, _| {
            let first = match exit {
                Exit::MmioRead { data, fragment, .. } => {
                    data.fill(0xff);
                    !fragment
                }
                Exit::MmioWrite { fragment, .. } => !fragment,
                _ => false,
            };
            count.fetch_add(u64::from(first), SeqCst);
            Continue(())
        })?;
    }
    let stop = AtomicBool::new(false);
    let changes = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for n in 0..2 {
            let (vm, stop, changes) = (&machine.vm, &stop, &changes);
            scope.spawn(move || {
                let mut slots: [_; BLOCKS as usize] = std::array::from_fn(|_| None);
                while !stop.load(SeqCst) {
                    let block = fastrand::u64(0..BLOCKS / 2) * 2 + n;
                    let slot = &mut slots[block as usize];
                    if slot.take().is_none() {
                        let ram = Ram::new(BLOCK as usize);
                        ram.write(0, &0x5a5a_u64.to_le_bytes());
                        let gpa = MMIO + block * BLOCK;
                        *slot = Some(vm.add_slot(gpa, ram, SlotAccess::ReadWrite).unwrap());
                    }
                    changes.fetch_add(1, SeqCst);
                }
            });
        }
        assert_eq!(group.wait(Duration::from_secs(2)), Waited::TimedOut);
        stop.store(true, SeqCst);
    });
    let ended = group.stop();
    for (id, ended) in ended.iter().enumerate() {
        assert!(matches!(ended.end, End::Stopped), "{ended:?}");
        let loops = ended.vcpu.regs()?.r12;
        let count = counts[id].load(SeqCst);
        eprintln!(
            "  vCPU {id}: {loops} loops, {count} exits, {} slot changes",
            changes.load(SeqCst)
        );
        assert!(loops > 0 && count > 0);
        if let Some(kvm) = stats[id].as_ref().and_then(|s| s.read("mmio_exits")) {
            assert_eq!(count, kvm, "vCPU {id}'s accesses");
        }
    }
    Ok(())
}

/// How many descriptors, threads and mappings of KVM's this process has, and
/// how many mappings in all.
fn census() -> ([usize; 3], usize) {
    let count = |path| std::fs::read_dir(path).map_or(0, Iterator::count);
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let of_kvm = maps.lines().filter(|m| m.contains("kvm-vcpu")).count();
    (
        [count("/proc/self/fd"), count("/proc/self/task"), of_kvm],
        maps.lines().count(),
    )
}

fn launches() -> Outcome {
    let launch = || -> Outcome {
        let machine = Machine::new()?;
        let mut group = VcpuGroup::<()>::new();
        for id in 0..2 {
            let code = if id == 0 { spin() } else { exit_loop() };
            let vcpu = machine.vcpu(id, code)?;
            let _stats = vcpu.stats();
            group.spawn(vcpu, |_, _| Continue(()))?;
        }
        sleep(Duration::from_millis(1));
        // Every order of dropping must do.
        match fastrand::bool() {
            true => drop((machine, group)),
            false => drop((group, machine)),
        }
        Ok(())
    };
    // The allocator's own mappings settle first.
    (0..20).try_for_each(|_| launch())?;
    let before = census();
    let begun = Instant::now();
    (0..100).try_for_each(|_| launch())?;
    eprintln!("  100 launches of two vCPUs: {:?}", begun.elapsed());
    // A joined thread's entry in /proc may outlive the join by a moment.
    let deadline = Instant::now() + Duration::from_secs(1);
    while census().0 != before.0 && Instant::now() < deadline {
        sleep(Duration::from_millis(1));
    }
    let after = census();
    assert_eq!(after.0, before.0, "descriptors, threads, mappings of KVM's");
    // One left per launch would be a hundred; the allocator may make a few.
    assert!(
        after.1 < before.1 + 20,
        "mappings: {} then {}",
        before.1,
        after.1
    );
    Ok(())
}
