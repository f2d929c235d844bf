//! The bytes of an instruction, for messages.
use std::fmt;

/// The bytes of an instruction: as many as KVM had fetched, possibly with the
/// beginning of what follows.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct InstructionBytes {
    bytes: [u8; 15],
    len: u8,
}

impl InstructionBytes {
    /// The first 15 of `bytes`.
    pub fn new(bytes: &[u8]) -> Self {
        let len = bytes.len().min(15);
        let mut new = Self {
            bytes: [0; 15],
            len: len as u8,
        };
        new.bytes[..len].copy_from_slice(&bytes[..len]);
        new
    }

    /// The bytes; none if KVM gave none.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl fmt::Display for InstructionBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.len == 0 {
            return f.write_str("(bytes not reported)");
        }
        for (i, byte) in self.as_slice().iter().enumerate() {
            write!(f, "{}{byte:02x}", if i == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

impl fmt::Debug for InstructionBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{self}]")
    }
}
