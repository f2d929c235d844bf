//! The MMIO part of a round: reads of the test device's known area, and writes
//! to this vCPU's scratch bank with reads of them, at every width and at
//! alignments that change from round to round.

use gracefault_guest::abi::{BANK, Mismatch, pattern, test};
use gracefault_guest::rt::mov::Word;
use gracefault_guest::rt::{Device, Guest, report};

pub struct Mmio {
    /// What the scratch bank holds.
    bank: [u8; BANK as usize],
}

impl Mmio {
    /// Fills the scratch bank, so that all of it is known from here on.
    pub fn new(guest: &mut Guest) -> Self {
        let mut mmio = Self {
            bank: [0; BANK as usize],
        };
        for offset in (0..BANK).step_by(8) {
            mmio.write::<u64>(guest, offset, 0);
        }
        mmio
    }

    /// One round's part: every width, `passes` times. 12 accesses a pass.
    pub fn round(&mut self, guest: &mut Guest, passes: u64, round: u64) {
        for pass in 0..passes {
            let step = round.wrapping_mul(passes).wrapping_add(pass);
            self.width::<u8>(guest, step, round);
            self.width::<u16>(guest, step, round);
            self.width::<u32>(guest, step, round);
            self.width::<u64>(guest, step, round);
        }
    }

    /// One known value; one write, and a read that overlaps it.
    fn width<T: Word>(&mut self, guest: &mut Guest, step: u64, round: u64) {
        let offset = step.wrapping_mul(7) % (test::KNOWN_LEN - T::LEN + 1);
        let expected = bytes::<T>(|i| test::known(offset + i));
        check::<T>(guest, test::KNOWN + offset, expected, round);

        let places = BANK - T::LEN + 1;
        let offset = step.wrapping_mul(11) % places;
        self.write::<T>(guest, offset, step);
        let beside = (offset + step / 64 % T::LEN) % places;
        let expected = bytes::<T>(|i| self.bank[(beside + i) as usize]);
        check::<T>(guest, scratch(guest) + beside, expected, round);
    }

    /// Writes a value that names the address and `step` to the scratch bank.
    fn write<T: Word>(&mut self, guest: &mut Guest, offset: u64, step: u64) {
        let register = scratch(guest) + offset;
        let value =
            pattern(Device::Test.gpa() + register, step) ^ step.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let start = offset as usize;
        self.bank[start..start + T::LEN as usize]
            .copy_from_slice(&value.to_le_bytes()[..T::LEN as usize]);
        guest.write(Device::Test, register, T::truncate(value));
    }
}

/// This vCPU's scratch bank, as an offset in the device.
fn scratch(guest: &Guest) -> u64 {
    test::SCRATCH + u64::from(guest.vcpu()) * BANK
}

/// As many bytes as `T` has, the first one lowest.
fn bytes<T: Word>(byte: impl Fn(u64) -> u8) -> u64 {
    (0..T::LEN).fold(0, |value, i| value | u64::from(byte(i)) << (8 * i))
}

fn check<T: Word>(guest: &mut Guest, offset: u64, expected: u64, round: u64) {
    let found = guest.read::<T>(Device::Test, offset).into();
    if found != expected {
        report::mismatch(Mismatch {
            gpa: Device::Test.gpa() + offset,
            expected,
            found,
            round,
        });
    }
}
