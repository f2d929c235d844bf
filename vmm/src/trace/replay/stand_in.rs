//! A device that answers as another one did.

use std::sync::{Mutex, PoisonError};

use crate::memory::{Device, DeviceError};

/// What a [`StandIn`] is to answer next.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Answer {
    pub(super) data: u64,
    pub(super) fails: bool,
}

/// Stands in for a device.
#[derive(Debug)]
pub(super) struct StandIn {
    name: String,
    /// Held for a copy only.
    next: Mutex<Answer>,
}

impl StandIn {
    pub(super) fn new(name: String) -> Self {
        let next = Mutex::default();
        Self { name, next }
    }

    /// Says what to answer next.
    pub(super) fn prompt(&self, answer: Answer) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }

    fn answer(&self) -> Result<u64, DeviceError> {
        let answer = *self.next.lock().unwrap_or_else(PoisonError::into_inner);
        match answer.fails {
            true => Err(DeviceError::BadValue),
            false => Ok(answer.data),
        }
    }
}

impl Device for StandIn {
    fn name(&self) -> &str {
        &self.name
    }

    fn read(&self, _offset: u64, data: &mut [u8]) -> Result<(), DeviceError> {
        let answer = self.answer()?.to_le_bytes();
        for (to, from) in data.iter_mut().zip(answer) {
            *to = from;
        }
        Ok(())
    }

    fn write(&self, _offset: u64, _data: &[u8]) -> Result<(), DeviceError> {
        self.answer().map(drop)
    }
}
