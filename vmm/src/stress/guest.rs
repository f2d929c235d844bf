//! A storm with KVM: the readers are vCPUs that run the built-in guest, which verifies
//! what it finds; guest, VMM and KVM have to agree on what it did.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::Builder;
use std::time::{Duration, Instant};

use super::blocks::{Blocks, Ended};
use super::clock::Clock;
use super::figures::Spread;
use super::history::History;
use super::mix::Op;
use super::oracle::{Oracle, Violation};
use super::report::{Covered, LookupFigures, StressReport, StressVerdict};
use super::writer::WriterFigures;
use super::{
    OnBegin, StressConfig, StressError, StressProgress, Watched, breaks, judge, late, linger,
    message,
};
use crate::machine::{
    Machine, MachineConfig, MemoryConfig, RunReport, Sabotage, StopRequest, Verdict,
};
use crate::mm::{MmStats, SpaceOptions, Strategy};

/// What all blocks together are to take at most, if they can be so small.
const MEMORY: u64 = 128 << 20;
/// How long the guest may take to end, beside what it was given.
const PATIENCE: Duration = Duration::from_secs(120);

fn machine_config(config: &StressConfig) -> MachineConfig {
    let block = (MEMORY / u64::from(config.regions).next_power_of_two()).clamp(4096, 2 << 20);
    let sabotage = config.broken.filter(|_| breaks::POSSIBLE);
    MachineConfig {
        kvm_device: config.kvm.clone().unwrap_or_default(),
        vcpus: config.readers,
        memory: MemoryConfig {
            hotplug_size: u64::from(config.regions) * block,
            block,
            ..MemoryConfig::default()
        },
        // Ended by the flag, or by this if that fails.
        duration: config.duration + PATIENCE / 2,
        timeout: config.duration + PATIENCE,
        churn: false,
        seed: config.seed,
        space: SpaceOptions {
            strategy: config.strategy,
            at_window: config.delays.then_some(linger::AT_WINDOW),
            ..SpaceOptions::default()
        },
        seccomp: config.seccomp,
        sabotage: sabotage.and_then(|broken| match broken.name {
            "flip-byte" => Some(Sabotage::FlipByte),
            "mmio-value" => Some(Sabotage::MmioValue),
            "uncounted-exit" => Some(Sabotage::UncountedExit),
            _ => None,
        }),
        ..MachineConfig::default()
    }
}

/// A storm beside a running guest.
pub(super) fn run(
    config: &StressConfig,
    stop: &StopRequest,
    progress: &mut dyn FnMut(StressProgress),
    begins: Option<OnBegin<'_>>,
) -> Result<StressReport, StressError> {
    late::watch(config);
    if config.delays {
        linger::start_all(config.seed);
    }
    let machine = Machine::new(machine_config(config), Box::new(io::sink()))?;
    let (region, memory) = (machine.hotplug().clone(), machine.memory().clone());
    let (finish, over) = (machine.finish_flag(), AtomicBool::new(false));
    let done = Arc::new(AtomicU64::new(0));
    let running = AtomicU32::new(config.writers);
    if let Some(begins) = begins {
        let observed = |error| StressError::Watch(io::Error::other(error));
        let handle = machine.handle().map_err(observed)?;
        begins(Watched::Machine(handle, done.clone())).map_err(StressError::Watch)?;
    }
    let found = Mutex::new(None::<Violation>);
    let history = History::of_operations();
    let clock = Arc::new(Clock::default());
    let start = Instant::now();
    let (report, mut writers) = std::thread::scope(|scope| {
        // Also if this panics: the scope waits for the writers.
        let _over = Sets(&over);
        let mut threads = Vec::new();
        for id in 0..config.writers {
            let (region, memory, clock) = (region.clone(), memory.clone(), clock.clone());
            let (done, running, over, found, finish) = (&done, &running, &over, &found, &finish);
            let history = &history;
            let share = config.ops_of(id);
            let work = move || {
                let mut blocks = Blocks::new(config, region, memory, clock, (id, history));
                let ran = catch_unwind(AssertUnwindSafe(|| blocks.run(share, over, done)));
                let violation = match ran {
                    Ok(Err(Ended::Found(violation))) => Some(violation),
                    Ok(_) => None,
                    Err(panic) => Some(Violation {
                        oracle: Oracle::Panic,
                        what: message(&*panic),
                        thread: format!("writer {id}"),
                        history: history.of(&[]),
                    }),
                };
                if let Some(violation) = violation {
                    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                    found.get_or_insert(violation);
                    over.store(true, Ordering::Relaxed);
                }
                if running.fetch_sub(1, Ordering::Relaxed) == 1 {
                    finish.store(true, Ordering::Relaxed);
                }
                (id, blocks.figures)
            };
            let thread = Builder::new().name(format!("writer {id}"));
            threads.push(
                thread
                    .spawn_scoped(scope, work)
                    .map_err(StressError::Thread)?,
            );
        }
        let report = machine.run(stop, &mut |now| {
            // What the guest has found wrong ends it, too: then what was done last is what
            // matters.
            if now.elapsed >= config.duration || now.mismatches > 0 {
                over.store(true, Ordering::Relaxed);
            }
            clock.tick();
            let stats = memory.mm().stats();
            progress(StressProgress {
                elapsed: now.elapsed,
                lookups: stats.lookup_success + stats.lookup_miss,
                ops: done.load(Ordering::Relaxed),
            });
        });
        over.store(true, Ordering::Relaxed);
        let joined = |thread: std::thread::ScopedJoinHandle<'_, _>| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        let writers: Vec<_> = threads.into_iter().map(joined).collect();
        Ok::<_, StressError>((report?, writers))
    })?;
    writers.sort_by_key(|(id, _)| *id);
    let violation = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    let violation = violation.or_else(|| guests(&report, &history));
    let outcome = Outcome {
        report,
        writers,
        stats: memory.mm().stats(),
        violation,
        time: start.elapsed(),
    };
    Ok(outcome.judge(config))
}

/// Sets a flag when it is dropped.
struct Sets<'a>(&'a AtomicBool);

impl Drop for Sets<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What the guest, or a count, says is wrong.
fn guests(report: &RunReport, history: &History) -> Option<Violation> {
    (report.verdict == Verdict::Failed).then(|| Violation {
        oracle: Oracle::Guest,
        what: report.findings.join("; "),
        thread: "the guest".to_owned(),
        history: history.of(&report.concerned),
    })
}

struct Outcome {
    report: RunReport,
    writers: Vec<(u32, WriterFigures)>,
    stats: MmStats,
    violation: Option<Violation>,
    time: Duration,
}

impl Outcome {
    fn judge(self, config: &StressConfig) -> StressReport {
        let mut written = WriterFigures::default();
        self.writers.iter().for_each(|(_, one)| written.add(one));
        let coverage = self.coverage(config, &written);
        let verdict = match (&self.violation, self.report.verdict) {
            (Some(_), _) => StressVerdict::Violated,
            (None, Verdict::Stopped) => StressVerdict::Stopped,
            (None, _) if !coverage.iter().all(Covered::is_enough) => StressVerdict::Invalid,
            (None, _) => StressVerdict::Passed,
        };
        let mut report = StressReport::of(config, verdict);
        report.coverage = coverage;
        report.seconds = self.time.as_secs_f64();
        report.lookups = self.lookups();
        report.operations = judge::operations(&written, &self.writers);
        report.violation = self.violation;
        report.machine = Some(Box::new(self.report));
        report
    }

    fn lookups(&self) -> LookupFigures {
        let mut waits = Spread::default();
        for (ns, count) in self.report.lookups.waits.each() {
            waits.record_many(ns, count);
        }
        let exits = || self.report.vcpus.iter().map(|vcpu| vcpu.mmio_exits);
        LookupFigures {
            count: self.stats.lookup_success + self.stats.lookup_miss + self.stats.lookup_wait,
            none: self.stats.lookup_miss,
            wait_ns: waits.figures(),
            wait_ns_buckets: waits.buckets(1024),
            most_sections: u64::from(waits.figures().count > 0),
            nested: self.stats.nested_admission,
            aborted: self.stats.lookup_abort,
            least_by_one: exits().min().unwrap_or(0),
            most_by_one: exits().max().unwrap_or(0),
            ..LookupFigures::default()
        }
    }

    fn coverage(&self, config: &StressConfig, written: &WriterFigures) -> Vec<Covered> {
        let mut covered = Vec::new();
        let mut want = |is_wanted: bool, what: &'static str, count: u64| {
            let least = u64::from(is_wanted);
            covered.push(Covered { what, count, least });
        };
        let (stats, mix) = (&self.stats, &config.mix);
        let guest = self.report.guest.as_ref();
        let of_guest = |count: fn(&crate::machine::GuestReport) -> u64| guest.map_or(0, count);
        let blocks = mix.share(Op::Plug) > 0 && mix.share(Op::Unplug) > 0;
        let meets = mix.share(Op::Protect) > 0;
        want(true, "lookups", stats.lookup_success);
        want(meets, "waits", stats.lookup_wait);
        want(
            meets && config.strategy.capabilities().names_holders,
            "drains that found a reader",
            written.drains.figures().count,
        );
        let both = config.preset == super::Preset::Nested && config.strategy != Strategy::Rwlock;
        want(both, "nested admissions", stats.nested_admission);
        want(meets, "rollbacks", written.given_up + written.late);
        want(true, "rounds of the guest", of_guest(|guest| guest.rounds));
        want(
            true,
            "bytes verified by the guest",
            of_guest(|guest| guest.bytes_verified),
        );
        want(
            blocks,
            "blocks taken by the guest",
            of_guest(|guest| guest.blocks_taken),
        );
        want(
            blocks,
            "blocks given back by the guest",
            of_guest(|g| g.blocks_released),
        );
        want(
            false,
            "reads where a block was gone",
            of_guest(|guest| guest.absent_reads),
        );
        for op in Op::ALL {
            want(mix.share(op) > 0, op.name(), written.ops[op as usize]);
        }
        let lingered = linger::counts().iter().map(|(_, count)| count).sum();
        want(config.delays, "lingered", lingered);
        covered.retain(|covered| covered.least > 0 || covered.count > 0);
        covered
    }
}
