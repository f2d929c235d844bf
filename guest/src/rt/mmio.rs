//! Device registers, by counted `mov`s: what [`Report::accesses`] says is the
//! number of instructions that touched the device, neither more nor less.
//!
//! [`Report::accesses`]: crate::abi::Report::accesses

use crate::abi::{DMA_GPA, EXIT_GPA, HOTPLUG_GPA, TEST_GPA, device};
use crate::rt::Guest;
use crate::rt::mov::Word;
use crate::rt::report::{self, Field};

/// Bytes from one device's first register to the next device's.
const SPAN: u64 = EXIT_GPA - TEST_GPA;

/// A device of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The test device, [`crate::abi::test`].
    Test,
    /// The exit device, [`crate::abi::exit`].
    Exit,
    /// The hotplug controller, [`crate::abi::hotplug`].
    Hotplug,
    /// The DMA device, [`crate::abi::dma`].
    Dma,
}

impl Device {
    /// Its index in [`Report::accesses`](crate::abi::Report::accesses).
    pub const fn index(self) -> usize {
        match self {
            Self::Test => device::TEST,
            Self::Exit => device::EXIT,
            Self::Hotplug => device::HOTPLUG,
            Self::Dma => device::DMA,
        }
    }

    /// The address of its first register.
    pub const fn gpa(self) -> u64 {
        match self {
            Self::Test => TEST_GPA,
            Self::Exit => EXIT_GPA,
            Self::Hotplug => HOTPLUG_GPA,
            Self::Dma => DMA_GPA,
        }
    }

    /// The address of `len` bytes at `offset`.
    fn register(self, offset: u64, len: u64) -> u64 {
        assert!(
            offset <= SPAN - len,
            "offset {offset:#x} is not inside the {self:?} device"
        );
        self.gpa() + offset
    }
}

impl Guest {
    /// Reads a register: 1, 2, 4 or 8 bytes at `offset`, at any alignment.
    ///
    /// # Panics
    ///
    /// When the bytes are not all inside the device's range.
    #[inline]
    pub fn read<T: Word>(&mut self, device: Device, offset: u64) -> T {
        let at = device.register(offset, T::LEN);
        report::add(Field::accesses(device), 1);
        // SAFETY: a `Guest` exists only inside a guest, where the map covers the
        // devices; a load from one changes no memory.
        unsafe { T::load(at) }
    }

    /// Writes a register: 1, 2, 4 or 8 bytes at `offset`, at any alignment.
    ///
    /// # Panics
    ///
    /// When the bytes are not all inside the device's range.
    #[inline]
    pub fn write<T: Word>(&mut self, device: Device, offset: u64, value: T) {
        let at = device.register(offset, T::LEN);
        report::add(Field::accesses(device), 1);
        // SAFETY: as in `read`; no memory lies in a device's range.
        unsafe { value.store(at) }
    }
}
