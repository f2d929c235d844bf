//! KVM: `/dev/kvm`, memslots, vCPUs and their exits.
pub mod boot;
pub mod caps;
pub mod host;
pub mod open;
mod slot_error;
mod slot_ids;
pub mod slots;
pub mod vm;

pub use caps::{CAPABILITIES, Capability, Found, Need};
pub use host::HostFacts;
pub use open::{Kvm, OpenError};
pub use slots::{Access, HostMemory, MemSlot, SlotError};
pub use vm::{Vm, VmError};
