//! Guests whose exits go through the map, as a VMM's do.
use std::error::Error;
use std::ops::ControlFlow::{self, Break, Continue};
use std::sync::Arc;

use gracefault::kvm::{
    End, Exit, LazyMemSlot, Registers, SecondTry, Supplied, VcpuError, VcpuHandler, VcpuThread, Vm,
};
use gracefault::memory::{Access, AccessError, GuestSpace, LazyRam, LazySlot, Mapping};
use gracefault::mm::AddrRange;

/// Where a guest writes to when it is done.
pub(crate) const DONE: u64 = 0xe000_0000;

/// A map for what the machine's own RAM is not in.
pub(crate) fn space() -> Arc<GuestSpace> {
    Arc::new(GuestSpace::physical(range(0, 1 << 40)))
}

pub(crate) fn range(start: u64, len: u64) -> AddrRange {
    AddrRange::new(start, len).expect("a range")
}

/// What a guest came upon.
#[derive(Debug, Default)]
pub(crate) struct Met {
    /// Each MMIO exit, but the last.
    pub(crate) accesses: Vec<(u64, Access)>,
    /// Slots that were put in for one.
    pub(crate) slots: u64,
}

/// Answers a vCPU's exits from the map until it writes to [`DONE`].
pub(crate) struct ByMap {
    space: Arc<GuestSpace>,
    second_try: SecondTry,
    met: Met,
}

impl ByMap {
    pub(crate) fn new(space: &Arc<GuestSpace>) -> Self {
        Self {
            space: space.clone(),
            second_try: SecondTry::default(),
            met: Met::default(),
        }
    }
}

impl VcpuHandler for ByMap {
    type Output = Result<Met, AccessError>;

    fn exit(&mut self, exit: Exit<'_>, _: &Registers) -> ControlFlow<Self::Output> {
        let (gpa, access) = match exit {
            Exit::MmioWrite { gpa: DONE, .. } => return Break(Ok(std::mem::take(&mut self.met))),
            Exit::MmioRead { gpa, data, .. } => (gpa, self.space.read(gpa, data, None)),
            Exit::MmioWrite { gpa, data, .. } => (gpa, self.space.write(gpa, data, None)),
            Exit::Interrupted => return Continue(()),
            other => panic!("{other:x?}"),
        };
        match access {
            Ok(access) => {
                self.met.slots += u64::from(access.slots);
                self.met.accesses.push((gpa, access));
                Continue(())
            }
            Err(error) => Break(Err(error)),
        }
    }

    fn error(&mut self, error: VcpuError, regs: &Registers) -> Result<(), VcpuError> {
        self.second_try.judge(error, regs, || {
            let populated = self.space.put_in_missing(None).expect("KVM takes slots");
            self.met.slots += populated.slots as u64;
            Supplied {
                possible: populated.vmas > 0,
                done: populated.slots > 0,
            }
        })
    }
}

/// What a guest that runs to its end comes upon.
pub(crate) fn met(thread: VcpuThread<Result<Met, AccessError>>) -> Result<Met, Box<dyn Error>> {
    match thread.join().end {
        End::Handler(met) => Ok(met?),
        other => Err(format!("{other:?}").into()),
    }
}

/// A block of lazy RAM at `gpa`, mapped; its slot is `wrap` of the real one.
pub(crate) fn map_lazy(
    vm: &Vm,
    space: &GuestSpace,
    gpa: u64,
    len: u64,
    wrap: impl FnOnce(Arc<LazyMemSlot>) -> Arc<dyn LazySlot>,
) -> Result<(Arc<Mapping>, Arc<LazyMemSlot>), Box<dyn Error>> {
    let memory = Arc::new(Mapping::anonymous(len)?);
    let slot = Arc::new(vm.lazy_slot(gpa, memory.clone())?);
    let ram = LazyRam {
        memory: memory.clone(),
        slot: wrap(slot.clone()),
    };
    space.map_lazy_ram(range(gpa, len), ram)?;
    Ok((memory, slot))
}

pub(crate) fn word(memory: &Mapping, offset: u64) -> u64 {
    let mut bytes = [0; 8];
    memory.read(offset, &mut bytes).expect("anonymous memory");
    u64::from_le_bytes(bytes)
}
