//! Running a machine to its end.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::exit_path::{Ended as Figures, Ending, ExitPath};
use super::gate::Pause;
use super::handle::{Inner, Phase};
use super::recorded;
use super::verdict::{self, Outcome};
use super::{Machine, MachineError, RunReport, Sabotage};
use crate::devices::Fate;
use crate::hotplug::{Churn, ChurnReport, HotplugError, Rests};
use crate::kvm::{Ended as VcpuEnded, VcpuGroup, VcpuThread};
use crate::memory::faults::{self, Step};
use crate::memory::sigbus;
use crate::trace::LiveVcpu;
use crate::trace::live::Doing;

/// How often a running machine is looked at.
const TICK: Duration = Duration::from_millis(20);

/// How long the end of a run waits for whoever reads the guest's console.
const CONSOLE_PATIENCE: Duration = Duration::from_secs(1);

/// Asks a running machine to stop, from any thread or signal handler.
#[derive(Debug, Default)]
pub struct StopRequest {
    /// 0: none. Else the signal that asked, or [`NO_SIGNAL`].
    signal: Arc<AtomicUsize>,
}

const NO_SIGNAL: usize = usize::MAX;

impl StopRequest {
    /// Not asked yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A cell into which a signal handler stores its signal's number to ask.
    pub fn signal_flag(&self) -> Arc<AtomicUsize> {
        self.signal.clone()
    }

    /// Asks.
    pub fn now(&self) {
        self.signal.store(NO_SIGNAL, Ordering::Relaxed);
    }

    /// Whether somebody asked.
    pub fn is_asked(&self) -> bool {
        self.signal.load(Ordering::Relaxed) != 0
    }

    /// The signal that asked; `None` if it was none, or nobody asked.
    pub fn signal(&self) -> Option<i32> {
        match self.signal.load(Ordering::Relaxed) {
            0 | NO_SIGNAL => None,
            signal => i32::try_from(signal).ok(),
        }
    }
}

/// What can be told of a machine while it runs.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Since the start.
    pub elapsed: Duration,
    /// Blocks that are plugged.
    pub plugged: usize,
    /// Blocks there may be.
    pub blocks: u32,
    /// Bytes that the guest has verified.
    pub verified: u64,
    /// Values that it found wrong.
    pub mismatches: u64,
}

/// What ended the wait for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Every vCPU has ended.
    Guest,
    /// A vCPU has ended in a way that the others need not survive.
    Failure,
    /// It was asked for from outside.
    Outside,
    /// It took too long.
    Timeout,
}

impl Machine {
    /// Runs the guest to its end, or until it is asked to stop, fails, or takes
    /// longer than the configured timeout. Blocks for that long; calls `progress`
    /// some fifty times a second. When this returns, no thread of it is left.
    ///
    /// What the guest did wrong is in the report; an error means that it could
    /// not be run.
    pub fn run(
        mut self,
        stop: &StopRequest,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<RunReport, MachineError> {
        sigbus::install().map_err(MachineError::Sigbus)?;
        if self.config.sabotage == Some(Sabotage::MmioValue) {
            self.test_device.lie();
        }
        let (hand_in, handed_in) = mpsc::channel();
        let start = Instant::now();
        self.inner.enters(Phase::Running);
        let inner = self.inner.clone();
        let over = Over(&inner);
        let mut group = VcpuGroup::new();
        // Dropped before the group, which waits for its threads: none of them rests then.
        let _ending = Ends(&inner);
        let guest_ended = AtomicBool::new(false);
        for (id, vcpu) in std::mem::take(&mut self.vcpus).into_iter().enumerate() {
            let sabotage = self.config.sabotage.filter(|_| id == 0);
            let (shared, hand_in) = (self.shared.clone(), hand_in.clone());
            let path = ExitPath::new(id, shared, hand_in, sabotage);
            if let Err(error) = group.spawn_from(vcpu, || path.on_this_thread()) {
                // Those before it may wait for a writer by now.
                self.end_waits(&group, &guest_ended);
                return Err(error.into());
            }
        }
        drop(hand_in);

        let churn_stop = AtomicBool::new(false);
        let churn_report = Mutex::default();
        let (cause, figures, ended, churned) = thread::scope(|scope| {
            let churn = self.config.churn.then(|| {
                let run = || self.churn(&churn_stop, &guest_ended, &churn_report);
                let thread = thread::Builder::new().name("hotplug".to_owned());
                faults::check(Step::StartHotplug)
                    .and_then(|()| thread.spawn_scoped(scope, run))
                    .inspect_err(|_| self.pages.ask_to_end())
            });
            let mut watch = Watch {
                machine: &self,
                stop,
                group: &group,
                start,
                progress,
                flipped: false,
                told: None,
            };
            let ends = EndsWaits(|| self.end_waits(&group, &guest_ended));
            let (cause, mut figures) = watch.until_the_end(&handed_in, &churn_stop);
            self.inner.enters(Phase::Ending);
            drop(ends);
            let ended = group.stop();
            // What the vCPUs that were stopped just now had recorded.
            figures.extend(handed_in);
            let churned = churn.map(|thread| match thread {
                Ok(thread) => thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                Err(error) => Err(ChurnError::NoThread(error)),
            });
            (cause, figures, ended, churned)
        });
        let time = start.elapsed();
        drop(over);
        self.serial.end_line();
        let console = self
            .console
            .take()
            .map(|console| console.finish(CONSOLE_PATIENCE));
        let churn = churn_report
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let outcome = Outcome {
            cause,
            time,
            figures: sorted(figures),
            ended,
            churn,
            churned,
            console: console.unwrap_or_default(),
        };
        let mut report = verdict::judge(&self, outcome);
        report.trace = self
            .inner
            .take_recording()
            .map(|recording| recorded::finish(recording, &report));
        Ok(report)
    }

    /// Lets nobody wait for the guest any more, nor the vCPUs for anybody.
    fn end_waits(&self, group: &VcpuGroup<Ending>, guest_ended: &AtomicBool) {
        // First this: a lookup that is told not to wait any more answers with
        // all ones, and no guest may go on with that.
        group.threads().iter().for_each(VcpuThread::request_stop);
        guest_ended.store(true, Ordering::Relaxed);
        self.shared.kill.raise();
        self.shared.gate.end();
        self.shared.controller.wake();
    }

    /// The hotplug thread.
    fn churn(
        &self,
        stop: &AtomicBool,
        guest_ended: &AtomicBool,
        report: &Mutex<ChurnReport>,
    ) -> Result<(), ChurnError> {
        let mut mine = ChurnReport::default();
        let guest_ended = || guest_ended.load(Ordering::Relaxed);
        let mut churn = Churn::new(self.config.seed);
        let shared = self.shared.clone();
        churn.rests = Rests(Box::new(move || shared.gate.pause() != Pause::None));
        let result = churn.run(&self.region, stop, &guest_ended, &mut mine);
        *report.lock().unwrap_or_else(PoisonError::into_inner) = mine;
        // Nothing more will be asked of the guest.
        self.pages.ask_to_end();
        result.map_err(ChurnError::Failed)
    }
}

/// Why the hotplug thread did not do its work.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChurnError {
    #[error("the hotplug thread could not be started: {0}")]
    NoThread(std::io::Error),
    #[error("hotplug: {0}")]
    Failed(HotplugError),
}

/// Says that no vCPU runs any more, when dropped; so also if the run fails.
struct Over<'a>(&'a Inner);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.enters(Phase::Ended);
    }
}

/// Says that the vCPUs end, when dropped, should not all of them have been started.
struct Ends<'a>(&'a Inner);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.enters(Phase::Ending);
    }
}

/// Has the waits end when it is dropped: so also if the progress callback panics, and the
/// scope waits for the hotplug thread.
struct EndsWaits<F: Fn()>(F);

impl<F: Fn()> Drop for EndsWaits<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

fn sorted(mut figures: Vec<(usize, Figures)>) -> Vec<Figures> {
    figures.sort_by_key(|(vcpu, _)| *vcpu);
    figures.into_iter().map(|(_, figures)| figures).collect()
}

/// The main thread's part, while the vCPUs run.
struct Watch<'a> {
    machine: &'a Machine,
    stop: &'a StopRequest,
    group: &'a VcpuGroup<Ending>,
    start: Instant,
    progress: &'a mut dyn FnMut(Progress),
    flipped: bool,
    /// When the guest was asked to end, on the run's own time.
    told: Option<Duration>,
}

impl Watch<'_> {
    /// Waits until there is a reason to end, and gathers what vCPUs hand in
    /// meanwhile.
    fn until_the_end(
        &mut self,
        handed_in: &mpsc::Receiver<(usize, Figures)>,
        churn_stop: &AtomicBool,
    ) -> (Cause, Vec<(usize, Figures)>) {
        let config = &self.machine.config;
        let mut figures = Vec::new();
        loop {
            match handed_in.recv_timeout(TICK) {
                Ok((vcpu, handed)) => {
                    figures.push((vcpu, handed));
                    if figures.len() == config.vcpus as usize {
                        return (Cause::Guest, figures);
                    }
                    let fate = self.machine.shared.exit_device.fate(vcpu);
                    if !matches!(fate, Some(Fate::Exited(_))) {
                        return (Cause::Failure, figures);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return (Cause::Failure, figures),
            }
            if self.stop.is_asked() {
                return (Cause::Outside, figures);
            }
            if self.machine.shared.gate.pause() != Pause::None
                && !self.machine.inner.finish.load(Ordering::Relaxed)
            {
                self.get_out();
                continue;
            }
            // The time stands still in a pause.
            let elapsed = self
                .start
                .elapsed()
                .saturating_sub(self.machine.shared.gate.was_shut());
            if self.is_too_late(elapsed) {
                return (Cause::Timeout, figures);
            }
            let finish = self.machine.inner.finish.load(Ordering::Relaxed);
            if (finish || elapsed >= config.duration) && self.told.is_none() {
                self.told = Some(elapsed);
                self.machine.inner.enters(Phase::Ending);
                churn_stop.store(true, Ordering::Relaxed);
                if !config.churn {
                    self.machine.pages.ask_to_end();
                }
            }
            self.tick(elapsed);
        }
    }

    /// A run without a duration may take its timeout from when it is told to end.
    fn is_too_late(&self, elapsed: Duration) -> bool {
        let config = &self.machine.config;
        match (config.duration, self.told) {
            (Duration::MAX, Some(told)) => elapsed.saturating_sub(told) >= config.timeout,
            (Duration::MAX, None) => false,
            _ => elapsed >= config.timeout,
        }
    }

    /// Gets those vCPUs out of the guest that do not rest yet.
    fn get_out(&self) {
        if self.machine.shared.gate.pause() != Pause::Underway {
            return;
        }
        for thread in self.group.threads() {
            let live = self.machine.shared.live.get(thread.id() as usize);
            let runs =
                |live: &Arc<LiveVcpu>| !matches!(live.now().doing, Doing::Paused | Doing::Ended);
            if live.is_some_and(runs) {
                thread.kick();
            }
        }
    }

    fn tick(&mut self, elapsed: Duration) {
        let Machine {
            config,
            pages,
            region,
            ..
        } = self.machine;
        let (mut verified, mut mismatches) = (0, 0);
        for vcpu in 0..config.vcpus {
            let report = pages.report(vcpu);
            // The guest may say anything.
            verified = u64::saturating_add(verified, report.bytes_verified);
            mismatches = u64::saturating_add(mismatches, report.mismatches);
        }
        let (plugged, blocks) = (region.plugged().len(), region.blocks());
        (self.progress)(Progress {
            elapsed,
            plugged,
            blocks,
            verified,
            mismatches,
        });
        if config.sabotage == Some(Sabotage::FlipByte) && !self.flipped {
            self.flipped = pages.flip_canary(0);
        }
    }
}

/// For the verdict: how one vCPU's thread ended.
pub(super) type VcpuEnd = VcpuEnded<Ending>;
