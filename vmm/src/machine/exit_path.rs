//! What one vCPU's exits take, and what is counted and recorded of them. Their way, on
//! the vCPU's thread, is [`Answering`](super::Answering)'s.

use std::ops::ControlFlow;
use std::sync::Arc;

use gracefault_guest::abi::{self, device};

use super::Sabotage;
use super::answering::Answering;
use super::gate::Gate;
use super::seen::{Seen, word};
use crate::clock::{Clock, Rate};
use crate::devices::{ExitDevice, Fate, HotplugController};
use crate::kvm::{Exit, Registers, SecondTry, Supplied, VcpuError};
use crate::memory::{Access, AccessError, GuestSpace, SpaceReader};
use crate::mm::{KillFlag, LookupError};
use crate::trace::event;
use crate::trace::record::VcpuRecorder;
use crate::trace::{ExitKind, LiveVcpu, VcpuCounter, VcpuTrace};

/// What the vCPUs of a machine share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) memory: Arc<GuestSpace>,
    pub(super) ports: Arc<GuestSpace>,
    pub(super) exit_device: Arc<ExitDevice>,
    pub(super) controller: Arc<HotplugController>,
    /// Raised when the machine is stopped, so that no vCPU waits on, nor a device for
    /// it.
    pub(super) kill: Arc<KillFlag>,
    /// What each vCPU counts.
    pub(super) live: Vec<Arc<LiveVcpu>>,
    /// Where they rest, and learn who records.
    pub(super) gate: Gate,
}

impl Shared {
    /// What is counted of each vCPU.
    pub(super) fn live(vcpus: usize) -> Vec<Arc<LiveVcpu>> {
        let one = || Arc::new(LiveVcpu::for_one_of(vcpus));
        std::iter::repeat_with(one).take(vcpus).collect()
    }
}

/// Why a vCPU's handler ended it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The guest did, by the exit device.
    Guest(Fate),
    /// The guest halted, with interrupts off: it will not go on.
    Halted,
    /// An access could not be carried out.
    Access(AccessError),
    /// The machine is being stopped, and an access was called back from its wait for
    /// a writer. It has no answer, so the guest must not go on.
    CalledBack,
}

impl From<AccessError> for Ending {
    fn from(error: AccessError) -> Self {
        match error {
            AccessError::Lookup {
                error: LookupError::Killed,
                ..
            } => Self::CalledBack,
            error => Self::Access(error),
        }
    }
}

/// What a vCPU's thread has to show at its end.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) trace: VcpuTrace,
    /// Accesses to each device's range, second fragments left out.
    pub(super) accesses: [u64; device::COUNT],
    /// Bytes sent to the serial console.
    pub(super) serial: u64,
}

/// What answering the exits of one vCPU takes; to be taken to the vCPU's thread
/// ([`on_this_thread`](Self::on_this_thread)).
#[derive(Debug)]
pub struct ExitPath {
    vcpu: usize,
    shared: Arc<Shared>,
    /// That of `shared`, at hand.
    kill: Arc<KillFlag>,
    pub(super) counter: VcpuCounter,
    /// Accesses to each device's range, second fragments left out.
    accesses: [u64; device::COUNT],
    /// Bytes sent to the serial console.
    serial: u64,
    /// How many of the gate's changes it has seen.
    seen: u64,
    second_try: SecondTry,
    clock: Clock,
    /// How long a tick is.
    rate: Rate,
    /// Who records each exit by itself, if somebody does.
    recorder: Option<VcpuRecorder>,
    /// Where the figures go when the vCPU has ended, however it did.
    hand_in: std::sync::mpsc::Sender<(usize, Ended)>,
    /// A test's: what to do wrong at the next exit.
    sabotage: Option<Sabotage>,
}

impl ExitPath {
    pub(super) fn new(
        vcpu: usize,
        shared: Arc<Shared>,
        hand_in: std::sync::mpsc::Sender<(usize, Ended)>,
        sabotage: Option<Sabotage>,
    ) -> Self {
        Self {
            vcpu,
            counter: VcpuCounter::new(shared.live[vcpu].clone()),
            accesses: [0; device::COUNT],
            serial: 0,
            seen: 0,
            kill: shared.kill.clone(),
            shared,
            second_try: SecondTry::default(),
            clock: Clock::of_this_machine(),
            rate: Rate::of_this_machine(),
            recorder: None,
            hand_in,
            sabotage,
        }
    }

    /// One for a vCPU of no [`Machine`](super::Machine), which answers its exits from
    /// `memory` and `ports`; each is recorded by `recorder`, if there is one.
    pub fn alone(
        memory: Arc<GuestSpace>,
        ports: Arc<GuestSpace>,
        recorder: Option<VcpuRecorder>,
    ) -> Self {
        let live = Shared::live(1);
        let shared = Shared {
            memory,
            ports,
            exit_device: Arc::new(ExitDevice::new(1)),
            controller: Arc::new(HotplugController::new(1)),
            kill: Arc::default(),
            gate: Gate::new(live.clone()),
            live,
        };
        let (nobody, _) = std::sync::mpsc::channel();
        let mut path = Self::new(0, Arc::new(shared), nobody, None);
        path.recorder = recorder;
        path
    }

    /// To answer exits, on the calling thread.
    pub fn on_this_thread(self) -> Answering {
        let Shared { memory, ports, .. } = &*self.shared;
        let [memory, ports] = [memory, ports].map(|space| SpaceReader::new(space.clone()));
        Answering::new(memory, ports, self)
    }

    /// What it counts.
    pub fn live(&self) -> &Arc<LiveVcpu> {
        self.counter.live()
    }

    /// Records an exit that is done, but for `KVM_RUN`.
    #[inline(always)]
    fn done(&mut self, seen: &Seen, access: &Access) {
        let end = self.clock.ticks();
        let ns = self.rate.ns(end.saturating_sub(seen.since));
        self.counter.access(seen.kind, seen.addr, access, ns);
        self.record(seen, Some(access), end, false);
        self.counter.leave(end);
    }

    /// Records an exit that was no access.
    fn done_otherwise(&mut self, kind: ExitKind, since: u64) {
        let end = self.clock.ticks();
        let ns = self.rate.ns(end.saturating_sub(since));
        self.counter.other(kind, ns);
        self.record(&Seen::nothing(kind, since), None, end, false);
        self.counter.leave(end);
    }

    #[inline(always)]
    fn record(&mut self, seen: &Seen, access: Option<&Access>, end: u64, failed: bool) {
        if let Some(recorder) = &mut self.recorder
            && recorder.wants(seen.kind)
        {
            Self::put(recorder, seen, access, end, failed);
        }
    }

    #[inline]
    fn put(
        recorder: &mut VcpuRecorder,
        seen: &Seen,
        access: Option<&Access>,
        end: u64,
        failed: bool,
    ) {
        let waited = access.and_then(|access| access.path.waited);
        recorder.exit(event::Exit {
            kind: seen.kind,
            served: access.map(|access| access.served),
            fragment: seen.fragment,
            failed,
            nested: access.is_some_and(|access| access.path.nested),
            len: seen.len,
            piece: seen.piece,
            vcpu: 0,
            start: seen.since,
            looked_up: access.map_or(0, |access| access.looked_up),
            end,
            addr: seen.addr,
            vma: access.and_then(|access| access.vma),
            wait: waited.map(|waited| event::Wait {
                section: waited.section,
                from: waited.from,
                until: waited.until,
            }),
            data: seen.data,
        });
    }

    /// What there is to do about an MMIO exit that has been answered.
    #[inline(always)]
    pub(super) fn mmio(
        &mut self,
        mut seen: Seen,
        data: &[u8],
        access: &Access,
        result: Result<(), AccessError>,
    ) -> ControlFlow<Ending> {
        if let Some(sabotage) = self.sabotage.take()
            && self.goes_wrong(sabotage)
        {
            return ControlFlow::Continue(());
        }
        if self.recorder.is_some() {
            seen.data = word(data);
        }
        // Counted before the access is judged: KVM has counted it in any case.
        self.counter.mmio(seen.fragment);
        if let Err(error) = result {
            self.record(&seen, None, self.clock.ticks(), true);
            return ControlFlow::Break(error.into());
        }
        let device = access.vma.and_then(device_index);
        if let Some(index) = device
            && !seen.fragment
        {
            self.accesses[index] += 1;
        }
        self.done(&seen, access);
        match device {
            Some(device::EXIT) if seen.kind == ExitKind::MmioWrite => self.fate(),
            _ => ControlFlow::Continue(()),
        }
    }

    /// The guest has written to the exit device.
    #[cold]
    fn fate(&self) -> ControlFlow<Ending> {
        match self.shared.exit_device.fate(self.vcpu) {
            Some(fate) => ControlFlow::Break(Ending::Guest(fate)),
            None => ControlFlow::Continue(()),
        }
    }

    /// Does wrong what a test wants to see noticed; whether that was all.
    #[cold]
    fn goes_wrong(&self, sabotage: Sabotage) -> bool {
        match sabotage {
            Sabotage::UncountedExit => {
                self.counter.leave(self.clock.ticks());
                return true;
            }
            Sabotage::SystemCall => drop(std::os::unix::net::UnixStream::pair()),
            // Done elsewhere.
            Sabotage::FlipByte | Sabotage::MmioValue => {}
        }
        false
    }

    /// Carries out the accesses of one PIO exit, `size` bytes each, to one port.
    fn pio<'a>(
        &mut self,
        ports: &SpaceReader,
        kind: ExitKind,
        port: u16,
        accesses: impl Iterator<Item = PioData<'a>>,
        since: u64,
    ) -> ControlFlow<Ending> {
        let mut seen = Seen {
            addr: port.into(),
            ..Seen::nothing(kind, since)
        };
        let mut last = Access::default();
        for data in accesses {
            last = Access::default();
            let result = match data {
                PioData::In(data) => {
                    let result = ports.read(seen.addr, data, self.by(), &mut last);
                    seen.add(data);
                    result
                }
                PioData::Out(data) => {
                    seen.add(data);
                    ports.write(seen.addr, data, self.by(), &mut last)
                }
            };
            if let Err(error) = result {
                self.record(&seen, None, self.clock.ticks(), true);
                return ControlFlow::Break(error.into());
            }
            let sends = kind == ExitKind::PioOut && port == abi::SERIAL_PORT;
            self.serial += u64::from(sends);
        }
        self.done(&seen, &last);
        ControlFlow::Continue(())
    }

    /// The gate has changed: rests if it is shut, and learns who records.
    #[cold]
    fn attend(&mut self) {
        let counter = &self.counter;
        let mut rested = false;
        let (seen, recording) = self.shared.gate.pass(|| {
            counter.pause();
            rested = true;
        });
        if rested {
            counter.go_on();
        }
        self.seen = seen;
        let own = self.recorder.take();
        self.recorder = recording.map(|recording| match own {
            Some(own) if own.is_of(&recording) => own,
            _ => recording.vcpu(self.vcpu as u32),
        });
    }

    /// Looks whether it has been told something, when nothing is held.
    #[inline(always)]
    pub(super) fn look(&mut self) {
        if self.counter.live().told() != self.seen {
            self.attend();
        }
    }

    /// The guest has gone on, to an exit with these registers.
    #[inline(always)]
    pub(super) fn went_on(&mut self, regs: &Registers) {
        self.second_try.went_on(regs);
    }

    /// What its accesses are stamped by, if somebody records, and what ends their waits.
    #[inline(always)]
    pub(super) fn by(&self) -> (Option<Clock>, &KillFlag) {
        (self.recorder.as_ref().map(|_| self.clock), &self.kill)
    }

    /// Now, in ticks.
    #[inline(always)]
    pub(super) fn now(&self) -> u64 {
        self.clock.ticks()
    }

    /// Judges an error of `KVM_RUN`.
    pub(super) fn error(&mut self, error: VcpuError, regs: &Registers) -> Result<(), VcpuError> {
        let Self {
            shared,
            second_try,
            counter,
            ..
        } = self;
        second_try.judge(error, regs, || {
            let populated = match shared.memory.put_in_missing(Some(&*shared.kill)) {
                Ok(populated) => populated,
                // Nothing has been answered yet, and the thread sees next that it is
                // to stop.
                Err(error) if Ending::from(error) == Ending::CalledBack => {
                    return Supplied {
                        possible: true,
                        done: true,
                    };
                }
                Err(error) => {
                    log::error!("putting in the missing memslots: {error}");
                    return Supplied::default();
                }
            };
            counter.lazy_slots(populated.slots as u64);
            Supplied {
                possible: populated.vmas > 0,
                done: populated.slots > 0,
            }
        })
    }

    /// Carries out what is no MMIO.
    #[inline(never)]
    pub(super) fn otherwise(
        &mut self,
        ports: &SpaceReader,
        exit: Exit<'_>,
        since: u64,
    ) -> ControlFlow<Ending> {
        match exit {
            Exit::MmioRead { .. } | Exit::MmioWrite { .. } => unreachable!("not for this"),
            Exit::PioIn { port, size, data } => {
                self.counter.enter(ExitKind::PioIn, port.into(), since);
                let accesses = data.chunks_exact_mut(size.into()).map(PioData::In);
                self.pio(ports, ExitKind::PioIn, port, accesses, since)
            }
            Exit::PioOut { port, size, data } => {
                self.counter.enter(ExitKind::PioOut, port.into(), since);
                let accesses = data.chunks_exact(size.into()).map(PioData::Out);
                self.pio(ports, ExitKind::PioOut, port, accesses, since)
            }
            Exit::Halt => {
                self.counter.enter(ExitKind::Halt, 0, since);
                self.done_otherwise(ExitKind::Halt, since);
                ControlFlow::Break(Ending::Halted)
            }
            Exit::Interrupted => {
                self.counter.enter(ExitKind::Interrupted, 0, since);
                self.done_otherwise(ExitKind::Interrupted, since);
                ControlFlow::Continue(())
            }
        }
    }
}

enum PioData<'a> {
    In(&'a mut [u8]),
    Out(&'a [u8]),
}

/// The device whose VMA begins at `start`.
#[inline(always)]
fn device_index(start: u64) -> Option<usize> {
    match start {
        abi::TEST_GPA => Some(device::TEST),
        abi::EXIT_GPA => Some(device::EXIT),
        abi::HOTPLUG_GPA => Some(device::HOTPLUG),
        abi::DMA_GPA => Some(device::DMA),
        _ => None,
    }
}

impl Drop for ExitPath {
    /// Hands the figures in, also if a device's bug made the handler panic.
    fn drop(&mut self) {
        let ended = Ended {
            trace: self.counter.live().trace(),
            accesses: self.accesses,
            serial: self.serial,
        };
        self.counter.end();
        self.shared.gate.leave();
        // A vCPU that runs no more uses no block.
        self.shared.controller.leave(self.vcpu);
        // Nobody takes them only if the machine is being dropped unread.
        let _ = self.hand_in.send((self.vcpu, ended));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything else that fails says why.
    #[test]
    fn only_a_lookup_that_was_called_back_is_none_of_the_guests_doing() {
        let lookup = |error| AccessError::Lookup { addr: 1, error };
        assert_eq!(
            Ending::from(lookup(LookupError::Killed)),
            Ending::CalledBack
        );
        for error in [
            lookup(LookupError::TimedOut),
            AccessError::PastEnd { addr: 1, len: 8 },
        ] {
            assert_eq!(Ending::from(error), Ending::Access(error));
        }
    }
}
