//! The exit device: how a vCPU ends, and how a crashed guest tells where.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use gracefault_guest::abi::exit as regs;
use serde::Serialize;

use super::{bank, banks_len};
use crate::memory::{AccessSizes, Device, DeviceError, OtherSizes};

/// How the guest ended a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It exited with this status; 0 means that all is well.
    Exited(u64),
    /// It took a fault that it had no use for.
    Crashed {
        /// The vector.
        vector: u64,
        /// The error code, 0 where the vector has none.
        error: u64,
        /// Where.
        rip: u64,
        /// The stack pointer there.
        rsp: u64,
    },
    /// It panicked; the message went out by the serial port.
    Panicked,
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "exited with status {status}"),
            Self::Crashed {
                vector,
                error,
                rip,
                rsp,
            } => write!(
                f,
                "crashed: {} (vector {vector}), error code {error:#x}, at rip {rip:#x}, rsp {rsp:#x}",
                vector_name(*vector)
            ),
            Self::Panicked => f.write_str("panicked; its message is on the serial console"),
        }
    }
}

fn vector_name(vector: u64) -> &'static str {
    match vector {
        0 => "division error",
        1 => "debug trap",
        3 => "breakpoint",
        6 => "invalid instruction",
        7 => "no floating-point unit",
        8 => "double fault",
        12 => "stack fault",
        13 => "general protection fault",
        14 => "page fault",
        16 => "x87 error",
        17 => "alignment check",
        19 => "SIMD error",
        _ => "fault",
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Bank {
    vector: u64,
    error: u64,
    rsp: u64,
    fate: Option<Fate>,
}

/// The exit device: a bank of registers per vCPU, see
/// [`abi::exit`](gracefault_guest::abi::exit).
#[derive(Debug)]
pub struct ExitDevice {
    /// One lock a vCPU, so that no vCPU waits for another.
    banks: Vec<Mutex<Bank>>,
}

impl ExitDevice {
    /// For `vcpus` vCPUs.
    pub fn new(vcpus: usize) -> Self {
        Self {
            banks: (0..vcpus).map(|_| Mutex::default()).collect(),
        }
    }

    /// Bytes of address space it wants.
    pub fn len(&self) -> u64 {
        banks_len(0, self.banks.len())
    }

    /// Whether it serves no vCPU.
    pub fn is_empty(&self) -> bool {
        self.banks.is_empty()
    }

    /// How the guest ended this vCPU, if it has.
    ///
    /// # Panics
    ///
    /// If there is no such vCPU.
    pub fn fate(&self, vcpu: usize) -> Option<Fate> {
        lock(&self.banks[vcpu]).fate
    }
}

fn lock(bank: &Mutex<Bank>) -> MutexGuard<'_, Bank> {
    // A bank is whole after each write to it.
    bank.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Device for ExitDevice {
    fn name(&self) -> &str {
        "exit"
    }

    fn sizes(&self) -> AccessSizes {
        AccessSizes::only(&[8], OtherSizes::AllOnes)
    }

    fn read(&self, _offset: u64, _data: &mut [u8]) -> Result<(), DeviceError> {
        Err(DeviceError::Direction)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        let (vcpu, register) = bank(offset, self.banks.len())?;
        let value = u64::from_le_bytes(data.try_into().map_err(|_| DeviceError::BadValue)?);
        let mut bank = lock(&self.banks[vcpu]);
        let fate = match register {
            regs::STATUS => Fate::Exited(value),
            regs::PANIC => Fate::Panicked,
            regs::CRASH => {
                let Bank {
                    vector, error, rsp, ..
                } = *bank;
                Fate::Crashed {
                    vector,
                    error,
                    rip: value,
                    rsp,
                }
            }
            _ => {
                let kept = match register {
                    regs::VECTOR => &mut bank.vector,
                    regs::ERROR => &mut bank.error,
                    regs::RSP => &mut bank.rsp,
                    _ => return Err(DeviceError::NoRegister),
                };
                *kept = value;
                return Ok(());
            }
        };
        // The first word counts: nothing runs after it.
        bank.fate.get_or_insert(fate);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gracefault_guest::abi::BANK;

    #[test]
    fn a_crash_is_told_whole_and_by_vcpu() {
        let device = ExitDevice::new(2);
        let write = |at, value: u64| device.write(BANK + at, &value.to_le_bytes());
        write(regs::VECTOR, 14).unwrap();
        write(regs::ERROR, 2).unwrap();
        write(regs::RSP, 0x9000).unwrap();
        assert_eq!(device.fate(1), None);
        write(regs::CRASH, 0x1234).unwrap();
        let fate = Fate::Crashed {
            vector: 14,
            error: 2,
            rip: 0x1234,
            rsp: 0x9000,
        };
        assert_eq!((device.fate(1), device.fate(0)), (Some(fate), None));
        let text = fate.to_string();
        assert!(
            text.contains("page fault") && text.contains("0x1234"),
            "{text}"
        );
        // What comes after does not change it.
        write(regs::STATUS, 0).unwrap();
        assert_eq!(device.fate(1), Some(fate));
    }

    #[test]
    fn refuses_what_is_no_register() {
        let device = ExitDevice::new(1);
        assert_eq!(device.write(BANK, &[0; 8]), Err(DeviceError::NoRegister));
        assert_eq!(
            device.write(regs::PANIC + 8, &[0; 8]),
            Err(DeviceError::NoRegister)
        );
        assert_eq!(device.read(0, &mut [0; 8]), Err(DeviceError::Direction));
    }
}
