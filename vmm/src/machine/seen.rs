//! What is seen of an exit.

use crate::trace::ExitKind;

/// What is known of an exit before anybody has answered it, and its data.
pub(super) struct Seen {
    pub(super) kind: ExitKind,
    pub(super) addr: u64,
    pub(super) fragment: bool,
    /// Bytes.
    pub(super) len: u16,
    /// Bytes of one of several accesses; 0 if there is one.
    pub(super) piece: u8,
    /// The first eight bytes, where somebody records them.
    pub(super) data: u64,
    /// When `KVM_RUN` had returned.
    pub(super) since: u64,
}

impl Seen {
    #[inline(always)]
    pub(super) fn nothing(kind: ExitKind, since: u64) -> Self {
        Self {
            kind,
            addr: 0,
            fragment: false,
            len: 0,
            piece: 0,
            data: 0,
            since,
        }
    }

    /// One access to `addr`.
    #[inline(always)]
    pub(super) fn access(
        kind: ExitKind,
        addr: u64,
        len: usize,
        fragment: bool,
        since: u64,
    ) -> Self {
        Self {
            addr,
            fragment,
            len: len as u16,
            ..Self::nothing(kind, since)
        }
    }

    /// More data of it.
    pub(super) fn add(&mut self, data: &[u8]) {
        let (shift, piece) = (8 * u32::from(self.len), data.len() as u8);
        self.data |= word(data).checked_shl(shift).unwrap_or(0);
        self.piece = if self.len == 0 { 0 } else { piece };
        self.len = self.len.saturating_add(data.len() as u16);
    }
}

/// Up to eight bytes as a number, the first of them the lowest. The lengths that come most
/// by two tests: a table of all would be looked up on a page of its own.
#[inline(always)]
pub(super) fn word(data: &[u8]) -> u64 {
    if let Ok(data) = <[u8; 4]>::try_from(data) {
        u32::from_le_bytes(data).into()
    } else if let Ok(data) = <[u8; 8]>::try_from(data) {
        u64::from_le_bytes(data)
    } else {
        word_of_odd_length(data)
    }
}

#[inline(never)]
fn word_of_odd_length(data: &[u8]) -> u64 {
    let bytes = data.iter().take(8).rev();
    bytes.fold(0, |word, &byte| word << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_of_any_length_is_a_word() {
        let bytes = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
        for len in 0..=10 {
            let mut padded = [0; 8];
            padded[..len.min(8)].copy_from_slice(&bytes[..len.min(8)]);
            assert_eq!(word(&bytes[..len]), u64::from_le_bytes(padded), "{len}");
        }
    }
}
