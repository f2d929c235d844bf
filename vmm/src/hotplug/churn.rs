//! A writer that never rests: plugs and unplugs blocks until it is told to stop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{BlockKind, Consent, HotplugError, HotplugRegion, PlugReport, UnplugReport};
use crate::trace::{Summary, Times};

/// How long a guest may take to give a block back before that is an error.
const CONSENT: Duration = Duration::from_secs(10);
/// How long readers may hold a block: a handler never blocks.
const DRAIN: Duration = Duration::from_secs(10);
/// How long to leave the guest alone before looking for a block that does not rest,
/// or, where there is no block at all, for the end.
const IDLE: Duration = Duration::from_micros(200);

/// Plugs and unplugs blocks that it chooses at random.
#[derive(Debug)]
pub struct Churn {
    random: fastrand::Rng,
    /// What this has plugged and not unplugged, in no order.
    plugged: Vec<(u32, BlockKind)>,
    /// One in this many plugs is of a volatile block, which is later taken out
    /// unasked. 0: none.
    pub volatile_one_in: u32,
    /// Whether to leave the guest alone for now. Asked before each operation, and also
    /// while the guest is waited for, when somebody calls
    /// [`HotplugController::wake`](crate::devices::HotplugController::wake).
    pub rests: Rests,
}

/// Whether a [`Churn`] is to leave the guest alone.
pub struct Rests(pub Box<dyn Fn() -> bool + Send + Sync>);

impl std::fmt::Debug for Rests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Rests").field(&(self.0)()).finish()
    }
}

impl Churn {
    /// The same seed makes the same choices, as far as the guest does.
    pub fn new(seed: u64) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            plugged: Vec::new(),
            volatile_one_in: 4,
            rests: Rests(Box::new(|| false)),
        }
    }

    /// Plugs and unplugs until `stop` is set or `guest_ended` returns true, then
    /// unplugs what it has plugged. Blocks meanwhile; when the guest has ended,
    /// call [`HotplugController::wake`](crate::devices::HotplugController::wake).
    ///
    /// Ends with the first error. What had happened is in `report` either way.
    pub fn run(
        &mut self,
        region: &HotplugRegion,
        stop: &AtomicBool,
        guest_ended: &dyn Fn() -> bool,
        report: &mut ChurnReport,
    ) -> Result<(), HotplugError> {
        while !stop.load(Ordering::Relaxed) && !guest_ended() {
            if region.blocks() == 0 || (self.rests.0)() {
                std::thread::sleep(IDLE);
                continue;
            }
            // The more there is, the likelier the next one goes.
            if self.random.u32(0..region.blocks()) >= self.plugged.len() as u32 {
                self.plug_one(region, report)?;
            } else {
                let chosen = self.random.usize(0..self.plugged.len());
                let (block, kind) = self.plugged.swap_remove(chosen);
                if !self.unplug_one(region, block, kind, guest_ended, report)? {
                    self.plugged.push((block, kind));
                }
            }
        }
        let left = std::mem::take(&mut self.plugged);
        // All at once, so that the guest gives them back in one round.
        for (block, kind) in &left {
            if *kind == BlockKind::Cooperative {
                region.controller.ask_back(*block);
            }
        }
        for (block, kind) in left {
            while !self.unplug_one(region, block, kind, guest_ended, report)? {
                std::thread::sleep(IDLE);
            }
        }
        Ok(())
    }

    fn plug_one(
        &mut self,
        region: &HotplugRegion,
        report: &mut ChurnReport,
    ) -> Result<(), HotplugError> {
        let block = self.random.u32(0..region.blocks());
        let volatile = self.volatile_one_in != 0 && self.random.u32(0..self.volatile_one_in) == 0;
        let kind = if volatile {
            BlockKind::Volatile
        } else {
            BlockKind::Cooperative
        };
        match region.plug(block, kind) {
            Ok(plug) => {
                report.plugged(&plug);
                // What it was, somebody else has unplugged.
                self.plugged.retain(|(other, _)| *other != block);
                self.plugged.push((block, kind));
            }
            // Another choice next time.
            Err(HotplugError::Plugged { .. }) => {}
            // The guest needs a moment; or KVM does, which may keep the last memslot of
            // this block for good.
            Err(HotplugError::Resting { .. } | HotplugError::Stuck { .. }) => {
                std::thread::sleep(IDLE);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Whether the block is out; it is not if the guest is to be left alone meanwhile, or
    /// while somebody else is at the block.
    fn unplug_one(
        &self,
        region: &HotplugRegion,
        block: u32,
        kind: BlockKind,
        guest_ended: &dyn Fn() -> bool,
        report: &mut ChurnReport,
    ) -> Result<bool, HotplugError> {
        let now = Instant::now();
        let cancelled = || guest_ended() || (self.rests.0)();
        let consent = match guest_ended() {
            // A guest that runs no more cannot be asked, and cannot mind.
            true => Consent::Surprise,
            // It need not be the block any more that this has plugged: somebody else may
            // have taken it, and plugged one of another kind in its place.
            false => Consent::AsOffered {
                deadline: now + CONSENT,
                cancelled: &cancelled,
            },
        };
        match region.unplug(block, consent, Some(now + CONSENT + DRAIN)) {
            Ok(unplug) => report.unplugged(&unplug, kind),
            // Somebody else was faster; or is not done, and may fail.
            Err(HotplugError::NotPlugged { .. }) => return Ok(region.plug_of(block).is_none()),
            Err(HotplugError::NotReleased(_)) if guest_ended() => {
                let unplug =
                    region.unplug(block, Consent::Surprise, Some(now + CONSENT + DRAIN))?;
                report.unplugged(&unplug, kind);
            }
            Err(HotplugError::NotReleased(error)) if error.after < CONSENT => return Ok(false),
            Err(error) => return Err(error),
        }
        Ok(true)
    }
}

/// How long each part of an operation took.
#[derive(Clone, Debug, Default)]
pub struct OpTimes {
    /// All of it.
    pub total: Times,
    /// The map's own part.
    pub map: Times,
    /// KVM's slot change.
    pub kvm: Times,
    /// Getting the host's memory, or giving it back.
    pub host: Times,
    /// Waiting for readers to leave. Unplug only.
    pub drain: Times,
    /// Waiting for the guest to give the block back. Unplug only.
    pub consent: Times,
}

/// The figures of one kind of operation.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct OpSummary {
    /// All of it.
    pub total: Summary,
    /// The map's own part.
    pub map: Summary,
    /// KVM's slot change.
    pub kvm: Summary,
    /// Getting the host's memory, or giving it back.
    pub host: Summary,
    /// Waiting for readers to leave; 0 for a plug.
    pub drain: Summary,
    /// Waiting for the guest to give the block back; 0 for a plug.
    pub consent: Summary,
}

impl OpTimes {
    /// The figures.
    pub fn summary(&self) -> OpSummary {
        OpSummary {
            total: self.total.summary(),
            map: self.map.summary(),
            kvm: self.kvm.summary(),
            host: self.host.summary(),
            drain: self.drain.summary(),
            consent: self.consent.summary(),
        }
    }
}

/// What a [`Churn`] has done.
#[derive(Debug, Default)]
pub struct ChurnReport {
    /// The plugs.
    pub plug: OpTimes,
    /// The unplugs that the guest was asked for.
    pub unplug: OpTimes,
    /// The unplugs that it was not asked for.
    pub surprise: OpTimes,
    /// Readers that drains waited for.
    pub drained_readers: u64,
    /// Unplugs after which the host did not unmap the memory (it was given back
    /// all the same).
    pub unmap_errors: u64,
}

impl ChurnReport {
    fn plugged(&mut self, report: &PlugReport) {
        let times = &mut self.plug;
        times.total.record(report.total);
        times.map.record(report.map);
        times.kvm.record(report.kvm);
        times.host.record(report.mmap);
    }

    fn unplugged(&mut self, report: &UnplugReport, kind: BlockKind) {
        let times = match kind {
            BlockKind::Cooperative => &mut self.unplug,
            BlockKind::Volatile => &mut self.surprise,
        };
        times.total.record(report.total);
        times.map.record(report.map);
        times.kvm.record(report.kvm);
        times.host.record(report.munmap);
        times.drain.record(report.drain.waited);
        times.consent.record(report.consent);
        self.drained_readers += report.drain.holders.len() as u64;
        self.unmap_errors += u64::from(report.unmap_error.is_some());
        if let Some(error) = &report.unmap_error {
            log::warn!("a block's memory was given back but not unmapped: {error}");
        }
    }
}
