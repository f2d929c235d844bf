//! KVM: `/dev/kvm`, memslots, vCPUs and their exits.
pub mod caps;
pub mod host;
pub mod open;

pub use caps::{CAPABILITIES, Capability, Found, Need};
pub use host::HostFacts;
pub use open::{Kvm, OpenError};
