//! A second try for an instruction that KVM could not emulate.
//!
//! KVM emulates what touches memory that has no slot, and can do so for few
//! instructions: not for most of SSE, not for `cmpxchg16b`, and not where there is
//! nothing to fetch. It then says where the instruction is, but not what it
//! touched. If that was RAM whose slot is still to come, it runs once all missing
//! slots are in; if it was a device, or nothing, it never will.
use super::error::VcpuError;
use super::vcpu::Registers;

/// What one vCPU remembers of its failures.
#[derive(Debug, Default)]
pub struct SecondTry {
    /// The registers at the last failure that was tried again, if the vCPU is not
    /// known to have got any further since.
    failed: Option<Box<Registers>>,
}

/// What could be done about what an instruction missed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Supplied {
    /// Whether there is anything that might have been missing.
    pub possible: bool,
    /// Whether something was, and is there now.
    pub done: bool,
}

impl SecondTry {
    /// The guest has accessed something since, with these registers. If that was
    /// another instruction, what fails from now on, with whatever registers, fails for
    /// the first time. Not to be told of a kick, which may come before the guest has
    /// done anything.
    #[inline]
    pub fn went_on(&mut self, regs: &Registers) {
        if let Some(failed) = &self.failed
            && failed.rip != regs.rip
        {
            self.failed = None;
        }
    }

    /// Judges an error, with the registers at it: `Ok` if the instruction is to be
    /// run again. `supply` puts in whatever may have been missing.
    ///
    /// An instruction is run again once. If `supply` found nothing missing it is
    /// all the same, where something could have been: another vCPU may have put
    /// that in a moment ago. It is tried a third time only if something else was
    /// missing by then, so a vCPU cannot try for ever.
    ///
    /// # Errors
    /// The error, if it is another, if nothing could have been missing, or if the
    /// same instruction with the same registers has failed again.
    pub fn judge(
        &mut self,
        error: VcpuError,
        regs: &Registers,
        supply: impl FnOnce() -> Supplied,
    ) -> Result<(), VcpuError> {
        if !matches!(error, VcpuError::Emulation { .. }) {
            return Err(error);
        }
        let again = self.failed.as_deref() == Some(regs);
        let supplied = supply();
        if !supplied.done && (again || !supplied.possible) {
            return Err(error);
        }
        self.failed = Some(Box::new(*regs));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::InstructionBytes;
    use super::*;

    fn failure() -> VcpuError {
        VcpuError::Emulation {
            vcpu: 0,
            rip: 1,
            bytes: InstructionBytes::default(),
        }
    }

    fn at(rax: u64) -> Registers {
        Registers {
            rax,
            ..Registers::default()
        }
    }

    /// Whether each failure, at these registers with (possible, done), is tried
    /// again.
    fn tries<const N: usize>(failures: [(u64, bool, bool); N]) -> [bool; N] {
        let mut second = SecondTry::default();
        failures.map(|(rax, possible, done)| {
            let supply = || Supplied { possible, done };
            second.judge(failure(), &at(rax), supply).is_ok()
        })
    }

    #[test]
    fn once_each_and_only_where_something_can_be_missing() {
        assert_eq!(tries([(0, false, false)]), [false]);
        assert_eq!(tries([(0, true, true), (0, true, false)]), [true, false]);
        // Another vCPU was faster.
        assert_eq!(tries([(0, true, false), (0, true, false)]), [true, false]);
        // The same instruction elsewhere is another failure.
        assert_eq!(tries([(0, true, true), (1, true, false)]), [true, true]);
        // Something else has become missing meanwhile.
        assert_eq!(tries([(0, true, true), (0, true, true)]), [true, true]);
    }

    #[test]
    fn once_again_after_the_guest_went_on() {
        let mut second = SecondTry::default();
        // Each time another vCPU was faster.
        let fails = |second: &mut SecondTry| {
            let supply = || Supplied {
                possible: true,
                done: false,
            };
            second.judge(failure(), &at(0), supply).is_err()
        };
        assert!(!fails(&mut second));
        // The same instruction has accessed something before it fails.
        second.went_on(&at(7));
        assert!(fails(&mut second));
        // The memory left and came back, and the guest came round again.
        second.went_on(&Registers { rip: 1, ..at(0) });
        assert!(!fails(&mut second));
        assert!(fails(&mut second));
    }

    #[test]
    fn other_errors_end_the_vcpu_at_once() {
        let error = VcpuError::Shutdown { vcpu: 0, rip: 0 };
        let supply = || unreachable!("nothing was missing");
        assert!(SecondTry::default().judge(error, &at(0), supply).is_err());
    }
}
