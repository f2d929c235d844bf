//! The handshake with the hotplug controller: join, take an event, do what it
//! asks, acknowledge it, and leave at the end.

use crate::abi::{BANK, decode_event, encode_event, event, hotplug};
use crate::rt::{Device, Guest};

/// What the controller wants of this vCPU; the number is the block's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The block is there, to be read and written once this is acknowledged.
    Offered(u32),
    /// The block is wanted back: stop touching it, then acknowledge.
    AskedBack(u32),
    /// The block is there, to be read only, and may vanish unasked.
    OfferedVolatile(u32),
    /// The volatile block is gone.
    Gone(u32),
    /// An event that this library does not know, as read.
    Unknown(u64),
}

impl Event {
    /// The event in the controller's register, or `None` for none.
    pub fn decode(word: u64) -> Option<Self> {
        Some(match decode_event(word) {
            _ if word == 0 => return None,
            (event::OFFERED, block) => Self::Offered(block),
            (event::ASKED_BACK, block) => Self::AskedBack(block),
            (event::OFFERED_VOLATILE, block) => Self::OfferedVolatile(block),
            (event::GONE, block) => Self::Gone(block),
            _ => Self::Unknown(word),
        })
    }

    /// As it stands in the controller's registers.
    pub fn encode(self) -> u64 {
        match self {
            Self::Offered(block) => encode_event(event::OFFERED, block),
            Self::AskedBack(block) => encode_event(event::ASKED_BACK, block),
            Self::OfferedVolatile(block) => encode_event(event::OFFERED_VOLATILE, block),
            Self::Gone(block) => encode_event(event::GONE, block),
            Self::Unknown(word) => word,
        }
    }
}

impl Guest {
    /// Takes part in hotplug from now on.
    pub fn join(&mut self) {
        self.write(Device::Hotplug, self.controller(hotplug::JOIN), 1u64);
    }

    /// Leaves, which releases whatever was taken and not given back: it must not
    /// be touched any more.
    pub fn leave(&mut self) {
        self.write(Device::Hotplug, self.controller(hotplug::JOIN), 0u64);
    }

    /// Takes the next event, if there is one. One exit each: ask now and then,
    /// not in a tight loop.
    pub fn poll_event(&mut self) -> Option<Event> {
        Event::decode(self.read(Device::Hotplug, self.controller(hotplug::EVENT)))
    }

    /// Tells the controller that this vCPU has done what `event` asked.
    pub fn acknowledge(&mut self, event: Event) {
        self.write(
            Device::Hotplug,
            self.controller(hotplug::ACK),
            event.encode(),
        );
    }

    /// The offset of a register in this vCPU's bank.
    fn controller(&self, register: u64) -> u64 {
        u64::from(self.vcpu()) * BANK + register
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_survive_the_register() {
        for event in [
            Event::Offered(0),
            Event::AskedBack(7),
            Event::OfferedVolatile(u32::MAX),
            Event::Gone(1),
            Event::Unknown(9 << 32 | 3),
        ] {
            assert_eq!(Event::decode(event.encode()), Some(event));
        }
        assert_eq!(Event::decode(0), None);
    }
}
