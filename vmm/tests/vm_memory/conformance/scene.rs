//! The regions, where accesses to them begin, and what is in them before each.

use vm_memory::{Bytes, GuestAddress, GuestMemory};

use super::log::digest;
use crate::PAGE;

/// Regions, each a base and a size.
#[derive(Clone, Copy)]
pub(crate) struct Scene(pub(crate) &'static [(u64, u64)]);

/// Seams at pages, holes, a region of one page between two seams, and one near the end.
pub(crate) const PAGES: Scene = Scene(&[
    (0, PAGE),
    (PAGE, 2 * PAGE),
    (4 * PAGE, PAGE),
    (5 * PAGE, PAGE),
    (6 * PAGE, 2 * PAGE),
    (u64::MAX - 3 * PAGE + 1, PAGE),
]);

/// Seams anywhere: nothing is aligned, and an access may cross three of them.
pub(crate) const ODD: Scene = Scene(&[
    (3, PAGE - 6),
    (PAGE - 3, PAGE + 6),
    (2 * PAGE + 3, 5),
    (2 * PAGE + 8, 1),
    (2 * PAGE + 9, 0x321),
    (3 * PAGE + 1, PAGE + 2),
    (u64::MAX - 2 * PAGE, PAGE + 1),
]);

pub(crate) const LENGTHS: [usize; 17] = [
    0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 0xfff, 0x1000, 0x1001, 0x2001, 0x4000,
];

/// What is at an address to begin with.
pub(crate) fn pattern(addr: u64) -> u8 {
    (addr ^ (addr >> 8).wrapping_mul(31)) as u8
}

/// The addresses around a border.
pub(crate) fn near(border: u64) -> impl Iterator<Item = u64> {
    (0..=18).map(move |i| border.wrapping_add(i).wrapping_sub(9))
}

impl Scene {
    /// Where accesses begin: all around every border, and elsewhere.
    pub(crate) fn addresses(self) -> Vec<u64> {
        let borders = self.0.iter().flat_map(|&(base, size)| [base, base + size]);
        let mut all: Vec<u64> = borders.flat_map(near).collect();
        all.extend([0x20, PAGE / 2, 3 * PAGE + 8, 100 * PAGE]);
        all.extend([u64::MAX - 8, u64::MAX]);
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The memory that an access may touch, and some on either side of it.
    pub(crate) fn around(self, addr: u64, len: usize) -> Vec<(u64, u64)> {
        let (from, to) = (
            addr.saturating_sub(32),
            addr.saturating_add(len as u64 + 32),
        );
        let part = |&(base, size): &(u64, u64)| {
            let (start, end) = (base.max(from), (base + size).min(to));
            (start < end).then(|| (start, end - start))
        };
        self.0.iter().filter_map(part).collect()
    }
}

/// Each byte of `windows` says where it is.
pub(crate) fn fill(memory: &impl GuestMemory, windows: &[(u64, u64)]) {
    for &(base, size) in windows {
        let bytes: Vec<u8> = (base..base + size).map(pattern).collect();
        memory.write_slice(&bytes, GuestAddress(base)).unwrap();
    }
}

/// What is in `windows`, to see what a write has done and what it has not.
pub(crate) fn sum(memory: &impl GuestMemory, windows: &[(u64, u64)]) -> u64 {
    let mut bytes = Vec::new();
    for &(base, size) in windows {
        let from = bytes.len();
        bytes.resize(from + size as usize, 0);
        let window = &mut bytes[from..];
        memory.read_slice(window, GuestAddress(base)).unwrap();
    }
    digest(&bytes).1
}
