//! The pages that the VMM shares with the guest: parameters and reports, by the
//! layout of [`gracefault_guest::abi`].

use std::mem::offset_of;
use std::sync::Arc;
use std::time::Duration;

use gracefault_guest::abi::{self, Mismatch, Params, Report, device};

use super::layout::Layout;
use crate::memory::{LogLimit, Mapping, PAGE, sigbus};

/// What the parameter page is to say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Task {
    pub(super) workload: abi::Workload,
    pub(super) vcpus: u32,
    pub(super) tsc_khz: u64,
    pub(super) block_size: u64,
    pub(super) image_end: u64,
}

/// The longest that the memory part of one round may take. Short enough that a
/// guest answers a request for a block within a few milliseconds.
const ROUND_US: u64 = 1000;

/// Boot RAM, seen as the pages in it. All of them lie in its lower part, which is
/// never unplugged.
#[derive(Clone, Debug)]
pub(super) struct GuestPages {
    low: Arc<Mapping>,
    reports: u64,
    complaints: Arc<LogLimit>,
}

/// A word of a [`Report`].
macro_rules! field {
    ($pages:expr, $vcpu:expr, $name:ident) => {
        $pages.word($vcpu, offset_of!(Report, $name))
    };
}

impl GuestPages {
    pub(super) fn new(low: Arc<Mapping>, layout: &Layout) -> Self {
        Self {
            low,
            reports: layout.reports,
            complaints: Arc::new(LogLimit::new(Duration::from_secs(1))),
        }
    }

    /// Fills in the parameter page and the reports' numbers. All else there
    /// becomes 0: boot RAM from a file may hold another guest's.
    pub(super) fn write_task(&self, task: &Task, layout: &Layout) -> Result<(), sigbus::Fault> {
        self.low.write(abi::PARAMS_GPA, &[0; PAGE as usize])?;
        let word = |offset: usize, value: u64| {
            self.put(abi::PARAMS_GPA + offset as u64, &value.to_le_bytes());
        };
        let half = |offset: usize, value: u32| {
            self.put(abi::PARAMS_GPA + offset as u64, &value.to_le_bytes());
        };
        word(offset_of!(Params, magic), abi::PARAMS_MAGIC);
        half(offset_of!(Params, version), abi::ABI_VERSION);
        half(offset_of!(Params, vcpus), task.vcpus);
        half(offset_of!(Params, workload), task.workload as u32);
        word(offset_of!(Params, round_us), ROUND_US);
        word(offset_of!(Params, tsc_khz), task.tsc_khz);
        let window = task.image_end.next_multiple_of(PAGE);
        word(
            offset_of!(Params, window_start),
            window.min(layout.image.end),
        );
        word(offset_of!(Params, window_end), layout.image.end);
        word(offset_of!(Params, hotplug_start), layout.hotplug.start);
        let hotplug_len = layout.hotplug.end - layout.hotplug.start;
        word(
            offset_of!(Params, hotplug_blocks),
            hotplug_len / task.block_size,
        );
        word(offset_of!(Params, block_size), task.block_size);
        word(offset_of!(Params, reports), layout.reports);
        word(offset_of!(Params, mapped_end), layout.mapped_end);
        for vcpu in 0..task.vcpus {
            let mut report = [0; abi::REPORT_SIZE as usize];
            report[..8].copy_from_slice(&u64::from(vcpu).to_le_bytes());
            self.low.write(layout.report(vcpu), &report)?;
        }
        Ok(())
    }

    /// Asks the guest to end.
    pub(super) fn ask_to_end(&self) {
        self.put(
            abi::PARAMS_GPA + offset_of!(Params, stop) as u64,
            &1_u32.to_le_bytes(),
        );
    }

    /// A vCPU's report, complete or not.
    pub(super) fn report(&self, vcpu: u32) -> GuestVcpu {
        let mut accesses = [0; device::COUNT];
        for (i, count) in accesses.iter_mut().enumerate() {
            *count = self.word(vcpu, offset_of!(Report, accesses) + 8 * i);
        }
        let mismatches = field!(self, vcpu, mismatches);
        let told = (mismatches as usize).min(abi::MAX_MISMATCHES);
        GuestVcpu {
            done: field!(self, vcpu, done) == abi::REPORT_DONE,
            accesses,
            serial_bytes: field!(self, vcpu, serial_bytes),
            absent_reads: field!(self, vcpu, absent_reads),
            volatile_reads: field!(self, vcpu, volatile_reads),
            rounds: field!(self, vcpu, rounds),
            bytes_written: field!(self, vcpu, bytes_written),
            bytes_verified: field!(self, vcpu, bytes_verified),
            blocks_taken: field!(self, vcpu, blocks_taken),
            blocks_released: field!(self, vcpu, blocks_released),
            mismatches,
            first: (0..told).map(|i| self.mismatch(vcpu, i)).collect(),
        }
    }

    fn mismatch(&self, vcpu: u32, index: usize) -> Mismatch {
        let start = offset_of!(Report, first) + index * size_of::<Mismatch>();
        Mismatch {
            gpa: self.word(vcpu, start + offset_of!(Mismatch, gpa)),
            expected: self.word(vcpu, start + offset_of!(Mismatch, expected)),
            found: self.word(vcpu, start + offset_of!(Mismatch, found)),
            round: self.word(vcpu, start + offset_of!(Mismatch, round)),
        }
    }

    /// Flips a bit in a vCPU's canary page, if it has one by now. For tests.
    pub(super) fn flip_canary(&self, vcpu: u32) -> bool {
        let canary = field!(self, vcpu, canary);
        let rounds = field!(self, vcpu, rounds);
        // The guest chooses the address, so it is checked like all that it says.
        let inside = canary
            .checked_add(PAGE)
            .is_some_and(|end| end <= self.reports);
        if canary == 0 || rounds == 0 || !inside {
            return false;
        }
        let mut byte = [0];
        self.get(canary, &mut byte);
        self.put(canary, &[byte[0] ^ 0x10]);
        true
    }

    fn word(&self, vcpu: u32, offset: usize) -> u64 {
        let mut bytes = [0; 8];
        let report = self.reports + u64::from(vcpu) * abi::REPORT_SIZE;
        self.get(report + offset as u64, &mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn put(&self, gpa: u64, bytes: &[u8]) {
        if let Err(fault) = self.low.write(gpa, bytes) {
            self.lost(gpa, fault);
        }
    }

    fn get(&self, gpa: u64, bytes: &mut [u8]) {
        if let Err(fault) = self.low.read(gpa, bytes) {
            self.lost(gpa, fault);
        }
    }

    /// A page of the guest's is gone. The guest finds out, or its report does not come.
    fn lost(&self, gpa: u64, fault: sigbus::Fault) {
        // The reports are looked at many times a second.
        if let Some(more) = self.complaints.pass() {
            log::error!("boot RAM at {gpa:#x}: {fault} ({more} more since the last)");
        }
    }
}

/// What one vCPU of the guest says; see [`Report`].
#[derive(Clone, Debug)]
pub(super) struct GuestVcpu {
    pub(super) done: bool,
    pub(super) accesses: [u64; device::COUNT],
    pub(super) serial_bytes: u64,
    pub(super) absent_reads: u64,
    pub(super) volatile_reads: u64,
    pub(super) rounds: u64,
    pub(super) bytes_written: u64,
    pub(super) bytes_verified: u64,
    pub(super) blocks_taken: u64,
    pub(super) blocks_released: u64,
    pub(super) mismatches: u64,
    pub(super) first: Vec<Mismatch>,
}
