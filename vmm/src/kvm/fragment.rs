//! Telling an access from its fragments.
//!
//! KVM hands an MMIO access to user space in pieces of at most 8 bytes that do
//! not cross a page: a 16-byte store comes back from `KVM_RUN` twice, and so
//! does an 8-byte load that crosses into another page. KVM's own `mmio_exits`,
//! and anyone who counts what the guest did, count one instruction. A piece
//! that is not the first is a *fragment*.
//!
//! # The rule
//!
//! A return is a fragment iff the one just before it, of the same vCPU, was
//! MMIO in the same direction; `rip`, `rflags` and all general registers are as
//! they were then; and it either begins 8 bytes above a return of 8 bytes, or
//! begins a page where the other ended one.
//!
//! # Why that is exact
//!
//! Between the fragments of one access the guest does not run, so all
//! registers are the same: those after the instruction for a write, those
//! before it for a read (KVM runs the instruction to its end once it has the
//! data). So no fragment is missed.
//!
//! Conversely, let two returns for different executions have the same
//! registers. Then `rip` is the same, so it is the same instruction (or, for
//! writes, one that ends where the other does), and it computes its address
//! from the same registers. It therefore reaches the same address, not one 8
//! bytes or a page further on. A loop that steps through a device changes a
//! register, a string instruction `rcx`, `rsi` or `rdi`.
//!
//! What is left is a guest that changes what the registers do not show between
//! two such accesses: a segment's base, its page tables, or the code itself,
//! and that restores every register and the flags, the rest of the code
//! included. A guest that counts its accesses must not do that.
use super::vcpu::Registers;

const PAGE: u64 = 4096;

/// The last MMIO return of a vCPU, if a fragment can follow it.
#[derive(Debug, Default)]
pub(super) struct Fragments {
    /// Whether the rest means anything.
    armed: bool,
    write: bool,
    /// The address after its last byte.
    end: u64,
    /// Whether it had 8 bytes.
    full: bool,
    registers: Registers,
}

impl Fragments {
    /// Notes an MMIO return; tells whether it is a fragment of the access that
    /// the return before began.
    ///
    /// The registers are copied only if a fragment can follow, and compared
    /// only if the address says that this may be one.
    #[inline]
    pub(super) fn mmio(&mut self, write: bool, gpa: u64, len: u64, now: &Registers) -> bool {
        let fragment = self.armed
            && self.write == write
            && (self.full && gpa == self.end
                || self.end.is_multiple_of(PAGE) && gpa.is_multiple_of(PAGE))
            && self.registers == *now;
        let end = gpa.wrapping_add(len);
        self.full = len == 8;
        self.armed = self.full || end.is_multiple_of(PAGE);
        if self.armed {
            self.write = write;
            self.end = end;
            if !fragment {
                self.registers = *now;
            }
        }
        fragment
    }

    /// Notes a return that was not MMIO.
    #[inline]
    pub(super) fn other(&mut self) {
        self.armed = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(rip: u64) -> Registers {
        Registers {
            rip,
            ..Default::default()
        }
    }

    /// The fragments among returns `(write, gpa, len, rip)`.
    fn fragments<const N: usize>(returns: [(bool, u64, u64, u64); N]) -> [bool; N] {
        let mut f = Fragments::default();
        returns.map(|(write, gpa, len, rip)| f.mmio(write, gpa, len, &at(rip)))
    }

    #[test]
    fn sixteen_bytes_are_one_access() {
        for write in [false, true] {
            assert_eq!(
                fragments([(write, 0x100, 8, 1), (write, 0x108, 8, 1)]),
                [false, true]
            );
        }
    }

    #[test]
    fn sixteen_bytes_across_a_page_are_one_access() {
        let unaligned = [
            (true, 0xffc, 4, 1),
            (true, 0x1000, 8, 1),
            (true, 0x1008, 4, 1),
        ];
        assert_eq!(fragments(unaligned), [false, true, true]);
        let other_way = [
            (true, 0xff4, 8, 1),
            (true, 0xffc, 4, 1),
            (true, 0x1000, 4, 1),
        ];
        assert_eq!(fragments(other_way), [false, true, true]);
        // Neighbouring guest-virtual pages need not be neighbours here.
        assert_eq!(
            fragments([(false, 0x5ffe, 2, 1), (false, 0x9000, 6, 1)]),
            [false, true]
        );
    }

    #[test]
    fn another_instruction_register_or_direction_is_another_access() {
        assert_eq!(
            fragments([(true, 0x100, 8, 1), (true, 0x108, 8, 2)]),
            [false; 2]
        );
        assert_eq!(
            fragments([(false, 0x100, 8, 1), (true, 0x108, 8, 1)]),
            [false; 2]
        );
        let mut f = Fragments::default();
        assert!(!f.mmio(true, 0x100, 8, &at(1)));
        assert!(!f.mmio(true, 0x108, 8, &Registers { rdi: 8, ..at(1) }));
        assert!(!f.mmio(
            true,
            0x110,
            8,
            &Registers {
                rdi: 8,
                rflags: 2,
                ..at(1)
            }
        ));
    }

    #[test]
    fn the_same_address_again_is_another_access() {
        assert_eq!(
            fragments([(true, 0x100, 8, 1), (true, 0x100, 8, 1)]),
            [false; 2]
        );
        assert_eq!(
            fragments([(true, 0xff8, 8, 1), (true, 0xff8, 8, 1)]),
            [false; 2]
        );
        // Half RAM, half device: only the second page comes here.
        assert_eq!(
            fragments([(true, 0x1000, 4, 1), (true, 0x1000, 4, 1)]),
            [false; 2]
        );
    }

    #[test]
    fn narrow_accesses_inside_a_page_never_continue() {
        assert_eq!(
            fragments([(true, 0x100, 4, 1), (true, 0x104, 4, 1)]),
            [false; 2]
        );
    }

    #[test]
    fn anything_in_between_ends_it() {
        let mut f = Fragments::default();
        assert!(!f.mmio(true, 0x100, 8, &at(1)));
        f.other();
        assert!(!f.mmio(true, 0x108, 8, &at(1)));
    }
}
