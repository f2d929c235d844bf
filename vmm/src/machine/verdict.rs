//! Judging a run: guest, VMM and KVM must agree.

use std::collections::BTreeMap;
use std::time::Duration;

use gracefault_guest::abi::{DMA_GPA, EXIT_GPA, HOTPLUG_GPA, TEST_GPA, Workload, device};

use super::exit_path::{Ended as Figures, Ending};
use super::guest_pages::GuestVcpu;
use super::report::{
    GuestReport, HotplugReport, LookupReport, RefusedReport, RunReport, VcpuReport, Verdict,
};
use super::run::{Cause, ChurnError, VcpuEnd};
use super::{Machine, exit_table};
use crate::devices::{ConsoleReport, Fate};
use crate::hotplug::ChurnReport;
use crate::kvm::End;
use crate::memory::PAGE;
use crate::mm::AddrRange;
use crate::trace::VcpuTrace;

/// Their names, and where they are.
const DEVICES: [(&str, u64); device::COUNT] = [
    ("test", TEST_GPA),
    ("exit", EXIT_GPA),
    ("hotplug", HOTPLUG_GPA),
    ("dma", DMA_GPA),
];

/// What is left of a run.
pub(super) struct Outcome {
    pub(super) cause: Cause,
    pub(super) time: Duration,
    /// By vCPU.
    pub(super) figures: Vec<Figures>,
    /// By vCPU.
    pub(super) ended: Vec<VcpuEnd>,
    pub(super) churn: ChurnReport,
    pub(super) churned: Option<Result<(), ChurnError>>,
    pub(super) console: ConsoleReport,
}

/// What was found wrong, and what could not be checked.
#[derive(Default)]
struct Judgement {
    findings: Vec<String>,
    unchecked: Vec<String>,
    /// What the findings are about.
    concerned: Vec<AddrRange>,
}

impl Judgement {
    fn equal(
        &mut self,
        what: std::fmt::Arguments<'_>,
        (ours, we): (u64, &str),
        (other, they): (u64, &str),
        concerned: &[AddrRange],
    ) {
        if ours != other {
            self.findings
                .push(format!("{what}: {we} counted {ours}, {they} {other}"));
            self.concerned.extend(concerned);
        }
    }
}

pub(super) fn judge(machine: &Machine, outcome: Outcome) -> RunReport {
    let mut judgement = Judgement::default();
    judge_cause(machine, &outcome, &mut judgement);
    let mut vcpus = Vec::new();
    let mut guest = GuestReport::default();
    let mut all = VcpuTrace::default();
    for (end, figures) in outcome.ended.iter().zip(&outcome.figures) {
        let told = machine.pages.report(end.id);
        vcpus.push(judge_vcpu(
            machine,
            outcome.cause,
            end,
            figures,
            &told,
            &mut judgement,
        ));
        add_guest(&mut guest, &told);
        all.add(&figures.trace);
    }
    let Judgement {
        findings,
        unchecked,
        concerned,
    } = judgement;
    let verdict = match (findings.is_empty(), outcome.cause) {
        (false, _) => Verdict::Failed,
        (true, Cause::Outside) => Verdict::Stopped,
        (true, _) => Verdict::Passed,
    };
    let churn = &outcome.churn;
    RunReport {
        verdict,
        findings,
        concerned,
        unchecked,
        seconds: outcome.time.as_secs_f64(),
        workload: workload_name(machine.config.workload),
        seed: machine.config.seed,
        memory: machine.config.memory,
        backing: machine.config.ram.backing(),
        vcpus,
        exits_by_target: exit_table::groups(machine, &all.exits),
        exits: exit_table::rows(machine, &all.exits),
        lookups: LookupReport {
            fast: all.lookups_fast,
            waited: all.waits.summary(),
            waits: all.waits.clone(),
            none: all.lookups_none,
        },
        refused: RefusedReport {
            unmapped: all.unmapped,
            rom_writes: all.rom_writes,
            device_failures: all.device_failures,
        },
        lazy_slots: all.lazy_slots,
        dma: machine.dma.counts(),
        console: outcome.console.clone(),
        hotplug: machine.config.churn.then(|| HotplugReport {
            plug: churn.plug.summary(),
            unplug: churn.unplug.summary(),
            surprise_unplug: churn.surprise.summary(),
            drained_readers: churn.drained_readers,
            unmap_errors: churn.unmap_errors,
        }),
        trace: None,
        guest: (guest.reported > 0 || guest.rounds > 0).then_some(guest),
    }
}

fn judge_cause(machine: &Machine, outcome: &Outcome, judgement: &mut Judgement) {
    if outcome.cause == Cause::Timeout {
        judgement.findings.push(format!(
            "the guest did not end within {:?}; it was at {}; give it longer (--timeout), or see \
             why it hangs",
            machine.config.timeout,
            whereabouts(&outcome.ended)
        ));
    }
    if let Some(Err(error)) = &outcome.churned {
        judgement.findings.push(error.to_string());
    }
}

/// Where each vCPU was, those at one place together.
fn whereabouts(ended: &[VcpuEnd]) -> String {
    let mut places: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for end in ended {
        let place = match (was_stopped(end), end.rip) {
            (true, Some(rip)) => format!("rip {rip:#x}"),
            (true, None) => "an unknown rip".to_owned(),
            (false, _) => "its end".to_owned(),
        };
        places.entry(place).or_default().push(end.id);
    }
    let mut places: Vec<_> = places.into_iter().collect();
    places.sort_by_key(|(_, vcpus)| std::cmp::Reverse(vcpus.len()));
    let shown = places.iter().take(MAX_PLACES).map(|(place, vcpus)| {
        let some: Vec<_> = vcpus.iter().take(MAX_PLACES).map(u32::to_string).collect();
        let (plural, more) = match vcpus.len() {
            1 => ("", String::new()),
            n if n > MAX_PLACES => ("s", format!(" and {} more", n - MAX_PLACES)),
            _ => ("s", String::new()),
        };
        format!("{place} (vCPU{plural} {}{more})", some.join(", "))
    });
    let mut text = shown.collect::<Vec<_>>().join(", ");
    if places.len() > MAX_PLACES {
        text += &format!(" and {} other places", places.len() - MAX_PLACES);
    }
    text
}

/// Places that a message names, and vCPUs at each.
const MAX_PLACES: usize = 8;

fn judge_vcpu(
    machine: &Machine,
    cause: Cause,
    end: &VcpuEnd,
    figures: &Figures,
    told: &GuestVcpu,
    judgement: &mut Judgement,
) -> VcpuReport {
    let (id, trace) = (end.id, &figures.trace);
    let sentence = describe(end);
    let stopped = was_stopped(end);
    let well = matches!(end.end, End::Handler(Ending::Guest(Fate::Exited(0))));
    if !well && !stopped {
        judgement.findings.push(format!("vCPU {id} {sentence}"));
    }

    let kvm_mmio_exits = kvm_mmio_exits(machine, end, judgement);
    if let Some(kvm) = kvm_mmio_exits {
        judgement.equal(
            format_args!("MMIO exits of vCPU {id}"),
            (trace.mmio_exits, "the VMM"),
            (kvm, "KVM"),
            &DEVICES.map(|(_, gpa)| page(gpa)),
        );
    }

    if told.done {
        judge_counts(machine, id, figures, told, judgement);
    } else {
        let why = if stopped {
            "it was stopped"
        } else {
            "its guest wrote no final report"
        };
        judgement
            .unchecked
            .push(format!("vCPU {id}: the guest's own counts, since {why}"));
        if well && machine.config.kernel.is_none() {
            judgement
                .findings
                .push(format!("vCPU {id} ended without its final report"));
        }
    }
    judge_mismatches(id, told, judgement);
    if stopped && cause == Cause::Failure {
        judgement
            .unchecked
            .push(format!("vCPU {id}: stopped, since another failed"));
    }
    VcpuReport {
        end: sentence,
        rip: end.rip,
        mmio_exits: trace.mmio_exits,
        mmio_fragments: trace.mmio_fragments,
        kvm_mmio_exits,
        device_accesses: by_device(figures.accesses),
        guest_device_accesses: told.done.then(|| by_device(told.accesses)),
    }
}

/// KVM's own count. Where KVM offers it, not to get it is a finding.
fn kvm_mmio_exits(machine: &Machine, end: &VcpuEnd, judgement: &mut Judgement) -> Option<u64> {
    let why = match end.vcpu.stats() {
        Ok(stats) => match stats.read("mmio_exits") {
            Some(count) => return Some(count),
            None => "it does not say mmio_exits".to_owned(),
        },
        Err(error) => error.to_string(),
    };
    let missing = format!("vCPU {}: KVM's count of MMIO exits: {why}", end.id);
    match machine.kvm_counts {
        true => judgement.findings.push(missing),
        false => judgement.unchecked.push(missing),
    }
    None
}

/// The guest's final counts against ours.
fn judge_counts(
    machine: &Machine,
    id: u32,
    figures: &Figures,
    told: &GuestVcpu,
    judgement: &mut Judgement,
) {
    for (i, (name, gpa)) in DEVICES.into_iter().enumerate() {
        judgement.equal(
            format_args!("accesses of vCPU {id} to the {name} device"),
            (figures.accesses[i], "the VMM"),
            (told.accesses[i], "the guest"),
            &[page(gpa)],
        );
    }
    judgement.equal(
        format_args!("bytes of vCPU {id} on the serial port"),
        (figures.serial, "the VMM"),
        (told.serial_bytes, "the guest"),
        &[],
    );
    if machine.config.kernel.is_none() {
        judgement.equal(
            format_args!("reads of vCPU {id} where nothing was plugged"),
            (figures.trace.unmapped_reads, "the VMM"),
            (told.absent_reads, "the guest"),
            &all_blocks(machine),
        );
    }
}

fn judge_mismatches(id: u32, told: &GuestVcpu, judgement: &mut Judgement) {
    if told.mismatches == 0 {
        return;
    }
    let mut finding = format!("vCPU {id} found {} wrong values", told.mismatches);
    for (i, m) in told.first.iter().take(3).enumerate() {
        let lead = if i == 0 { ": " } else { ", " };
        finding += &format!(
            "{lead}{:#x} at {:#x} in place of {:#x} (round {})",
            m.found, m.gpa, m.expected, m.round
        );
    }
    judgement.findings.push(finding);
    let places = told.first.iter().map(|m| page(m.gpa));
    judgement.concerned.extend(places);
}

/// Where blocks may be.
fn all_blocks(machine: &Machine) -> Vec<AddrRange> {
    let region = &machine.region;
    (0..region.blocks())
        .map(|block| region.block_range(block))
        .collect()
}

/// The page of `gpa`.
fn page(gpa: u64) -> AddrRange {
    AddrRange::inclusive(gpa & !(PAGE - 1), gpa | (PAGE - 1)).expect("not empty")
}

/// Whether it was stopped from outside, in the guest or while an access waited.
fn was_stopped(end: &VcpuEnd) -> bool {
    matches!(end.end, End::Stopped | End::Handler(Ending::CalledBack))
}

fn describe(end: &VcpuEnd) -> String {
    match &end.end {
        End::Handler(Ending::Guest(fate)) => fate.to_string(),
        End::Handler(Ending::Halted) => "halted with interrupts off".to_owned(),
        End::Handler(Ending::Access(error)) => {
            format!(
                "made an access that failed: {error} (rip {:#x?})",
                end.rip.unwrap_or(0)
            )
        }
        End::Stopped | End::Handler(Ending::CalledBack) => "was stopped".to_owned(),
        End::Failed(error) => format!("failed: {error}"),
        End::Panicked(message) => format!("ended by a panic of its exit handler: {message}"),
    }
}

fn by_device(counts: [u64; device::COUNT]) -> BTreeMap<&'static str, u64> {
    (DEVICES.into_iter().zip(counts))
        .map(|((name, _), count)| (name, count))
        .collect()
}

pub(super) fn add_guest(sum: &mut GuestReport, told: &GuestVcpu) {
    sum.reported += u32::from(told.done);
    for (sum, told) in [
        (&mut sum.rounds, told.rounds),
        (&mut sum.bytes_written, told.bytes_written),
        (&mut sum.bytes_verified, told.bytes_verified),
        (&mut sum.blocks_taken, told.blocks_taken),
        (&mut sum.blocks_released, told.blocks_released),
        (&mut sum.volatile_reads, told.volatile_reads),
        (&mut sum.absent_reads, told.absent_reads),
        (&mut sum.mismatches, told.mismatches),
    ] {
        // The guest may say anything.
        *sum = sum.saturating_add(told);
    }
}

pub(super) fn workload_name(workload: Workload) -> &'static str {
    match workload {
        Workload::Hello => "hello",
        Workload::Mmio => "mmio",
        Workload::Memory => "memory",
        Workload::Hotplug => "hotplug",
    }
}
