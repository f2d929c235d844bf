//! What a machine is made of, as a user asks for it.

use std::path::PathBuf;
use std::time::Duration;

use gracefault_guest::abi::{self, Workload};
use serde::Serialize;

use crate::kvm::Seccomp;
use crate::memory::{PAGE, RamOptions};
use crate::mm::SpaceOptions;

/// What to run, and on what. Checked by [`check`](Self::check), which names what
/// to change.
#[derive(Clone, Debug)]
pub struct MachineConfig {
    /// The KVM device.
    pub kvm_device: PathBuf,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// The guest's memory.
    pub memory: MemoryConfig,
    /// Where it comes from.
    pub ram: RamOptions,
    /// A guest of the user's; `None` for the built-in one.
    pub kernel: Option<PathBuf>,
    /// What the guest is to do.
    pub workload: Workload,
    /// How long it is to do it, before it is asked to end. Ignored by a guest
    /// that ends by itself. [`Duration::MAX`]: until
    /// [somebody says so](super::MachineHandle::finish).
    pub duration: Duration,
    /// How long all of it may take, before it is stopped and has failed; without a
    /// duration, how long the end may take. Pauses do not count.
    pub timeout: Duration,
    /// Whether a thread plugs and unplugs blocks meanwhile.
    pub churn: bool,
    /// Whether it is tracked which pages the guest writes, and which the VMM does: of
    /// boot RAM ([`Machine::boot_slots`](super::Machine::boot_slots)) and of blocks
    /// ([`HotplugRegion::take_dirty_pages`](crate::hotplug::HotplugRegion::take_dirty_pages)).
    /// Costs a fault at the guest's first write to each page.
    pub dirty_log: bool,
    /// What that thread's choices grow from.
    pub seed: u64,
    /// How the map of its memory keeps its holds, and how its lookups wait. The rank
    /// is not asked for.
    pub space: SpaceOptions,
    /// Whether the vCPUs' threads are confined.
    pub seccomp: Seccomp,
    /// For tests of the run's own checks: what to falsify.
    pub sabotage: Option<Sabotage>,
}

/// The guest's memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryConfig {
    /// Boot RAM.
    pub size: u64,
    /// The most that can be plugged.
    pub hotplug_size: u64,
    /// Bytes in a block.
    pub block: u64,
    /// Whether a block's memslot is put in only when the guest first misses it.
    pub lazy: bool,
}

/// What a test falsifies, to see that the run notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// A byte of the guest's memory is flipped behind its back.
    FlipByte,
    /// A device answers with a wrong value.
    MmioValue,
    /// One exit is not counted.
    UncountedExit,
    /// A vCPU's thread makes a system call that its filter does not allow.
    SystemCall,
}

/// Why a configuration cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// No vCPU, or too many.
    #[error("{asked} vCPUs: choose from 1 to {most} (--cpus), which is what {limit} allows")]
    Vcpus {
        /// What was asked for.
        asked: u32,
        /// The most there can be.
        most: u32,
        /// Whose limit that is.
        limit: &'static str,
    },
    /// A size that is no number of pages.
    #[error("{what} of {bytes} bytes: choose a multiple of {PAGE}{}", if *.bytes == 0 { ", not 0" } else { "" })]
    NotPages {
        /// Which size.
        what: &'static str,
        /// What was asked for.
        bytes: u64,
    },
    /// A block size that is no power of two.
    #[error("a block size of {bytes} bytes: choose a power of two from {PAGE} on (block=2M)")]
    BlockSize {
        /// What was asked for.
        bytes: u64,
    },
    /// A region that is no number of blocks.
    #[error("hotplug_size of {bytes} bytes is not a multiple of the block size, {block} bytes")]
    NotBlocks {
        /// The region.
        bytes: u64,
        /// The block.
        block: u64,
    },
    /// More blocks than KVM has memslots.
    #[error(
        "hotplug_size of {bytes} bytes makes {blocks} blocks of {block} bytes, but KVM has {slots} \
         memslots for them (KVM_CAP_NR_MEMSLOTS): the smallest block size that fits is {fits} bytes"
    )]
    TooManyBlocks {
        /// The region.
        bytes: u64,
        /// The block.
        block: u64,
        /// How many there would be.
        blocks: u64,
        /// How many there may be.
        slots: u64,
        /// The smallest power of two that would do.
        fits: u64,
    },
    /// Boot RAM that does not hold what must be in it.
    #[error(
        "{size} bytes of RAM are too small: this guest needs at least {needed} (--memory size=)"
    )]
    TooSmall {
        /// What was asked for.
        size: u64,
        /// What it takes.
        needed: u64,
    },
    /// Addresses that the guest cannot have.
    #[error(
        "the guest's memory would end at {end:#x}, past its {bits}-bit physical addresses: ask for \
         less (--memory size=, hotplug_size=)"
    )]
    PastEnd {
        /// Where it would end.
        end: u128,
        /// How many bits there are.
        bits: u32,
    },
}

/// What the host allows.
#[derive(Clone, Copy, Debug)]
pub struct HostLimits {
    /// KVM's limit on vCPUs.
    pub vcpus: u32,
    /// KVM's limit on memslots.
    pub slots: u32,
    /// Bits of a guest-physical address.
    pub physical_bits: u32,
}

/// Memslots that a machine needs besides its blocks: boot RAM below and above the
/// devices.
const OTHER_SLOTS: u64 = 2;

impl MachineConfig {
    /// Whether it can be, and this host's KVM has so many vCPUs. Whether the host has
    /// the memory is [`RamSource::open`](crate::memory::RamSource::open)'s business.
    pub fn check(&self, host: &HostLimits) -> Result<(), ConfigError> {
        let (most, limit) = match host.vcpus < abi::MAX_VCPUS {
            true => (host.vcpus, "this host's KVM (KVM_CAP_MAX_VCPUS)"),
            false => (abi::MAX_VCPUS, "the guest ABI (MAX_VCPUS)"),
        };
        if self.vcpus == 0 || self.vcpus > most {
            return Err(ConfigError::Vcpus {
                asked: self.vcpus,
                most,
                limit,
            });
        }
        self.memory.check()
    }
}

impl MemoryConfig {
    fn check(&self) -> Result<(), ConfigError> {
        let Self {
            size,
            hotplug_size,
            block,
            lazy: _,
        } = *self;
        if size == 0 || !size.is_multiple_of(PAGE) {
            return Err(ConfigError::NotPages {
                what: "size",
                bytes: size,
            });
        }
        if !block.is_power_of_two() || block < PAGE {
            return Err(ConfigError::BlockSize { bytes: block });
        }
        if !hotplug_size.is_multiple_of(block) {
            return Err(ConfigError::NotBlocks {
                bytes: hotplug_size,
                block,
            });
        }
        Ok(())
    }

    /// Whether there are memslots for all blocks.
    pub(super) fn check_slots(&self, host: &HostLimits) -> Result<(), ConfigError> {
        let Self {
            hotplug_size,
            block,
            ..
        } = *self;
        let (blocks, slots) = (
            hotplug_size / block,
            u64::from(host.slots).saturating_sub(OTHER_SLOTS),
        );
        if blocks > slots {
            let fits = hotplug_size.div_ceil(slots.max(1)).next_power_of_two();
            let bytes = hotplug_size;
            return Err(ConfigError::TooManyBlocks {
                bytes,
                block,
                blocks,
                slots,
                fits,
            });
        }
        Ok(())
    }
}

impl Default for MachineConfig {
    /// Two vCPUs that run the built-in guest's `hotplug` workload for five
    /// seconds, with a churn of blocks beside them.
    fn default() -> Self {
        Self {
            kvm_device: PathBuf::from("/dev/kvm"),
            vcpus: 2,
            memory: MemoryConfig::default(),
            ram: RamOptions::default(),
            kernel: None,
            workload: Workload::Hotplug,
            duration: Duration::from_secs(5),
            timeout: Duration::from_secs(30),
            churn: true,
            dirty_log: false,
            seed: 1,
            space: SpaceOptions::default(),
            seccomp: Seccomp::default(),
            sabotage: None,
        }
    }
}

impl Default for MemoryConfig {
    /// 64 MiB, and 64 blocks of 2 MiB to plug, each with its memslot.
    fn default() -> Self {
        Self {
            size: 64 << 20,
            hotplug_size: 128 << 20,
            block: 2 << 20,
            lazy: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: HostLimits = HostLimits {
        vcpus: 1024,
        slots: 32764,
        physical_bits: 46,
    };

    fn memory(size: u64, hotplug_size: u64, block: u64) -> Result<(), ConfigError> {
        let memory = MemoryConfig {
            size,
            hotplug_size,
            block,
            ..Default::default()
        };
        memory.check().and_then(|()| memory.check_slots(&HOST))
    }

    #[test]
    fn the_default_is_possible() {
        MachineConfig::default().check(&HOST).unwrap();
    }

    #[test]
    fn refuses_no_vcpu_and_too_many() {
        for (asked, host, most) in [(0, 1024, 512), (1000, 1024, 512), (9, 8, 8)] {
            let config = MachineConfig {
                vcpus: asked,
                ..Default::default()
            };
            let error = config
                .check(&HostLimits {
                    vcpus: host,
                    ..HOST
                })
                .unwrap_err();
            assert!(
                matches!(error, ConfigError::Vcpus { most: m, .. } if m == most),
                "{error}"
            );
        }
    }

    #[test]
    fn refuses_sizes_that_cannot_be() {
        let not_pages = |size| memory(size, 0, PAGE);
        assert!(matches!(not_pages(0), Err(ConfigError::NotPages { .. })));
        assert!(matches!(not_pages(4095), Err(ConfigError::NotPages { .. })));
        let block = |block| memory(PAGE, 0, block);
        assert!(matches!(block(0), Err(ConfigError::BlockSize { .. })));
        assert!(matches!(block(2048), Err(ConfigError::BlockSize { .. })));
        assert!(matches!(
            block(3 * PAGE),
            Err(ConfigError::BlockSize { .. })
        ));
        let odd = memory(PAGE, 3 * PAGE, 2 * PAGE);
        assert!(matches!(odd, Err(ConfigError::NotBlocks { .. })));
    }

    #[test]
    fn names_the_smallest_block_size_that_fits() {
        let error = memory(PAGE, 1 << 30, PAGE).unwrap_err();
        let ConfigError::TooManyBlocks { fits, .. } = error else {
            panic!("{error}")
        };
        memory(PAGE, 1 << 30, fits).unwrap();
        assert!(memory(PAGE, 1 << 30, fits / 2).is_err());
    }
}
