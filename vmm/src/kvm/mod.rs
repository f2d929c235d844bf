//! KVM: `/dev/kvm`, memslots, vCPUs and their exits.
pub mod boot;
pub mod caps;
pub mod error;
pub mod exit;
pub mod fragment;
pub mod host;
mod ioctls;
pub mod open;
mod run_page;
mod slot_error;
mod slot_ids;
pub mod slots;
pub mod stats;
pub mod vcpu;
pub mod vm;

pub use caps::{CAPABILITIES, Capability, Found, Need};
pub use error::{InstructionBytes, VcpuError};
pub use exit::Exit;
pub use host::HostFacts;
pub use open::{Kvm, OpenError};
pub use slots::{Access, HostMemory, MemSlot, SlotError};
pub use stats::{Stats, StatsError};
pub use vcpu::{Registers, Vcpu};
pub use vm::{Vm, VmError};
