//! What an exit costs beside KVM itself: a write to a trivial device.
//!
//! ```text
//! cargo bench --bench exit [-- --quick]
//! ```
//!
//! *Recorder*: what putting one record into the ring costs, with the file's writer at
//! work beside it, in processor time. *Handler*: from an exit being decoded to the handler's return, in a
//! loop that does nothing else. *With KVM*: a bare loop around `KVM_RUN` that does not
//! even look at the exit, against Gracefault's vCPU thread and exit path without and with
//! tracing, on one and the same vCPU, with the same guest, in alternating slices; the
//! ratios are of the exits per second of slices beside each other. Once more *confined*:
//! without tracing, on a thread that has the filter of system calls which `run` gives it;
//! the kernel looks at that before it does anything, so it is none of the exit path's. *Return to call*: from
//! `KVM_RUN` returning to its next call in those slices, where caches and TLB are as KVM
//! has left them.
//!
//! All of that twice, with one and the same guest code: at CPL 3, and at CPL 0. A KVM in
//! software runs the one natively, in an address space of the guest's, and each exit
//! comes out of that by tens of microseconds of kernel; the other it emulates where it
//! is. Nothing else differs, so what an exit path takes more after the first is what it
//! found cold. On hardware there is no such difference.
//!
//! Prints medians; writes `target/gracefault/exit.json`. The part with KVM is left out
//! where `/dev/kvm` cannot be opened.

mod support;

#[path = "../../tests/support/mod.rs"]
mod guests;

use std::error::Error;
use std::ffi::{c_int, c_ulong, c_void};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering::Relaxed};

use gracefault::clock::{self, Rate};
use gracefault::kvm::{
    End, Exit, Kvm, Registers, Seccomp, Vcpu, VcpuFilter, VcpuHandler, VcpuThread,
};
use gracefault::machine::{Answering, ExitPath};
use gracefault::memory::{Device, DeviceError, GuestSpace};
use gracefault::mm::AddrRange;
use gracefault::trace::ExitKind;
use gracefault::trace::event::{self, Space};
use gracefault::trace::file::Meta;
use gracefault::trace::record::{EventSet, OnFull, RecordOptions, Recording};
use serde_json::{Value, json};

use guests::{MMIO, Machine, guest};
use support::{is_quick, median, write_json};

/// A hardware exit of which the VMM's share is shown.
const HARDWARE_EXIT_NS: f64 = 1_500.0;

struct Effort {
    batches: usize,
    rounds: usize,
    slice_ms: u64,
}

const FULL: Effort = Effort {
    batches: 2_000,
    rounds: 200,
    slice_ms: 50,
};
const QUICK: Effort = Effort {
    batches: 300,
    rounds: 15,
    slice_ms: 20,
};

/// Takes anything.
struct Trivial;

impl Device for Trivial {
    fn name(&self) -> &str {
        "trivial"
    }

    fn read(&self, _offset: u64, data: &mut [u8]) -> Result<(), DeviceError> {
        data.fill(0);
        Ok(())
    }

    fn write(&self, _offset: u64, _data: &[u8]) -> Result<(), DeviceError> {
        Ok(())
    }
}

/// What answers, and what records it.
struct Contender {
    name: &'static str,
    path: Option<ExitPath>,
    /// What its thread is confined by.
    filter: Option<Arc<VcpuFilter>>,
    /// Held until the end: its writer empties the ring.
    _recording: Option<Recording>,
}

impl Contender {
    fn new(name: &'static str, events: Option<EventSet>) -> Result<Self, Box<dyn Error>> {
        let memory = Arc::new(GuestSpace::physical(range(0, 1 << 46)));
        memory.map_device(range(MMIO, 0x1000), Arc::new(Trivial))?;
        let recording = events.map(recording).transpose()?;
        if let Some(recording) = &recording {
            let observer = recording.observer(Space::Memory);
            assert!(memory.mm().observe(observer).is_ok(), "a new space");
        }
        let recorder = recording.as_ref().map(|recording| recording.vcpu(0));
        let path = ExitPath::alone(memory, Arc::new(GuestSpace::ports()), recorder);
        Ok(Self {
            name,
            path: Some(path),
            filter: None,
            _recording: recording,
        })
    }

    fn confined(name: &'static str) -> Result<Self, Box<dyn Error>> {
        Ok(Self {
            filter: VcpuFilter::new(Seccomp::On, &[])?,
            ..Self::new(name, None)?
        })
    }
}

fn range(start: u64, len: u64) -> AddrRange {
    AddrRange::new(start, len).expect("not empty")
}

/// As a flight recorder, so that it never stops recording.
fn recording(events: EventSet) -> Result<Recording, Box<dyn Error>> {
    let options = RecordOptions {
        events,
        size: 16 << 20,
        on_full: OnFull::Overwrite,
        ..RecordOptions::default()
    };
    let mut meta = Meta::default();
    meta.machine.vcpus = 2;
    Ok(Recording::start(tempfile::tempfile()?, &options, meta)?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let effort = if is_quick() { QUICK } else { FULL };
    let rate = Rate::of_this_machine();
    let step = clock_step(rate);
    let clock = if clock::is_counter() {
        "TSC"
    } else {
        "CLOCK_MONOTONIC"
    };
    println!("clock: {clock}, {step:.1} ns from one stamp to the next");
    let mut rows = vec![json!({ "what": "clock", "clock": clock, "step_ns": step })];
    rows.push(recorder(&effort)?);
    for contender in [
        Contender::new("without tracing", None)?,
        Contender::new("tracing off", Some(EventSet::NONE))?,
        Contender::new("with tracing", Some(EventSet::ALL))?,
    ] {
        rows.push(handler(&effort, rate, step, contender));
    }
    match Kvm::open() {
        Ok(_) => rows.extend(with_kvm(&effort, rate)?),
        Err(error) => println!("with KVM: left out: {error}"),
    }
    write_json("exit", rows);
    Ok(())
}

/// The least that two stamps are apart, as a median.
fn clock_step(rate: Rate) -> f64 {
    let steps = (0..10_000).map(|_| {
        let first = clock::ticks();
        rate.ns(1_000 * (clock::ticks() - first)) as f64 / 1e3
    });
    median(steps.collect())
}

/// The processor time that the calling thread has had: what others take of the machine
/// is not in it.
fn cpu_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes a timespec, of a clock that every Linux has.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Putting one record into the ring: means of batches, by processor time.
fn recorder(effort: &Effort) -> Result<Value, Box<dyn Error>> {
    const BATCH: u64 = 10_000;
    let recording = recording(EventSet::ALL)?;
    let mut recorder = recording.vcpu(0);
    let mut means = Vec::with_capacity(effort.batches);
    for batch in 0..effort.batches as u64 {
        let begun = cpu_ns();
        for n in 0..BATCH {
            let exit = event::Exit {
                kind: ExitKind::MmioWrite,
                served: None,
                fragment: false,
                failed: false,
                nested: false,
                len: 4,
                piece: 0,
                vcpu: 0,
                start: n,
                looked_up: n,
                end: batch,
                addr: MMIO + n,
                vma: Some(MMIO),
                wait: None,
                data: n,
            };
            if recorder.wants(exit.kind) {
                recorder.exit(std::hint::black_box(exit));
            }
        }
        means.push((cpu_ns() - begun) as f64 / BATCH as f64);
    }
    let mean = means.iter().sum::<f64>() / means.len() as f64;
    let middle = median(means);
    println!("recorder: {middle:.1} ns an exit in the median batch, {mean:.1} ns in the mean");
    Ok(json!({ "what": "recorder", "median_batch_ns": middle, "mean_ns": mean }))
}

/// The handler alone, in a loop.
fn handler(effort: &Effort, rate: Rate, step: f64, contender: Contender) -> Value {
    let Contender {
        name,
        path,
        _recording,
        ..
    } = contender;
    let mut path = path.expect("it was just made").on_this_thread();
    let registers = Registers::default();
    let mut times = Vec::new();
    for n in 0..effort.batches as u64 * 100 {
        let data = [n as u8, 2, 3, 4];
        let exit = Exit::MmioWrite {
            gpa: MMIO + 8,
            data: &data,
            fragment: false,
        };
        let begun = clock::ticks();
        let flow = path.exit(std::hint::black_box(exit), &registers);
        let took = clock::ticks() - begun;
        assert!(flow.is_continue(), "a write to a device");
        times.push(rate.ns(1_000 * took) as f64 / 1e3 - step);
    }
    let middle = median(times);
    println!("handler, {name}: {middle:.0} ns");
    json!({ "what": "handler", "name": name, "median_ns": middle })
}

/// The measured calls of `KVM_RUN`: this stands in for the C library's function of that
/// name in this program, for whoever calls it.
///
/// # Safety
///
/// As the system call's.
#[unsafe(no_mangle)]
unsafe extern "C" fn ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    const KVM_RUN: c_ulong = 0xae80;
    let runs = request == KVM_RUN;
    if runs {
        CALLS.called(fd);
    }
    // SAFETY: passed on.
    let result = unsafe { libc::syscall(libc::SYS_ioctl, fd, request, argument) };
    if runs {
        CALLS.returned.store(clock::ticks(), Relaxed);
    }
    result as c_int
}

static CALLS: Calls = Calls {
    fd: AtomicI32::new(-1),
    returned: AtomicU64::new(0),
    contender: AtomicU32::new(0),
    times: [const { [const { AtomicU32::new(0) }; CLASSES] }; 2 * CONTENDERS],
};

/// The bare loop, and ours without and with tracing, and confined; each with both guests.
const CONTENDERS: usize = 4;

/// Ticks in a class of times between return and call, and classes.
const CLASS: u64 = 16;
const CLASSES: usize = 2_048;

/// One vCPU runs at a time, so one thread stores to this at a time.
struct Calls {
    fd: AtomicI32,
    returned: AtomicU64,
    /// Whose times they are.
    contender: AtomicU32,
    times: [[AtomicU32; CLASSES]; 2 * CONTENDERS],
}

impl Calls {
    #[inline]
    fn called(&self, fd: c_int) {
        self.fd.store(fd, Relaxed);
        let returned = self.returned.load(Relaxed);
        if returned != 0 {
            let class = ((clock::ticks() - returned) / CLASS) as usize;
            let times = &self.times[self.contender.load(Relaxed) as usize];
            let count = &times[class.min(CLASSES - 1)];
            count.store(count.load(Relaxed) + 1, Relaxed);
        }
    }

    fn begin(&self, contender: u32) {
        self.contender.store(contender, Relaxed);
        self.returned.store(0, Relaxed);
    }

    /// Half of the times of a contender were not longer.
    fn median_ns(&self, contender: usize, rate: Rate) -> f64 {
        let counts = self.times[contender]
            .iter()
            .map(|count| count.load(Relaxed));
        let counts: Vec<_> = counts.collect();
        let all: u64 = counts.iter().map(|count| u64::from(*count)).sum();
        let mut before = 0;
        for (class, count) in counts.iter().enumerate() {
            before += u64::from(*count);
            if 2 * before >= all {
                let ticks = class as u64 * CLASS + CLASS / 2;
                return rate.ns(1_000 * ticks) as f64 / 1e3;
            }
        }
        f64::NAN
    }
}

/// Exits and the ticks that they took.
#[derive(Clone, Copy)]
struct Slice {
    exits: u64,
    ticks: u64,
}

/// Exits of a slice before the clock starts: the thread is new.
const WARM_UP: u64 = 64;
/// How often the clock is looked at.
const LOOK: u64 = 16;

/// Counts exits up to a time.
struct Clocked {
    length: u64,
    exits: u64,
    since: u64,
}

impl Clocked {
    fn new(length: u64) -> Self {
        Self {
            length,
            exits: 0,
            since: 0,
        }
    }

    /// One exit more; the slice, when it is over.
    #[inline(always)]
    fn exit(&mut self) -> Option<Slice> {
        self.exits += 1;
        if !self.exits.is_multiple_of(LOOK) {
            return None;
        }
        let now = clock::ticks();
        if self.exits == WARM_UP {
            self.since = now;
        }
        let ticks = now.saturating_sub(self.since);
        let over = self.since != 0 && ticks >= self.length;
        over.then(|| Slice {
            exits: self.exits - WARM_UP,
            ticks,
        })
    }
}

/// The exit path, for the length of a slice.
struct Sliced {
    path: Option<Answering>,
    clocked: Clocked,
}

impl VcpuHandler for Sliced {
    type Output = (ExitPath, Slice);

    #[inline]
    fn returned(&mut self) {
        if let Some(path) = &mut self.path {
            path.returned();
        }
    }

    #[inline]
    fn exit(&mut self, exit: Exit<'_>, regs: &Registers) -> ControlFlow<Self::Output> {
        let path = self.path.as_mut().expect("taken at the end");
        let flow = path.exit(exit, regs);
        assert!(flow.is_continue(), "the guest only writes to the device");
        match self.clocked.exit() {
            Some(slice) => {
                let path = self.path.take().expect("as above").leave();
                ControlFlow::Break((path, slice))
            }
            None => ControlFlow::Continue(()),
        }
    }
}

/// A slice of the bare loop, on a thread of its own as the others are.
fn bare(fd: c_int, length: u64) -> Slice {
    let body = move || {
        let mut clocked = Clocked::new(length);
        loop {
            // SAFETY: KVM_RUN on a vCPU that nobody else runs; it writes the page that
            // the vCPU keeps, to which nobody has a reference now.
            let result = unsafe { ioctl(fd, 0xae80, std::ptr::null_mut()) };
            assert_eq!(result, 0, "KVM_RUN");
            if let Some(slice) = clocked.exit() {
                return slice;
            }
        }
    };
    std::thread::spawn(body).join().expect("it does not panic")
}

/// A slice of Gracefault's.
fn ours(
    mut vcpu: Vcpu,
    contender: &mut Contender,
    length: u64,
) -> Result<(Vcpu, Slice), Box<dyn Error>> {
    let path = contender.path.take().expect("given back by the last slice");
    let sliced = move || Sliced {
        path: Some(path.on_this_thread()),
        clocked: Clocked::new(length),
    };
    vcpu.confine(contender.filter.clone());
    let ended = VcpuThread::spawn_from(vcpu, sliced)?.join();
    let End::Handler((path, slice)) = ended.end else {
        return Err("the vCPU ended by itself".into());
    };
    contender.path = Some(path);
    Ok((ended.vcpu, slice))
}

/// Where the guest's code runs.
#[derive(Clone, Copy)]
enum Level {
    Cpl3,
    Cpl0,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Cpl3 => "CPL 3",
            Self::Cpl0 => "CPL 0",
        }
    }

    /// The first of those whose times are of this guest.
    fn first(self) -> usize {
        match self {
            Self::Cpl3 => 0,
            Self::Cpl0 => CONTENDERS,
        }
    }

    /// A vCPU that writes to the device for ever.
    fn vcpu(self, machine: &Machine) -> Result<Vcpu, Box<dyn Error>> {
        let code = guest!("5: mov [rdi], eax", "jmp 5b");
        let mut vcpu = machine.vcpu(self as u32, code)?;
        if matches!(self, Self::Cpl0) {
            let mut sregs = vcpu.sregs()?;
            let kvm_bindings::kvm_sregs { cs, ss, ds, es, .. } = &mut sregs;
            for segment in [cs, ss, ds, es] {
                segment.dpl = 0;
                segment.selector &= !3;
            }
            vcpu.set_sregs(&sregs)?;
        }
        Ok(vcpu)
    }
}

fn with_kvm(effort: &Effort, rate: Rate) -> Result<Vec<Value>, Box<dyn Error>> {
    let machine = Machine::new()?;
    let mut rows = Vec::new();
    for level in [Level::Cpl3, Level::Cpl0] {
        rows.extend(at_level(level, &machine, effort, rate)?);
    }
    Ok(rows)
}

/// What the slices of a guest came to.
struct Slices {
    bare_ns: Vec<f64>,
    /// Ours in proportion to the bare loop's.
    ratios: [Vec<f64>; CONTENDERS - 1],
}

fn at_level(
    level: Level,
    machine: &Machine,
    effort: &Effort,
    rate: Rate,
) -> Result<Vec<Value>, Box<dyn Error>> {
    let vcpu = level.vcpu(machine)?;
    let mut contenders = [
        Contender::new("without tracing", None)?,
        Contender::new("with tracing", Some(EventSet::ALL))?,
        Contender::confined("confined")?,
    ];
    let Slices { bare_ns, ratios } = slices(level, vcpu, &mut contenders, effort, rate)?;
    let (name, exit_ns) = (level.name(), median(bare_ns));
    println!(
        "with KVM, guest at {name}, {} rounds of slices of {} ms; a bare exit takes {exit_ns:.0} ns",
        effort.rounds, effort.slice_ms
    );
    let floor = CALLS.median_ns(level.first(), rate);
    println!("  {:<16} return to call {floor:4.0} ns", "bare loop");
    let mut rows = vec![json!({
        "what": "bare", "guest": name, "rounds": effort.rounds, "slice_ms": effort.slice_ms,
        "exit_ns": exit_ns, "return_to_call_ns": floor,
    })];
    for (n, (contender, ratios)) in contenders.iter().zip(ratios).enumerate() {
        let between = CALLS.median_ns(level.first() + n + 1, rate);
        rows.push(report(name, contender.name, between, ratios));
    }
    Ok(rows)
}

/// Slices of each in turn.
fn slices(
    level: Level,
    mut vcpu: Vcpu,
    contenders: &mut [Contender; CONTENDERS - 1],
    effort: &Effort,
    rate: Rate,
) -> Result<Slices, Box<dyn Error>> {
    let length = rate.ticks(effort.slice_ms * 1_000_000);
    // Also tells the vCPU's descriptor.
    for contender in contenders.iter_mut() {
        (vcpu, _) = ours(vcpu, contender, length)?;
    }
    let fd = CALLS.fd.load(Relaxed);
    let (mut bare_ns, mut ratios) = (Vec::new(), [const { Vec::new() }; CONTENDERS - 1]);
    for round in 0..effort.rounds {
        let mut slices = [None; CONTENDERS];
        // Each takes each turn equally often.
        for turn in 0..CONTENDERS {
            let which = (turn + round) % CONTENDERS;
            CALLS.begin((level.first() + which) as u32);
            slices[which] = Some(match which {
                0 => bare(fd, length),
                n => {
                    let slice;
                    (vcpu, slice) = ours(vcpu, &mut contenders[n - 1], length)?;
                    slice
                }
            });
        }
        let rate_of = |slice: Option<Slice>| {
            slice.map_or(f64::NAN, |slice| slice.exits as f64 / slice.ticks as f64)
        };
        let [bare, others @ ..] = slices.map(rate_of);
        for (ratios, other) in ratios.iter_mut().zip(others) {
            ratios.push(other / bare);
        }
        bare_ns.push(rate.ns((1_000.0 / bare) as u64) as f64 / 1e3);
    }
    Ok(Slices { bare_ns, ratios })
}

fn report(guest: &str, name: &str, between: f64, mut ratios: Vec<f64>) -> Value {
    let ratio = median(ratios.clone());
    ratios.sort_by(f64::total_cmp);
    let quartile = |q: usize| ratios[ratios.len() * q / 4];
    let share = between / HARDWARE_EXIT_NS * 100.0;
    println!(
        "  {name:<16} return to call {between:4.0} ns ({share:.0} % of a hardware exit of 1.5 µs); \
         {ratio:.4} x the bare loop's exits (quartiles {:.4}, {:.4})",
        quartile(1),
        quartile(3)
    );
    json!({
        "what": "with KVM", "guest": guest, "name": name, "return_to_call_ns": between,
        "share_of_hardware_exit": share / 100.0, "ratio": ratio,
        "quartiles": [quartile(1), quartile(3)],
    })
}
