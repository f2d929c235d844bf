//! The test device: known values to read, storage to write.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use gracefault_guest::abi::test::{KNOWN_LEN, SCRATCH, known};

use super::{bank, banks_len};
use crate::memory::{Device, DeviceError};
use gracefault_guest::abi::BANK;

/// The test device, see [`abi::test`](gracefault_guest::abi::test).
#[derive(Debug)]
pub struct TestDevice {
    /// The vCPUs' banks, one after the other. Bytes, since an access may have any
    /// width; a guest that races with itself gets what it deserves.
    scratch: Vec<AtomicU8>,
    vcpus: usize,
    lies: AtomicBool,
}

impl TestDevice {
    /// For `vcpus` vCPUs.
    pub fn new(vcpus: usize) -> Self {
        let scratch = (0..vcpus as u64 * BANK).map(|_| AtomicU8::new(0)).collect();
        Self {
            scratch,
            vcpus,
            lies: AtomicBool::new(false),
        }
    }

    /// Bytes of address space it wants.
    pub fn len(&self) -> u64 {
        banks_len(SCRATCH, self.vcpus)
    }

    /// Whether it serves no vCPU.
    pub fn is_empty(&self) -> bool {
        self.vcpus == 0
    }

    /// From now on the first known byte is wrong: for tests of those who check.
    pub fn lie(&self) {
        self.lies.store(true, Ordering::Relaxed);
    }

    fn scratch(&self, offset: u64, len: usize) -> Result<&[AtomicU8], DeviceError> {
        let offset = offset.checked_sub(SCRATCH).ok_or(DeviceError::NoRegister)?;
        let (_, in_bank) = bank(offset, self.vcpus)?;
        if in_bank + len as u64 > BANK {
            return Err(DeviceError::NoRegister);
        }
        Ok(&self.scratch[offset as usize..][..len])
    }
}

impl Device for TestDevice {
    fn name(&self) -> &str {
        "test"
    }

    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), DeviceError> {
        if offset + data.len() as u64 <= KNOWN_LEN {
            let lie = u8::from(self.lies.load(Ordering::Relaxed));
            for (byte, o) in data.iter_mut().zip(offset..) {
                *byte = known(o) ^ if o == 0 { lie } else { 0 };
            }
            return Ok(());
        }
        let cells = self.scratch(offset, data.len())?;
        for (byte, cell) in data.iter_mut().zip(cells) {
            *byte = cell.load(Ordering::Relaxed);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        if offset < KNOWN_LEN {
            return Err(DeviceError::Direction);
        }
        for (cell, &byte) in self.scratch(offset, data.len())?.iter().zip(data) {
            cell.store(byte, Ordering::Relaxed);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values_at_every_width_and_alignment() {
        let device = TestDevice::new(1);
        for offset in 0..KNOWN_LEN - 8 {
            for len in 1..=8 {
                let mut data = vec![0; len];
                device.read(offset, &mut data).unwrap();
                assert!(data.iter().zip(offset..).all(|(&byte, o)| byte == known(o)));
            }
        }
        assert_eq!(
            device.read(KNOWN_LEN - 4, &mut [0; 8]),
            Err(DeviceError::NoRegister)
        );
        assert_eq!(device.write(0, &[0]), Err(DeviceError::Direction));
    }

    #[test]
    fn scratch_keeps_what_is_written_and_ends_with_its_bank() {
        let device = TestDevice::new(2);
        let bank = SCRATCH + BANK;
        device.write(bank + 3, &[1, 2, 3, 4, 5]).unwrap();
        let mut data = [0; 8];
        device.read(bank, &mut data).unwrap();
        assert_eq!(data, [0, 0, 0, 1, 2, 3, 4, 5]);
        assert_eq!(
            device.write(bank + BANK - 4, &[0; 8]),
            Err(DeviceError::NoRegister)
        );
        assert_eq!(
            device.write(bank + BANK, &[0]),
            Err(DeviceError::NoRegister)
        );
        assert_eq!(
            device.read(SCRATCH - 4, &mut [0; 8]),
            Err(DeviceError::NoRegister)
        );
    }

    #[test]
    fn a_lie_changes_one_byte() {
        let device = TestDevice::new(1);
        device.lie();
        let mut data = [0; 2];
        device.read(0, &mut data).unwrap();
        assert_eq!(data, [known(0) ^ 1, known(1)]);
    }
}
