//! The verdict: violations, and whether anything was exercised at all.

use std::time::Duration;

use super::figures::Spread;
use super::mix::Op;
use super::oracle::Oracle;
use super::reader::ReaderFigures;
use super::report::{Covered, LookupFigures, OpFigures, StressReport, StressVerdict};
use super::world::World;
use super::writer::WriterFigures;
use super::{StressConfig, linger};
use crate::mm::Strategy;

/// Drains from which on it means something how many needed a second round.
const MANY: u64 = 50;
/// From which on a storm has holds that outlast a drain's first round.
const LONG: Duration = Duration::from_secs(8);
/// Where times begin to be told apart.
const MICROSECOND: u64 = 1024;

pub(super) fn judge(
    world: &World,
    readers: Vec<ReaderFigures>,
    mut writers: Vec<(u32, WriterFigures)>,
    time: Duration,
    stopped: bool,
) -> StressReport {
    let config = &world.config;
    writers.sort_by_key(|(id, _)| *id);
    let mut read = ReaderFigures::default();
    readers.iter().for_each(|reader| read.add(reader));
    let mut written = WriterFigures::default();
    writers.iter().for_each(|(_, writer)| written.add(writer));
    check_rounds(world, &written);
    let coverage = coverage(config, &read, &written);
    let violation = world.violation();
    let verdict = match (&violation, stopped) {
        (Some(_), _) => StressVerdict::Violated,
        (None, true) => StressVerdict::Stopped,
        (None, false) if !coverage.iter().all(Covered::is_enough) => StressVerdict::Invalid,
        (None, false) => StressVerdict::Passed,
    };
    let mut report = StressReport::of(config, verdict);
    report.violation = violation;
    report.coverage = coverage;
    report.seconds = time.as_secs_f64();
    report.lookups = lookups(config, &read, &readers);
    report.operations = operations(&written, &writers);
    report
}

/// Rare second rounds are a reader that was not let run; a habit is not.
fn check_rounds(world: &World, written: &WriterFigures) {
    let threads = (world.config.readers + world.config.writers) as usize;
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let (rounds, drains) = (written.rounds, written.drains.figures().count);
    if threads <= 2 * cpus && drains >= MANY && rounds > drains / 2 {
        let what = format!("{rounds} of {drains} drains that found a reader needed a second round");
        world.violate(Oracle::Rounds, what, &[]);
    }
}

/// What was to be exercised.
fn coverage(config: &StressConfig, read: &ReaderFigures, written: &WriterFigures) -> Vec<Covered> {
    let can = config.strategy.capabilities();
    let steps = config.steps();
    let mut covered = Vec::new();
    let mut want = |is_wanted: bool, what: &'static str, count: u64| {
        let least = u64::from(is_wanted);
        covered.push(Covered { what, count, least });
    };
    // Of a million regions no two threads meet at one.
    let meets = config.regions <= 256;
    want(true, "lookups", read.lookups);
    want(meets, "waits", read.waits.figures().count);
    let retries = read.retries.figures().count;
    want(
        meets && config.strategy == Strategy::Retry,
        "retries",
        retries,
    );
    let drains = written.drains.figures().count;
    want(
        meets && can.names_holders,
        "drains that found a reader",
        drains,
    );
    want(
        meets
            && can.nests
            && config.strategy != Strategy::Rwlock
            && steps.nested > 0
            && config.regions > 1,
        "nested admissions",
        read.nested,
    );
    want(true, "rollbacks", written.given_up + written.late);
    want(
        meets && config.delays && can.names_holders && config.duration >= LONG,
        "second rounds",
        written.rounds,
    );
    let calls = config.mix.share(Op::Call) > 0 && can.is_killable;
    want(calls, "readers called back", read.called);
    want(steps.pin > 0, "pins", read.pins);
    want(steps.set > 0 && can.is_killable, "sets of pins", read.sets);
    want(steps.access > 0, "accesses", read.accesses);
    want(steps.bare > 0, "bare walks", read.walks);
    want(
        steps.border > 0 && can.nests && config.regions > 1,
        "borders held",
        read.borders,
    );
    let splits = config.mix.share(Op::Split) > 0 && config.mix.share(Op::Protect) > 0;
    want(splits && meets, "neighbours merged", written.merged);
    for op in Op::ALL {
        want(
            config.mix.share(op) > 0,
            op.name(),
            written.ops[op as usize],
        );
    }
    let lingered = linger::counts().iter().map(|(_, count)| count).sum();
    want(config.delays, "lingered", lingered);
    if let Some((lookups, sleeps)) = config.wants {
        let mut wants = |what, count, least| covered.push(Covered { what, count, least });
        wants("lookups that the preset wants", read.lookups, lookups);
        wants(
            "sleeps that the preset wants",
            read.waits.figures().count,
            sleeps,
        );
    }
    covered.retain(|covered| covered.least > 0 || covered.count > 0);
    covered
}

fn lookups(config: &StressConfig, read: &ReaderFigures, each: &[ReaderFigures]) -> LookupFigures {
    let by_one = || each.iter().map(|reader| reader.lookups);
    let (waits, retries) = (read.waits.figures(), read.retries.figures());
    LookupFigures {
        count: read.lookups,
        none: read.none,
        wait_ns: waits,
        wait_ns_buckets: read.waits.buckets(MICROSECOND),
        retries,
        retries_buckets: read.retries.buckets(1),
        // Where a lookup takes what the section has left, that was one; the oracle
        // "bounded" has seen to it.
        most_sections: match config.strategy {
            Strategy::Retry => retries.max,
            _ => u64::from(waits.count > 0),
        },
        nested: read.nested,
        timed_out: read.timed_out,
        called_back: read.called,
        aborted: read.aborted,
        pins: read.pins,
        pin_sets: read.sets,
        accesses: read.accesses,
        bare_walks: read.walks,
        borders: read.borders,
        least_by_one: by_one().min().unwrap_or(0),
        most_by_one: by_one().max().unwrap_or(0),
    }
}

pub(super) fn operations(written: &WriterFigures, each: &[(u32, WriterFigures)]) -> OpFigures {
    let by_one = || {
        each.iter()
            .map(|(_, writer)| writer.ops.iter().sum::<u64>())
    };
    let drains: &Spread = &written.drains;
    OpFigures {
        count: written.ops.iter().sum(),
        by_kind: Op::ALL
            .into_iter()
            .map(|op| (op.name(), written.ops[op as usize]))
            .filter(|(_, count)| *count > 0)
            .collect(),
        time_ns: written.times.figures(),
        drain_ns: drains.figures(),
        drain_ns_buckets: drains.buckets(MICROSECOND),
        drained_readers: written.drained_readers,
        second_rounds: written.rounds,
        given_up: written.given_up,
        late: written.late,
        merged: written.merged,
        least_by_one: by_one().min().unwrap_or(0),
        most_by_one: by_one().max().unwrap_or(0),
        sequence: format!("{:016x}", written.hash),
    }
}

impl StressReport {
    /// With what was asked for, and nothing done.
    pub(super) fn of(config: &StressConfig, verdict: StressVerdict) -> Self {
        Self {
            verdict,
            violation: None,
            coverage: Vec::new(),
            repeat: config.command(),
            preset: config.preset,
            strategy: config.strategy.name(),
            seed: config.seed,
            readers: config.readers,
            writers: config.writers,
            regions: config.regions,
            mix: config.mix.to_string(),
            broken: config.broken.map(|broken| broken.name),
            seconds: 0.0,
            lookups: LookupFigures::default(),
            operations: OpFigures::default(),
            lingered: linger::counts()
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .map(|(window, count)| (window.name(), count))
                .collect(),
            machine: None,
            compared: None,
        }
    }
}
