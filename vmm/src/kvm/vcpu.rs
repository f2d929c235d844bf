//! A vCPU: its registers, and [`Vcpu::run`].
//!
//! The way from `KVM_RUN` to an MMIO [`Exit`] allocates nothing and makes no
//! other system call. The general registers come with each exit in memory
//! shared with KVM ([`Vcpu::run_with_regs`]).
//!
//! A vCPU belongs to one thread at a time, and is best run always on the same:
//! KVM moves it between host threads at a cost. [`VcpuThread`] runs it on one
//! that can be stopped from outside.
//!
//! [`VcpuThread`]: super::VcpuThread
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use kvm_bindings::{KVM_SYNC_X86_REGS, kvm_sregs};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::ioctl::ioctl;

use super::boot::Start;
use super::cpuid::with_apic_id;
use super::error::VcpuError;
use super::exit::{self, Exit, Mmio};
use super::failure;
use super::fragment::Fragments;
use super::ioctls::{KVM_RUN, checked};
use super::run_page::RunPage;
use super::seccomp::VcpuFilter;
use super::stats::{Stats, StatsError};
use super::vm::{Vm, VmInner};
use crate::memory::faults::{self, Step};
use crate::memory::sigbus;

/// The general registers, `rip` and `rflags`.
pub type Registers = kvm_bindings::kvm_regs;

/// A virtual processor.
#[derive(Debug)]
pub struct Vcpu {
    // Dropped before the descriptor.
    page: RunPage,
    fd: VcpuFd,
    id: u32,
    fragments: Fragments,
    /// What its thread is confined by.
    filter: Option<Arc<VcpuFilter>>,
    /// Keeps the VM, and so its memslots' bookkeeping, while a vCPU is left.
    _vm: Arc<VmInner>,
}

/// A vCPU whose `KVM_RUN` has just returned, and of which nothing has been looked at yet
/// but why.
pub(super) struct Returned<'a> {
    vcpu: &'a mut Vcpu,
    reason: io::Result<u32>,
}

impl<'a> Returned<'a> {
    /// Whether for MMIO.
    #[inline(always)]
    pub(super) fn is_mmio(&self) -> bool {
        matches!(self.reason, Ok(exit::MMIO))
    }

    /// The exit by MMIO, and the registers at it.
    ///
    /// # Panics
    /// If it is another.
    #[inline(always)]
    pub(super) fn mmio(self) -> (Mmio<'a>, &'a Registers) {
        assert!(self.is_mmio());
        let Vcpu {
            page, fragments, ..
        } = self.vcpu;
        // SAFETY: KVM_RUN has just returned 0, for this reason; what comes out borrows
        // the vCPU, through which alone the page is reached and KVM run; the registers
        // are other bytes than the exit's data.
        unsafe { (exit::mmio(page, fragments), exit::registers(page)) }
    }

    /// Any other exit, or why there is none; and the registers at it.
    ///
    /// # Errors
    /// As [`Vcpu::run`].
    pub(super) fn other(self) -> Result<(Exit<'a>, &'a Registers), (VcpuError, &'a Registers)> {
        let Self { vcpu, reason } = self;
        let exit = match reason {
            Ok(reason) => {
                vcpu.fragments.other();
                // SAFETY: as above.
                unsafe { exit::other(vcpu.id, reason, &vcpu.page) }
            }
            Err(error) => vcpu.returned_error(error).map(|()| Exit::Interrupted),
        };
        // SAFETY: as above.
        let registers = unsafe { exit::registers(&vcpu.page) };
        match exit {
            Ok(exit) => Ok((exit, registers)),
            Err(error) => Err((error, registers)),
        }
    }
}

impl Vm {
    /// Creates vCPU number `id`, as after a reset, with the host's CPU features
    /// and `id` as its APIC id. KVM forgets a vCPU only with the VM: an id
    /// cannot be used again.
    ///
    /// # Errors
    /// See [`VcpuError`].
    pub fn create_vcpu(&self, id: u32) -> Result<Vcpu, VcpuError> {
        if id >= self.inner.max_vcpu_id {
            return Err(self.limit(id));
        }
        let create = || self.inner.fd.create_vcpu(id.into());
        let fd = checked(Step::CreateVcpu, create).map_err(|e| match e.errno() {
            libc::EEXIST => VcpuError::Exists { vcpu: id },
            libc::EINVAL => self.limit(id),
            libc::EMFILE | libc::ENFILE => VcpuError::Files { vcpu: id },
            _ => ioctl_failed(id, "KVM_CREATE_VCPU", e),
        })?;
        let page = faults::check(Step::MapRunPage)
            .and_then(|()| RunPage::map(&fd, self.inner.fd.run_size()))
            .map_err(|source| VcpuError::Ioctl {
                vcpu: id,
                what: "mapping kvm_run",
                source,
            })?;
        // SAFETY: mapped, and KVM does not run.
        unsafe { (*page.as_ptr()).kvm_valid_regs = KVM_SYNC_X86_REGS.into() };
        let cpuid = with_apic_id(&self.inner.cpuid, id);
        checked(Step::SetCpuid, || fd.set_cpuid2(&cpuid))
            .map_err(|e| ioctl_failed(id, "KVM_SET_CPUID2", e))?;
        Ok(Vcpu {
            page,
            fd,
            id,
            fragments: Fragments::default(),
            filter: None,
            _vm: self.inner.clone(),
        })
    }
}

impl Vm {
    fn limit(&self, vcpu: u32) -> VcpuError {
        VcpuError::Limit {
            vcpu,
            ids: self.inner.max_vcpu_id,
            max: self.inner.max_vcpus,
        }
    }
}

fn ioctl_failed(vcpu: u32, what: &'static str, e: kvm_ioctls::Error) -> VcpuError {
    VcpuError::Ioctl {
        vcpu,
        what,
        source: e.into(),
    }
}

impl Vcpu {
    /// Its number.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Has the threads that [`VcpuThread`](super::VcpuThread) starts for it confined by
    /// this filter; by none, as after its creation, if there is none.
    pub fn confine(&mut self, filter: Option<Arc<VcpuFilter>>) {
        self.filter = filter;
    }

    /// What its thread is to be confined by.
    pub(super) fn filter(&self) -> Option<Arc<VcpuFilter>> {
        self.filter.clone()
    }

    /// Runs the guest until its next exit; blocks for as long as that takes.
    /// The exit before is completed first: a read's data is taken from where
    /// its slice was.
    ///
    /// # Errors
    /// See [`VcpuError`]. The guest cannot go on, except after
    /// [`VcpuError::Emulation`], [`VcpuError::Fault`] and
    /// [`VcpuError::MemoryFault`], if the cause has been removed.
    #[inline]
    pub fn run(&mut self) -> Result<Exit<'_>, VcpuError> {
        Ok(self.run_with_regs()?.0)
    }

    /// As [`Vcpu::run`], with the registers at the exit. `rip` is that of the
    /// instruction for a read, and for a write may be the next one's.
    ///
    /// # Errors
    /// As [`Vcpu::run`].
    #[inline]
    pub fn run_with_regs(&mut self) -> Result<(Exit<'_>, &Registers), VcpuError> {
        let returned = self.enter();
        match returned.is_mmio() {
            true => {
                let (mmio, registers) = returned.mmio();
                Ok((mmio.into(), registers))
            }
            false => returned.other().map_err(|(error, _)| error),
        }
    }

    /// The first half of [`Vcpu::run_with_regs`]: between the two there is time to have
    /// loaded what the exit's answer will want.
    #[inline(always)]
    pub(super) fn enter(&mut self) -> Returned<'_> {
        let run = self.page.as_ptr();
        // A reason left from the last exit must not be taken for one that
        // comes with an error.
        // SAFETY: mapped; KVM does not run; no slice of an earlier exit is
        // left, since each borrows `self`.
        unsafe { (*run).exit_reason = 0 };
        // SAFETY: KVM_RUN takes no argument, and writes the run page, to which
        // no reference exists, and guest memory, whose owners allow it.
        let result = unsafe { ioctl(&self.fd, KVM_RUN()) };
        let reason = match result {
            // Asked for before anything else is: it is wanted first.
            // SAFETY: mapped, and KVM does not run.
            0 => Ok(unsafe { (&raw const (*run).exit_reason).read_volatile() }),
            // Before anybody else can have one.
            _ => Err(io::Error::last_os_error()),
        };
        Returned { vcpu: self, reason }
    }

    /// An error of `KVM_RUN`; `Ok` if it is but a kick.
    #[cold]
    fn returned_error(&mut self, e: io::Error) -> Result<(), VcpuError> {
        self.fragments.other();
        match e.raw_os_error() {
            Some(libc::EINTR | libc::EAGAIN) => {
                // Cleared before anyone looks at why: a kick from here on sets
                // it again and is seen by the next run.
                self.page.immediate_exit().store(0, SeqCst);
                if let Some(host) = sigbus::take_poison() {
                    return Err(self.poisoned(host));
                }
                Ok(())
            }
            // SAFETY: KVM_RUN has just failed, on the page that `self` keeps.
            _ => Err(unsafe { failure::error(self.id, self.page.as_ptr(), e) }),
        }
    }

    fn poisoned(&self, host: usize) -> VcpuError {
        VcpuError::HardwarePoison {
            vcpu: self.id,
            rip: self.last_registers().rip,
            gpa: None,
            host: Some(host),
        }
    }

    /// The registers at the last return.
    pub(super) fn last_registers(&self) -> &Registers {
        // SAFETY: KVM runs only while `self` is borrowed mutably.
        unsafe { exit::registers(&self.page) }
    }

    /// The byte that makes the next [`Vcpu::run`] return [`Exit::Interrupted`].
    pub(super) fn immediate_exit(&self) -> &std::sync::atomic::AtomicU8 {
        self.page.immediate_exit()
    }

    /// Puts the vCPU where [`boot::Start`](super::boot::Start) says.
    ///
    /// # Errors
    /// [`VcpuError::Ioctl`].
    pub fn start_at(&mut self, start: &Start) -> Result<(), VcpuError> {
        let reset = self.sregs()?;
        self.set_sregs(&start.sregs(reset))?;
        self.set_regs(&start.regs(self.id))
    }

    /// The general registers.
    ///
    /// # Errors
    /// [`VcpuError::Ioctl`].
    pub fn regs(&self) -> Result<Registers, VcpuError> {
        self.fd
            .get_regs()
            .map_err(|e| ioctl_failed(self.id, "KVM_GET_REGS", e))
    }

    /// Sets the general registers.
    ///
    /// # Errors
    /// [`VcpuError::Ioctl`].
    pub fn set_regs(&mut self, regs: &Registers) -> Result<(), VcpuError> {
        checked(Step::SetRegisters, || self.fd.set_regs(regs))
            .map_err(|e| ioctl_failed(self.id, "KVM_SET_REGS", e))
    }

    /// The system registers.
    ///
    /// # Errors
    /// [`VcpuError::Ioctl`].
    pub fn sregs(&self) -> Result<kvm_sregs, VcpuError> {
        checked(Step::GetSystemRegisters, || self.fd.get_sregs())
            .map_err(|e| ioctl_failed(self.id, "KVM_GET_SREGS", e))
    }

    /// Sets the system registers.
    ///
    /// # Errors
    /// [`VcpuError::Ioctl`]; "Invalid argument" means a combination that no
    /// processor has.
    pub fn set_sregs(&mut self, sregs: &kvm_sregs) -> Result<(), VcpuError> {
        checked(Step::SetSystemRegisters, || self.fd.set_sregs(sregs))
            .map_err(|e| ioctl_failed(self.id, "KVM_SET_SREGS", e))
    }

    /// The rate of the guest's time-stamp counter, kHz.
    ///
    /// # Errors
    /// [`VcpuError::Ioctl`].
    pub fn tsc_khz(&self) -> Result<u32, VcpuError> {
        checked(Step::TscRate, || self.fd.get_tsc_khz())
            .map_err(|e| ioctl_failed(self.id, "KVM_GET_TSC_KHZ", e))
    }

    /// KVM's own counters of this vCPU. They may be read from any thread while
    /// it runs.
    ///
    /// # Errors
    /// See [`StatsError`].
    pub fn stats(&self) -> Result<Stats, StatsError> {
        Stats::open(&self.fd)
    }
}
