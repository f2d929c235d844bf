//! Sending a recorded exit stream to the map and the devices again, without KVM.
//!
//! One thread does what all of them did, in the order in which it happened: an exit
//! counts from when its lookup was over, a write section from when it ended. The map is
//! the real one, and changes by real write sections; the devices whose answers depend on
//! nothing but the accesses to them (`test`, `exit`, `serial`) are the real ones. Others
//! (`hotplug`, `dma`, whatever a machine of one's own has) answer as they did, since what
//! else they depended on is not in the stream; so memory is not compared, either.
//!
//! For each access it compares who answered and by which VMA, and what was read from a
//! real device.

mod script;
mod stand_in;
mod world;

use std::time::{Duration, Instant};

use serde::Serialize;

use super::event::Exit;
use super::links::{Links, space_of};
use super::{ExitKind, TraceFile};
use crate::memory::Served;
use script::{Script, Step};
use world::World;

pub use world::WorldError;

/// How fast to replay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    /// As fast as it can.
    #[default]
    Fast,
    /// No event earlier than it happened, counted from the first.
    Recorded,
}

/// Differences that are told one by one.
const TOLD: usize = 100;

/// What a replay has found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ReplayReport {
    /// Accesses that were made again.
    pub exits: u64,
    /// Exits that were no access (a halt, a signal), or that failed: left out.
    pub left_out: u64,
    /// Write sections that were made again.
    pub sections: u64,
    /// Sections of which the trace has not got all changes: left out.
    pub incomplete: u64,
    /// Reads whose value was compared.
    pub values: u64,
    /// Accesses that were answered as recorded, by a device that is not the real one.
    pub scripted: u64,
    /// Accesses that went otherwise, but during which a section changed what is there:
    /// either is right.
    pub raced: u64,
    /// Accesses and sections that went otherwise.
    pub differences: u64,
    /// The first of them.
    pub first: Vec<Difference>,
    /// Events that the trace has lost, each of which may make a difference.
    pub lost: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// Something that went otherwise.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// When it was recorded, nanoseconds since the recording began.
    pub at_ns: u64,
    /// The vCPU; `null` for a section.
    pub vcpu: Option<u16>,
    /// What: an address and direction, or a section.
    pub what: String,
    /// As it was recorded.
    pub recorded: String,
    /// As it is now.
    pub now: String,
}

/// Replays all of `trace`.
///
/// # Errors
/// If what was mapped cannot be mapped here.
pub fn replay(trace: &TraceFile, pace: Pace) -> Result<ReplayReport, WorldError> {
    let links = Links::new(trace);
    let script = Script::new(trace);
    let mut world = World::new(&trace.meta)?;
    let mut report = ReplayReport {
        lost: trace.lost(),
        incomplete: script.incomplete,
        ..ReplayReport::default()
    };
    let begun = Instant::now();
    let first = script.steps.first().map_or(0, Step::at);
    for step in &script.steps {
        if pace == Pace::Recorded {
            let after = trace.time.ns(step.at().saturating_sub(first));
            wait_until(begun, Duration::from_nanos(after));
        }
        match step {
            Step::Section { section, changes } => match world.apply(section, changes) {
                Ok(()) => report.sections += 1,
                Err(error) => report.differ(Difference {
                    at_ns: trace.time.since_start(section.ended),
                    vcpu: None,
                    what: format!("section {}", section.number),
                    recorded: format!("{} was published", section.what.name()),
                    now: error.to_string(),
                }),
            },
            Step::Exit(exit) => one_exit(trace, &links, &script, &mut world, exit, &mut report),
        }
    }
    report.seconds = begun.elapsed().as_secs_f64();
    Ok(report)
}

/// Sleeps, and spins for the last of it.
fn wait_until(begun: Instant, after: Duration) {
    while let Some(left) = after.checked_sub(begun.elapsed()) {
        match left.checked_sub(Duration::from_micros(100)) {
            Some(sleep) if !sleep.is_zero() => std::thread::sleep(sleep),
            _ => std::hint::spin_loop(),
        }
    }
}

fn one_exit(
    trace: &TraceFile,
    links: &Links<'_>,
    script: &Script,
    world: &mut World,
    exit: &Exit,
    report: &mut ReplayReport,
) {
    let Some(served) = exit.served.filter(|_| !exit.failed) else {
        report.left_out += 1;
        return;
    };
    report.exits += 1;
    let (access, data) = world.access(exit);
    let recorded = told(served, exit.vma);
    let now = match &access {
        Ok(access) => told(access.served, access.vma),
        Err(error) => error.to_string(),
    };
    let mut difference = Difference {
        at_ns: trace.time.since_start(exit.start),
        vcpu: Some(exit.vcpu),
        what: format!("{:#x}:{}", exit.addr, exit.kind.suffix()),
        recorded,
        now,
    };
    if difference.recorded != difference.now {
        if script.races(space_of(exit.kind), exit) {
            report.raced += 1;
        } else {
            report.differ(difference);
        }
        return;
    }
    let is_read = matches!(exit.kind, ExitKind::MmioRead | ExitKind::PioIn);
    if world.is_scripted(exit) {
        report.scripted += 1;
    } else if is_read && served != Served::Memory {
        report.values += 1;
        if data != exit.data {
            difference.recorded = format!("{:#x} from {}", exit.data, links.answered(exit));
            difference.now = format!("{data:#x}");
            report.differ(difference);
        }
    }
}

/// Who answered, in words.
fn told(served: Served, vma: Option<u64>) -> String {
    let who = match served {
        Served::Memory => "memory",
        Served::Device => "a device",
        Served::DeviceFailed => "a device that failed",
        Served::Unmapped => "nobody",
        Served::RomWrite => "ROM",
    };
    match vma {
        Some(start) => format!("{who} at {start:#x}"),
        None => who.to_owned(),
    }
}

impl ReplayReport {
    fn differ(&mut self, difference: Difference) {
        self.differences += 1;
        if self.first.len() < TOLD {
            self.first.push(difference);
        }
    }
}
