//! A storm without KVM, from its first thread to its verdict.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::sync::{Arc, Barrier};
use std::thread::Builder;
use std::time::{Duration, Instant};

use super::clock::{Since, TICK};
use super::ops::Operator;
use super::oracle::Oracle;
use super::reader::{Reader, ReaderFigures, Sent};
use super::world::{Ended, World};
use super::writer::{Writer, WriterFigures};
use super::{
    OnBegin, StormHandle, StressConfig, StressError, StressProgress, StressReport, Watched, judge,
    late, message, passer,
};
use crate::machine::StopRequest;

/// How long a thread may be without a step.
const STUCK: Duration = Duration::from_secs(20);
/// How long the threads may take to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pins on their way.
const ROOM: usize = 8;
/// From one thread that only passes by to the next.
const BETWEEN_PASSERS: Duration = Duration::from_millis(50);

/// What a thread hands in when it ends.
pub(super) enum Handed {
    Reader(Box<ReaderFigures>),
    Writer(u32, Box<WriterFigures>),
    /// Counted for nothing but that it is over.
    Other,
}

/// The threads of a storm. They are not joined: one that is stuck is left behind, and
/// ends with the process.
struct Crew {
    world: Arc<World>,
    hand_in: Sender<Handed>,
    hearts: Vec<(String, Arc<AtomicU64>)>,
    running: usize,
}

impl Crew {
    /// Starts a thread; what it panics with is a violation.
    fn spawn(
        &mut self,
        name: String,
        work: impl FnOnce(&AtomicU64) -> Handed + Send + 'static,
    ) -> Result<(), StressError> {
        let heart = Arc::new(AtomicU64::new(0));
        let (world, hand_in, beats) = (self.world.clone(), self.hand_in.clone(), heart.clone());
        let body = move || {
            let handed = catch_unwind(AssertUnwindSafe(|| work(&beats)));
            let handed = handed.unwrap_or_else(|panic| {
                world.violate(Oracle::Panic, message(&*panic), &[]);
                Handed::Other
            });
            beats.store(u64::MAX, Ordering::Relaxed);
            let _ = hand_in.send(handed);
        };
        let thread = Builder::new().name(name.clone()).spawn(body);
        thread.map_err(StressError::Thread)?;
        self.hearts.push((name, heart));
        self.running += 1;
        Ok(())
    }
}

/// A storm over the map alone.
pub(super) fn run(
    config: &StressConfig,
    stop: &StopRequest,
    progress: &mut dyn FnMut(StressProgress),
    begins: Option<OnBegin<'_>>,
) -> Result<StressReport, StressError> {
    late::watch(config);
    let world = World::new(config.clone()).map_err(StressError::Memory)?;
    if let Some(begins) = begins {
        let handle = StormHandle::new(world.clone());
        begins(Watched::Map(handle)).map_err(StressError::Watch)?;
    }
    let (hand_in, handed) = mpsc::channel();
    let mut crew = Crew {
        world: world.clone(),
        hand_in,
        hearts: Vec::new(),
        running: 0,
    };
    let (pins, arrived) = mpsc::sync_channel(ROOM);
    // What stays is mapped before anybody looks.
    let ready = Arc::new(Barrier::new(config.writers as usize + 1));
    let ended = Arc::new(AtomicU64::new(0));
    for id in 0..config.writers {
        let (world, ready, ended) = (world.clone(), ready.clone(), ended.clone());
        let ops = config.ops_of(id);
        crew.spawn(format!("writer {id}"), move |heart| {
            let mut operator = Operator::new(Writer::new(world, id));
            ready.wait();
            if let Ok(operator) = &mut operator {
                let _ = operator.run(ops, heart);
            }
            ended.fetch_add(1, Ordering::Relaxed);
            let figures = operator.map(Operator::into_figures).unwrap_or_default();
            Handed::Writer(id, Box::new(figures))
        })?;
    }
    ready.wait();
    let start = Instant::now();
    for id in 0..config.readers {
        let (world, pins) = (world.clone(), Some(pins.clone()));
        crew.spawn(format!("reader {id}"), move |heart| {
            let mut reader = Reader::new(world, id.into(), pins);
            let _ = reader.run(heart);
            Handed::Reader(Box::new(reader.figures))
        })?;
    }
    let io = world.clone();
    crew.spawn("io".to_owned(), move |heart| {
        passer::receive(&io, &arrived, heart);
        Handed::Other
    })?;
    let mut watch = Watch {
        crew,
        handed,
        start,
        ended,
        beats: Vec::new(),
        readers: Vec::new(),
        writers: Vec::new(),
    };
    let stopped = watch.until_the_end(stop, pins, progress)?;
    let time = start.elapsed();
    Ok(judge::judge(
        &world,
        watch.readers,
        watch.writers,
        time,
        stopped,
    ))
}

struct Watch {
    crew: Crew,
    handed: Receiver<Handed>,
    start: Instant,
    /// Writers that have done all they were asked for.
    ended: Arc<AtomicU64>,
    /// Each thread's last step, and since when it is the last.
    beats: Vec<(u64, Since)>,
    readers: Vec<ReaderFigures>,
    writers: Vec<(u32, WriterFigures)>,
}

impl Watch {
    /// Waits until there is a reason to end, and then for the threads. Returns whether
    /// it was ended from outside.
    fn until_the_end(
        &mut self,
        stop: &StopRequest,
        pins: SyncSender<Sent>,
        progress: &mut dyn FnMut(StressProgress),
    ) -> Result<bool, StressError> {
        let world = self.crew.world.clone();
        let config = &world.config;
        let wanted = config.wants;
        let (mut passers, mut next_passer) = (0, self.start);
        let mut stopped = false;
        let passes = config.delays && config.aims().is_empty();
        while !world.is_over() {
            std::thread::sleep(TICK);
            world.clock.tick();
            let elapsed = self.start.elapsed();
            let lookups = world.lookups.load(Ordering::Relaxed);
            let ops = world.ops.load(Ordering::Relaxed);
            progress(StressProgress {
                elapsed,
                lookups,
                ops,
            });
            let done = self.ended.load(Ordering::Relaxed) == u64::from(config.writers);
            stopped = stop.is_asked();
            if stopped
                || elapsed >= config.duration
                || (config.ops.is_some() && done)
                || wanted.is_some_and(|(some, sleeps)| {
                    lookups >= some && world.mm().stats().lookup_wait >= sleeps
                })
            {
                world.stop();
            }
            self.look_for_the_stuck();
            if passes && Instant::now() >= next_passer {
                next_passer = Instant::now() + BETWEEN_PASSERS;
                passers += 1;
                let (world, pins) = (world.clone(), pins.clone());
                self.crew.spawn(format!("passer-by {passers}"), move |_| {
                    let _ = passer::pass(&world, passers, pins);
                    Handed::Other
                })?;
            }
            self.take(Duration::ZERO);
        }
        drop(pins);
        let ending = world.clock.now();
        while self.crew.running > 0 && !world.clock.is_past(ending, world.patience(PATIENCE)) {
            self.take(TICK);
            world.clock.tick();
            // Who is stuck stays so.
            if let Some(violation) = world.violation()
                && matches!(violation.oracle, Oracle::Stuck | Oracle::Called)
            {
                break;
            }
        }
        if self.crew.running > 0 && world.violation().is_none() {
            let what = format!("{} threads do not end", self.crew.running);
            world.violate(Oracle::Stuck, what, &[]);
        }
        Ok(stopped)
    }

    /// Takes what is handed in within `time`, and at once what has been.
    fn take(&mut self, time: Duration) {
        let first = self.handed.recv_timeout(time);
        for handed in first.into_iter().chain(self.handed.try_iter()) {
            self.crew.running -= 1;
            match handed {
                Handed::Reader(figures) => self.readers.push(*figures),
                Handed::Writer(id, figures) => self.writers.push((id, *figures)),
                Handed::Other => {}
            }
        }
    }

    /// A thread that makes no step for long.
    fn look_for_the_stuck(&mut self) {
        let clock = &self.crew.world.clock;
        let stuck = self.crew.world.patience(STUCK);
        let now = clock.now();
        self.beats.resize(self.crew.hearts.len(), (0, now));
        for ((name, heart), (last, since)) in self.crew.hearts.iter().zip(&mut self.beats) {
            let beat = heart.load(Ordering::Relaxed);
            if beat != *last || beat == u64::MAX {
                (*last, *since) = (beat, now);
            } else if clock.is_past(*since, stuck) {
                let what = format!("{name} has made no step for {stuck:?}");
                let _: Ended = self.crew.world.violate(Oracle::Stuck, what, &[]);
            }
        }
    }
}
