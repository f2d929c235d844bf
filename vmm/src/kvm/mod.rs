//! KVM: `/dev/kvm`, memslots, vCPUs and their exits.
//!
//! Nothing here knows about the map of VMAs, about devices or about what the
//! guest runs: this layer turns KVM's interface into owned values that cannot
//! be used in the wrong order, and every failure into a sentence that says
//! what to do.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use std::sync::Arc;
//! use gracefault::kvm::{boot, Exit, Kvm, SlotAccess, Vm, VcpuThread};
//! use gracefault::memory::HostMemory;
//!
//! # fn start(ram: Arc<dyn HostMemory>) -> Result<(), Box<dyn std::error::Error>> {
//! let kvm = Kvm::open()?;                                  // and checks every capability
//! let vm = Vm::new(&kvm)?;
//! let slot = vm.add_slot(0, ram, SlotAccess::ReadWrite)?;  // removed when dropped
//! let mut vcpu = vm.create_vcpu(0)?;
//! vcpu.start_at(&boot::Start {
//!     entry: 0x20_0000, params: 0x1000, stack_top: 0x30_0000, report: 0x31_0000,
//!     tables: boot::TABLES_GPA,
//! })?;
//! let thread = VcpuThread::spawn(vcpu, |exit, _regs| match exit {
//!     Exit::MmioRead { data, .. } => { data.fill(0xff); ControlFlow::Continue(()) }
//!     Exit::MmioWrite { gpa: 0xd010_0000, .. } => ControlFlow::Break("done"),
//!     _ => ControlFlow::Continue(()),
//! })?;
//! let ended = thread.join();
//! println!("vCPU {} ended at rip {:#x?}: {:?}", ended.id, ended.rip, ended.end);
//! # drop(slot); Ok(()) }
//! ```
//!
//! | module | idea |
//! |---|---|
//! | [`caps`], [`open`] | what is asked of KVM, and the check of it |
//! | [`host`] | what else the host can and cannot do |
//! | [`vm`], [`slots`] | the VM, and memslots that own their memory |
//! | [`guest_memfd`], [`quirks`] | memory in a file of KVM's own; what is told to KVM about old behaviour |
//! | [`vm`], [`slots`], [`lazy_slot`] | the VM, memslots that own their memory, those that go in when missed |
//! | [`boot`] | the state a vCPU starts in: long mode at CPL 3 |
//! | [`vcpu`], [`exit`], [`fragment`], [`error`] | one `KVM_RUN`: what came back |
//! | [`second_try`] | an instruction that KVM could not emulate, tried again |
//! | [`stats`] | KVM's own counters |
//! | [`handler`], [`thread`], [`group`], [`kick`] | vCPU threads, and getting them out of the guest |
//! | [`seccomp`] | what those threads may ask of the kernel |
//!
//! x86-64 only; the split between what is general (slots, threads) and what is
//! not (`boot`, the registers in `vcpu` and `fragment`) is by module.
pub mod boot;
pub mod caps;
mod cpuid;
mod dirty_log;
pub mod error;
pub mod exit;
mod failure;
pub mod fragment;
pub mod group;
pub mod guest_memfd;
pub mod handler;
pub mod host;
mod host_probe;
mod instruction;
mod ioctls;
pub mod kick;
pub mod lazy_slot;
pub mod open;
mod open_error;
mod own_page;
pub mod quirks;
mod run_page;
pub mod seccomp;
pub mod second_try;
mod slot_error;
mod slot_ids;
mod slot_region;
pub mod slots;
pub mod stats;
pub mod thread;
pub mod vcpu;
pub mod vm;

pub use caps::{CAPABILITIES, Capability, Found, Need};
pub use error::{InstructionBytes, VcpuError};
pub use exit::Exit;
pub use group::{VcpuGroup, Waited};
pub use guest_memfd::GuestMemfdError;
pub use handler::{End, Ended, Handler as VcpuHandler};
pub use host::HostFacts;
pub use lazy_slot::LazyMemSlot;
pub use open::{Kvm, OpenError};
pub use quirks::SlotZap;
pub use seccomp::{Seccomp, SeccompError, VcpuFilter};
pub use second_try::{SecondTry, Supplied};
pub use slots::{MemSlot, SlotAccess, SlotError};
pub use stats::{Stats, StatsError};
pub use thread::{ThreadError, VcpuThread};
pub use vcpu::{Registers, Vcpu};
pub use vm::{Vm, VmError};
