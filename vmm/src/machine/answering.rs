//! One exit's way, and there is no other: `KVM_RUN` returns, the access is looked
//! up and carried out, the guard is dropped, the exit is recorded, `KVM_RUN`.

use std::ops::ControlFlow;

use super::exit_path::{Ending, ExitPath};
use super::seen::Seen;
use crate::kvm::{Exit, Registers, VcpuError, VcpuHandler};
use crate::memory::{Access, SpaceReader};
use crate::mm::Lines;
use crate::trace::ExitKind;

/// Answers the exits of one vCPU, on the thread that has made it.
#[derive(Debug)]
pub struct Answering {
    /// The thread's way to guest memory.
    memory: SpaceReader,
    /// What an exit like the last one looks up.
    lines: Lines,
    path: ExitPath,
    /// The thread's way to the ports.
    ports: SpaceReader,
}

impl Answering {
    pub(super) fn new(memory: SpaceReader, ports: SpaceReader, path: ExitPath) -> Self {
        Self {
            memory,
            lines: Lines::default(),
            path,
            ports,
        }
    }

    /// What may be taken to another thread, when this one answers no more.
    pub fn leave(self) -> ExitPath {
        self.path
    }

    /// Carries out a load. What is filled in goes to the guest.
    #[inline(always)]
    fn read(&mut self, seen: Seen, data: &mut [u8]) -> ControlFlow<Ending> {
        let Self { memory, path, .. } = self;
        path.counter.enter(seen.kind, seen.addr, seen.since);
        let mut access = Access::default();
        let result = memory.read(seen.addr, data, path.by(), &mut access);
        if result.is_err() {
            data.fill(0xff);
        }
        path.mmio(seen, data, &access, result)
    }

    /// Carries out a store.
    #[inline(always)]
    fn write(&mut self, seen: Seen, data: &[u8]) -> ControlFlow<Ending> {
        let Self { memory, path, .. } = self;
        path.counter.enter(seen.kind, seen.addr, seen.since);
        let mut access = Access::default();
        let result = memory.write(seen.addr, data, path.by(), &mut access);
        path.mmio(seen, data, &access, result)
    }
}

impl VcpuHandler for Answering {
    type Output = Ending;

    fn begin(&mut self) {
        self.path.counter.begin();
        self.path.look();
    }

    #[inline]
    fn returned(&mut self) {
        // No more than this: what the processor looks up for a hint it cannot look up for
        // what is wanted already.
        self.lines.prefetch();
    }

    // There once more in the crate that runs the vCPU, with what it calls on its usual way:
    // a call from one crate to another goes by a table, and after a guest has had the
    // processor nobody foretells where to, before the table's page is there.
    #[inline]
    fn exit(&mut self, exit: Exit<'_>, regs: &Registers) -> ControlFlow<Ending> {
        let since = self.path.now();
        // By tests, not by a table of places to jump to: what is loaded to find out where
        // to go on is loaded after the guest has had the caches.
        let flow = if let Exit::MmioWrite {
            gpa,
            data,
            fragment,
        } = exit
        {
            self.path.went_on(regs);
            let seen = Seen::access(ExitKind::MmioWrite, gpa, data.len(), fragment, since);
            self.write(seen, data)
        } else if let Exit::MmioRead {
            gpa,
            data,
            fragment,
        } = exit
        {
            self.path.went_on(regs);
            let seen = Seen::access(ExitKind::MmioRead, gpa, data.len(), fragment, since);
            self.read(seen, data)
        } else {
            if !matches!(exit, Exit::Interrupted) {
                self.path.went_on(regs);
            }
            self.path.otherwise(&self.ports, exit, since)
        };
        self.lines = self.memory.lines();
        // Nothing is held any more.
        if flow.is_continue() {
            self.path.look();
        }
        flow
    }

    fn error(&mut self, error: VcpuError, regs: &Registers) -> Result<(), VcpuError> {
        self.path.error(error, regs)
    }
}

#[cfg(test)]
mod tests {
    use std::ops::RangeInclusive;
    use std::sync::Arc;

    use super::*;
    use crate::clock;
    use crate::devices::TestDevice;
    use crate::memory::GuestSpace;
    use crate::mm::AddrRange;
    use crate::trace::event::Event;
    use crate::trace::file::{Meta, Outcome, TraceFile};
    use crate::trace::record::{RecordOptions, Recording};

    const DEVICE: u64 = 0x1000;

    #[test]
    fn a_recorded_exit_says_when_it_was_looked_up() {
        let memory = GuestSpace::physical(AddrRange::new(0, 0x4000).unwrap());
        let (memory, ports) = (Arc::new(memory), Arc::new(GuestSpace::ports()));
        for space in [&memory, &ports] {
            let range = AddrRange::new(DEVICE, 0x1000).unwrap();
            let device = Arc::new(TestDevice::new(1));
            space.map_device(range, device).unwrap();
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut meta = Meta::default();
        meta.machine.vcpus = 1;
        let options = RecordOptions::default();
        let recording = Recording::start(file.reopen().unwrap(), &options, meta).unwrap();
        let recorder = Some(recording.vcpu(0));
        let mut answering = ExitPath::alone(memory, ports, recorder).on_this_thread();
        let mut begun = vec![clock::ticks()];
        for exit in [
            Exit::MmioWrite {
                gpa: DEVICE,
                data: &[1; 4],
                fragment: false,
            },
            Exit::PioOut {
                port: DEVICE as u16,
                size: 4,
                data: &[1; 4],
            },
            Exit::MmioRead {
                gpa: DEVICE,
                data: &mut [0; 4],
                fragment: false,
            },
            Exit::PioIn {
                port: DEVICE as u16,
                size: 4,
                data: &mut [0; 4],
            },
        ] {
            assert!(answering.exit(exit, &Registers::default()).is_continue());
            begun.push(clock::ticks());
        }
        drop(answering.leave());
        let (_, error) = recording.finish(Outcome::default());
        assert!(error.is_none(), "{error:?}");
        let trace = TraceFile::open(file.path()).unwrap();
        let exits = trace.events().filter_map(|(_, event)| match event {
            Event::Exit(exit) => Some(exit),
            _ => None,
        });
        let exits: Vec<_> = exits.collect();
        assert_eq!(exits.len(), 4);
        for (exit, begun) in exits.iter().zip(begun) {
            let took: RangeInclusive<u64> = begun.max(exit.start)..=exit.end;
            assert!(took.contains(&exit.looked_up), "{exits:?}");
        }
    }

    #[test]
    fn it_stays_with_its_thread() {
        <Answering as crate::not_send::AmbiguousIfSend<_>>::look();
    }
}
