//! What may be done with a VMA.

use std::fmt;
use std::ops::BitOr;

/// A set of flags of a [`Vma`](super::Vma), in the kernel's words where it has
/// one. The map itself gives a meaning to [`VmFlags::NOMERGE`] only; the bits
/// from [`VmFlags::EMBEDDER`] up are free for whoever embeds it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct VmFlags(u32);

impl VmFlags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// The guest may read.
    pub const READ: Self = Self(1 << 0);
    /// The guest may write; without it a write is dropped (ROM).
    pub const WRITE: Self = Self(1 << 1);
    /// The guest may execute.
    pub const EXEC: Self = Self(1 << 2);
    /// What the guest may do: all that
    /// [`protect`](super::WriteSection::protect) changes.
    pub const ACCESS: Self = Self::READ.union(Self::WRITE).union(Self::EXEC);
    /// Accesses have side effects: a device answers them (`VM_IO`).
    pub const IO: Self = Self(1 << 3);
    /// Keeps its identity: never merged with a neighbour, as a plugged block
    /// must not be.
    pub const NOMERGE: Self = Self(1 << 4);
    /// The first of the bits that the map leaves to its user; only
    /// [`change_flags`](super::WriteSection::change_flags) changes them.
    pub const EMBEDDER: Self = Self(1 << 16);

    /// The set with these raw bits.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The raw bits.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether every flag of `other` is in the set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The flags of both.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The flags that are in both.
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The flags that are not in `other`.
    pub const fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl BitOr for VmFlags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        self.union(other)
    }
}

impl fmt::Display for VmFlags {
    /// As in `/proc/PID/maps`: `rwxio`-like letters, a dash for what is absent.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters = [
            (Self::READ, 'r'),
            (Self::WRITE, 'w'),
            (Self::EXEC, 'x'),
            (Self::IO, 'i'),
            (Self::NOMERGE, 'b'),
        ];
        for (flag, letter) in letters {
            let shown = if self.contains(flag) { letter } else { '-' };
            write!(f, "{shown}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for VmFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        match self.0 >> 16 {
            0 => Ok(()),
            embedder => write!(f, "+{embedder:#x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn show_as_letters() {
        let ram = VmFlags::READ | VmFlags::WRITE | VmFlags::EXEC;
        assert_eq!(ram.to_string(), "rwx--");
        assert_eq!((VmFlags::READ | VmFlags::IO).to_string(), "r--i-");
        assert_eq!(format!("{:?}", ram | VmFlags::EMBEDDER), "rwx--+0x1");
        assert!(ram.contains(VmFlags::READ | VmFlags::WRITE));
        assert!(!ram.difference(VmFlags::WRITE).contains(VmFlags::WRITE));
    }
}
