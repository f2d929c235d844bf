//! Where things are in the guest's physical address space.
//!
//! ```text
//!  0x1000   parameter page, GDT, IDT, page tables
//!  0x200000 the image; then free memory for the workload (the window)
//!           reports, stacks: at the end of boot RAM below the devices
//!  3 GiB    devices (the test, exit and hotplug devices are at 0xd000_0000 on)
//!  4 GiB    boot RAM that did not fit below 3 GiB
//!           blocks that are plugged and unplugged, from the next GiB on
//! ```

use std::ops::Range;

use gracefault_guest::abi;

use super::config::{ConfigError, HostLimits, MachineConfig};
use crate::kvm::boot::{TABLES_GPA, TABLES_ROOM, table_bytes};

const GIB: u64 = 1 << 30;
/// Boot RAM goes on here.
const HIGH_GPA: u64 = 4 * GIB;

/// Where things are. All ranges are of guest-physical addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Boot RAM below the devices.
    pub(super) low: Range<u64>,
    /// Boot RAM above them; may be empty.
    pub(super) high: Range<u64>,
    /// Where blocks may be plugged; may be empty.
    pub(super) hotplug: Range<u64>,
    /// Where the guest's page tables are.
    pub(super) tables: u64,
    /// vCPU 0's report; the others follow.
    pub(super) reports: u64,
    /// The stacks, vCPU 0's first.
    pub(super) stacks: u64,
    /// Where the image's segments must lie.
    pub(super) image: Range<u64>,
    /// The identity map ends here.
    pub(super) mapped_end: u64,
}

impl Layout {
    /// Lays out a configuration that has been checked.
    pub(super) fn new(config: &MachineConfig, host: &HostLimits) -> Result<Self, ConfigError> {
        let memory = &config.memory;
        let low_end = memory.size.min(abi::MMIO_HOLE_GPA);
        let above_hole = memory.size - low_end;
        let wide = |bytes: u64| u128::from(bytes);
        let end = (wide(HIGH_GPA) + wide(above_hole)).next_multiple_of(wide(memory.block.max(GIB)))
            + wide(memory.hotplug_size);
        // The guest's identity map ends with the lower half of its addresses.
        let bits = host.physical_bits.min(47);
        if end > 1 << bits {
            return Err(ConfigError::PastEnd { end, bits });
        }
        let high_end = HIGH_GPA + above_hole;
        let hotplug_start = high_end.next_multiple_of(memory.block.max(GIB));
        let hotplug_end = hotplug_start + memory.hotplug_size;
        let mapped_end = hotplug_end.next_multiple_of(GIB);

        let vcpus = u64::from(config.vcpus);
        let tables_len = table_bytes(mapped_end);
        let tables_fit = tables_len <= TABLES_ROOM;
        let tables_above = if tables_fit { 0 } else { tables_len };
        let above = vcpus * (abi::STACK_SIZE + abi::REPORT_SIZE) + tables_above;
        let needed = abi::IMAGE_GPA + above;
        if low_end < needed {
            return Err(ConfigError::TooSmall {
                size: memory.size,
                needed,
            });
        }
        let stacks = low_end - vcpus * abi::STACK_SIZE;
        let reports = stacks - vcpus * abi::REPORT_SIZE;
        let image_end = reports - tables_above;
        Ok(Self {
            low: 0..low_end,
            high: HIGH_GPA..high_end,
            hotplug: hotplug_start..hotplug_end,
            tables: if tables_fit { TABLES_GPA } else { image_end },
            reports,
            stacks,
            image: abi::IMAGE_GPA..image_end,
            mapped_end,
        })
    }

    /// Where vCPU `vcpu`'s report is.
    pub(super) fn report(&self, vcpu: u32) -> u64 {
        self.reports + u64::from(vcpu) * abi::REPORT_SIZE
    }

    /// The end of vCPU `vcpu`'s stack.
    pub(super) fn stack_top(&self, vcpu: u32) -> u64 {
        self.stacks + (u64::from(vcpu) + 1) * abi::STACK_SIZE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::MemoryConfig;

    const HOST: HostLimits = HostLimits {
        vcpus: 1024,
        slots: 32764,
        physical_bits: 46,
    };

    fn layout(vcpus: u32, size: u64, hotplug_size: u64) -> Result<Layout, ConfigError> {
        let memory = MemoryConfig {
            size,
            hotplug_size,
            block: 2 << 20,
            lazy: false,
        };
        Layout::new(
            &MachineConfig {
                vcpus,
                memory,
                ..Default::default()
            },
            &HOST,
        )
    }

    /// Nothing overlaps, whatever the sizes.
    #[test]
    fn everything_has_its_place() {
        for vcpus in [1, 2, 512] {
            for size in [64 << 20, 3 * GIB - 4096, 3 * GIB, 5 * GIB, 600 * GIB] {
                for hotplug in [0, 2 << 20, 700 * GIB] {
                    let l = layout(vcpus, size, hotplug).unwrap();
                    let ram = (l.low.end - l.low.start) + (l.high.end - l.high.start);
                    assert_eq!(ram, size);
                    assert!(l.low.end <= abi::MMIO_HOLE_GPA && l.high.end <= l.hotplug.start);
                    assert_eq!(l.hotplug.end - l.hotplug.start, hotplug);
                    assert!(l.hotplug.end <= l.mapped_end && HIGH_GPA <= l.mapped_end);
                    let tables_end = l.tables + table_bytes(l.mapped_end);
                    let below = l.tables >= TABLES_GPA && tables_end <= abi::IMAGE_GPA;
                    let above = l.tables >= l.image.end && tables_end <= l.reports;
                    assert!(below || above, "{l:?}");
                    assert_eq!(l.report(vcpus), l.stacks);
                    assert_eq!(l.stack_top(vcpus - 1), l.low.end);
                }
            }
        }
    }

    #[test]
    fn too_small_or_too_far_is_said() {
        assert!(matches!(
            layout(1, 2 << 20, 0),
            Err(ConfigError::TooSmall { .. })
        ));
        assert!(matches!(
            layout(512, 16 << 20, 0),
            Err(ConfigError::TooSmall { .. })
        ));
        assert!(matches!(
            layout(1, 64 << 20, 1 << 60),
            Err(ConfigError::PastEnd { .. })
        ));
    }
}
