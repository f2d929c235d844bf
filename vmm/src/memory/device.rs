//! What answers the accesses to a VMA that is not memory.

use std::fmt;

/// A device behind a range of addresses or ports.
///
/// Its handlers run on the thread that made the access, under the read lock of
/// the device's VMA. They must not block and must not change the map they are in
/// (that is an error there); they may look up and access guest memory. A handler
/// that fails or panics costs its caller all ones and a count, nothing more.
pub trait Device: Send + Sync {
    /// For messages and tables. Always the same.
    fn name(&self) -> &str;

    /// The accesses it takes.
    fn sizes(&self) -> AccessSizes {
        AccessSizes::ANY
    }

    /// Answers a read of `data.len()` bytes at `offset` from the VMA's start.
    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), DeviceError>;

    /// Takes a write of `data` at `offset` from the VMA's start.
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), DeviceError>;
}

/// A device's refusal of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// There is no register there.
    #[error("there is no register at this offset")]
    NoRegister,
    /// The register is read-only, or write-only.
    #[error("the register cannot be accessed in this direction")]
    Direction,
    /// The value makes no sense now.
    #[error("the value is not acceptable")]
    BadValue,
    /// It was called back from a wait for a writer, because the machine is being
    /// stopped.
    #[error("called back, since the machine is being stopped")]
    CalledBack,
}

/// Which lengths of access a device takes, and what becomes of the others. An
/// access is 1 to 8 bytes long; a read or write by DMA may be longer and is cut
/// into pieces of 8 first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct AccessSizes {
    /// Bit n: accesses of n + 1 bytes are taken.
    taken: u8,
    others: OtherSizes,
}

/// What becomes of an access whose length a device does not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtherSizes {
    /// It is cut into the longest pieces that are taken. Those a device does not
    /// take at all (because even 1 byte is not taken) read as all ones.
    Split,
    /// It reads as all ones, and a write is dropped.
    AllOnes,
}

impl AccessSizes {
    /// Every length from 1 to 8.
    pub const ANY: Self = Self {
        taken: 0xff,
        others: OtherSizes::AllOnes,
    };

    /// The given lengths, and what becomes of the others.
    ///
    /// # Panics
    ///
    /// If a length is not between 1 and 8.
    pub const fn only(lengths: &[usize], others: OtherSizes) -> Self {
        let mut taken = 0;
        let mut i = 0;
        while i < lengths.len() {
            assert!(
                lengths[i] >= 1 && lengths[i] <= 8,
                "an access is 1 to 8 bytes long"
            );
            taken |= 1 << (lengths[i] - 1);
            i += 1;
        }
        Self { taken, others }
    }

    #[inline]
    const fn takes(self, len: usize) -> bool {
        self.taken >> (len - 1) & 1 == 1
    }

    /// How many of the next `len` bytes to hand to the device at once; `None` if
    /// they are to read as all ones. `len` is not 0.
    #[inline(always)]
    pub fn piece(self, len: usize) -> Option<usize> {
        if len <= 8 && self.takes(len) {
            return Some(len);
        }
        if len <= 8 && self.others == OtherSizes::AllOnes {
            return None;
        }
        (1..=len.min(8)).rev().find(|&n| self.takes(n))
    }
}

impl fmt::Debug for AccessSizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lengths: Vec<_> = (1..=8).filter(|&n| self.takes(n)).collect();
        write!(f, "{lengths:?}, others {:?}", self.others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_sizes_are_split_or_refused_as_declared() {
        let split = AccessSizes::only(&[1, 4], OtherSizes::Split);
        let pieces: Vec<_> = [1, 2, 3, 4, 5, 8].map(|n| split.piece(n)).into();
        assert_eq!(
            pieces,
            [Some(1), Some(1), Some(1), Some(4), Some(4), Some(4)]
        );
        let refuse = AccessSizes::only(&[8], OtherSizes::AllOnes);
        assert_eq!([refuse.piece(8), refuse.piece(4)], [Some(8), None]);
        // DMA beyond 8 bytes comes in pieces even where others are refused.
        assert_eq!(refuse.piece(20), Some(8));
        let only_wide = AccessSizes::only(&[4], OtherSizes::Split);
        assert_eq!(only_wide.piece(3), None);
    }
}
