//! What stands behind the addresses of a VMA.

use std::fmt;
use std::sync::Arc;

use super::{Device, LazyRam, Mapping};
use crate::mm::Payload;

/// What stands behind the addresses of a VMA.
#[derive(Clone)]
pub enum Backing {
    /// Memory that the guest reads and writes.
    Ram(Arc<Mapping>),
    /// As RAM, but KVM hears of it at the first access that misses it.
    Lazy(LazyRam),
    /// Memory that the guest reads; its writes are dropped.
    Rom(Arc<Mapping>),
    /// A device that answers each access.
    Mmio(Arc<dyn Device>),
}

/// A lookup's cache line has room for so much: see `mm`'s slots.
const _: () = assert!(size_of::<Backing>() <= 32);

impl Backing {
    /// A name for messages and tables: the device's own, or the kind of memory.
    pub fn name(&self) -> &str {
        match self {
            Self::Mmio(device) => device.name(),
            _ => self.kind(),
        }
    }

    /// The memory, if it is memory.
    #[inline]
    pub fn memory(&self) -> Option<&Mapping> {
        match self {
            Self::Ram(memory) | Self::Rom(memory) | Self::Lazy(LazyRam { memory, .. }) => {
                Some(memory)
            }
            Self::Mmio(_) => None,
        }
    }

    /// A word for the kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Ram(_) | Self::Lazy(_) => "ram",
            Self::Rom(_) => "rom",
            Self::Mmio(_) => "mmio",
        }
    }
}

impl Payload for Backing {
    fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Ram(a), Self::Ram(b)) | (Self::Rom(a), Self::Rom(b)) => Arc::ptr_eq(a, b),
            (Self::Lazy(a), Self::Lazy(b)) => Arc::ptr_eq(&a.memory, &b.memory),
            // A device sees offsets from the start of its VMA: never merged.
            _ => false,
        }
    }
}

impl fmt::Debug for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ram(mapping) | Self::Rom(mapping) => {
                f.debug_tuple(self.kind()).field(mapping).finish()
            }
            Self::Lazy(ram) => f.debug_tuple("lazy ram").field(&ram.memory).finish(),
            Self::Mmio(device) => f.debug_tuple("mmio").field(&device.name()).finish(),
        }
    }
}
