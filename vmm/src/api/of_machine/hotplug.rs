//! Plug, unplug and resize for somebody at the socket.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::super::model::{
    ErrorCode, Failure, Kind, PlugReport, PlugRequest, Range, ResizeReport, ResizeRequest,
    ResizeState, ResizeStatus, UnplugReport, UnplugRequest, Unreleased,
};
use super::super::of_map;
use super::super::vm::Cancel;
use super::names::{Called, Names, Reserved};
use crate::hotplug::{
    BlockKind, Consent, HotplugError, HotplugRegion, RegionSize, Resize, ResizeOptions,
    ResizeState as Reached, Resizer,
};
use crate::machine::{MachineHandle, Phase};
use crate::mm::WriteError;

/// How long the guest may take by default.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long a plug waits for a guest that has not acknowledged the last unplug.
const REST: Duration = Duration::from_secs(5);
/// How long to leave it alone meanwhile, and between two looks at a resize.
const LOOK: Duration = Duration::from_millis(2);

/// What is plugged and unplugged by requests.
#[derive(Debug)]
pub(super) struct Hotplug {
    machine: MachineHandle,
    kind: Kind,
    /// What blocks are called.
    ids: Names,
    resizer: Mutex<Option<(Resizer, Option<Resize>)>>,
    plugged: AtomicU64,
    unplugged: AtomicU64,
    refused: AtomicU64,
}

impl Hotplug {
    pub(super) fn new(machine: MachineHandle, kind: Kind) -> Self {
        Self {
            machine,
            kind,
            ids: Names::default(),
            resizer: Mutex::default(),
            plugged: AtomicU64::new(0),
            unplugged: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    fn region(&self) -> &HotplugRegion {
        self.machine.hotplug()
    }

    /// Has who waits for the guest look whether to go on.
    pub(super) fn wake(&self) {
        self.region().wake();
    }

    /// Total, requested and plugged.
    pub(super) fn size(&self) -> RegionSize {
        let region = self.region();
        match &*locked(&self.resizer) {
            Some((resizer, _)) => resizer.size(),
            None => RegionSize {
                total: u64::from(region.blocks()) * region.block_size(),
                requested: 0,
                plugged: region.plugged().len() as u64 * region.block_size(),
            },
        }
    }

    pub(super) fn counters(&self) -> [(&'static str, u64); 4] {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        [
            ("api_plugs", count(&self.plugged)),
            ("api_unplugs", count(&self.unplugged)),
            ("api_refused", count(&self.refused)),
            ("blocks_plugged_now", self.region().plugged().len() as u64),
        ]
    }

    /// The first address of the block that `addr` is in.
    pub(super) fn block_start(&self, addr: u64) -> Option<u64> {
        let region = self.region();
        let first = region.block_range(0).start();
        let block = addr.checked_sub(first)? / region.block_size();
        let block = u32::try_from(block).ok()?;
        (block < region.blocks()).then(|| region.block_range(block).start())
    }

    /// What is called something, by the first address of its block.
    pub(super) fn ids(&self) -> BTreeMap<u64, String> {
        let ids = self.ids.of_blocks(|block| self.region().plug_of(block));
        let start = |block| self.region().block_range(block).start();
        ids.into_iter()
            .map(|(block, id)| (start(block), id))
            .collect()
    }

    /// Whether somebody else than the run itself may plug and unplug now.
    fn check(&self) -> Result<(), Failure> {
        if self.kind == Kind::Stress {
            let error = "in a storm its writers plug and unplug, and nobody else";
            return Err(Failure::new(ErrorCode::NotSupported, error));
        }
        match self.machine.phase() {
            Phase::Created | Phase::Running => Ok(()),
            phase => {
                let error = format!("the VM is {}", format!("{phase:?}").to_lowercase());
                Err(Failure::conflict(error))
            }
        }
    }

    pub(super) fn plug(
        &self,
        request: &PlugRequest,
        cancel: &Cancel,
    ) -> Result<PlugReport, Failure> {
        self.counted(self.try_plug(request, cancel), &self.plugged)
    }

    pub(super) fn unplug(
        &self,
        request: &UnplugRequest,
        cancel: &Cancel,
    ) -> Result<UnplugReport, Failure> {
        self.counted(self.try_unplug(request, cancel), &self.unplugged)
    }

    fn counted<T>(&self, done: Result<T, Failure>, good: &AtomicU64) -> Result<T, Failure> {
        let count = if done.is_ok() { good } else { &self.refused };
        count.fetch_add(1, Ordering::Relaxed);
        done
    }

    fn try_plug(&self, request: &PlugRequest, cancel: &Cancel) -> Result<PlugReport, Failure> {
        let PlugRequest { start, size, id } = request;
        // Whether such a range can be, before whether it can be now.
        let first = self.region().block_range(0).start();
        let count = self
            .region()
            .blocks_in(start.unwrap_or(first), *size)
            .map_err(failure)?
            .len();
        self.check()?;
        let name = match id {
            Some(id) => Some(self.reserve(id)?),
            None => None,
        };
        let until = Instant::now() + REST;
        // Blocks that KVM does not let be plugged, and what it says of the last.
        let (mut stuck, mut why) = (Vec::new(), None);
        let (blocks, report) = loop {
            let blocks = match start {
                Some(start) => self.region().blocks_in(*start, *size).map_err(failure)?,
                None => {
                    let room = self.room_for(count, &stuck);
                    room.map_err(|full| why.take().map_or(full, failure))?
                }
            };
            match self.region().plug_all(&blocks, BlockKind::Cooperative) {
                Ok(report) => break (blocks, report),
                // There may be room elsewhere.
                Err(error @ HotplugError::Stuck { block, .. }) if start.is_none() => {
                    stuck.push(block);
                    why = Some(error);
                }
                Err(error) => {
                    let passes = match error {
                        // The guest needs a moment.
                        HotplugError::Resting { .. } => true,
                        // Somebody else was faster; there may be room elsewhere.
                        HotplugError::Plugged { .. } => start.is_none(),
                        _ => false,
                    };
                    if !passes || Instant::now() >= until || cancel.is_cancelled() {
                        return Err(failure(error));
                    }
                    std::thread::sleep(LOOK);
                }
            }
        };
        let (range, count) = (self.range(&blocks), blocks.len() as u32);
        if let Some(name) = name {
            name.give(blocks, report.plug);
        }
        Ok(PlugReport {
            range,
            id: id.clone(),
            blocks: count,
            total_ns: nanos(report.total),
            map_ns: nanos(report.map),
            kvm_ns: nanos(report.kvm),
            host_ns: nanos(report.mmap),
        })
    }

    fn reserve<'a>(&'a self, id: &'a str) -> Result<Reserved<'a>, Failure> {
        let reserved = self.ids.reserve(id, |block| self.region().plug_of(block));
        reserved.ok_or_else(|| {
            Failure::conflict(format!(
                "id: something is called {id} already; unplug it, or choose another"
            ))
        })
    }

    /// The lowest blocks in a row that are not plugged, nor `stuck`.
    fn room_for(&self, count: usize, stuck: &[u32]) -> Result<Vec<u32>, Failure> {
        let mut absent = self.region().absent();
        absent.retain(|block| !stuck.contains(block));
        let in_a_row = |blocks: &&[u32]| {
            let (first, last) = (blocks[0], blocks[blocks.len() - 1]);
            (last - first) as usize + 1 == blocks.len()
        };
        match absent.windows(count).find(in_a_row) {
            Some(blocks) => Ok(blocks.to_vec()),
            None => Err(Failure::conflict(format!(
                "there is no room for {count} blocks in a row: {} of {} are free",
                absent.len(),
                self.region().blocks()
            ))),
        }
    }

    fn range(&self, blocks: &[u32]) -> Range {
        let region = self.region();
        Range {
            start: blocks
                .first()
                .map_or(0, |first| region.block_range(*first).start()),
            size: blocks.len() as u64 * region.block_size(),
        }
    }

    /// What has this name, if all of it is there: what is left of a range is no range.
    fn called(&self, id: &str) -> Result<Vec<u32>, Failure> {
        let called = self.ids.called(id, |block| self.region().plug_of(block));
        let Some(Called { left, given }) = called else {
            let error = format!("nothing that is plugged is called {id}");
            return Err(Failure::new(ErrorCode::NotFound, error));
        };
        if left.len() < given {
            return Err(Failure::conflict(format!(
                "id: {id} has only {} of its {given} blocks left; unplug them by range: the map \
                 shows where they are",
                left.len()
            )));
        }
        Ok(left)
    }

    fn try_unplug(
        &self,
        request: &UnplugRequest,
        cancel: &Cancel,
    ) -> Result<UnplugReport, Failure> {
        let wait = request.deadline_ms.map_or(DEADLINE, Duration::from_millis);
        let blocks = match (&request.id, request.start, request.size) {
            (Some(id), None, None) => {
                self.check()?;
                self.called(id)?
            }
            (None, Some(start), Some(size)) => {
                let blocks = self.region().blocks_in(start, size).map_err(failure)?;
                self.check()?;
                blocks
            }
            // Refused before it came here.
            _ => return Err(Failure::bad("no range")),
        };
        let deadline = Instant::now() + wait;
        let cancelled = || cancel.is_cancelled();
        let consent = match request.forced {
            true => Consent::Surprise,
            false => Consent::AsOffered {
                deadline,
                cancelled: &cancelled,
            },
        };
        let report = self
            .region()
            .unplug_all(&blocks, consent, Some(deadline))
            .map_err(failure)?;
        Ok(UnplugReport {
            range: self.range(&blocks),
            blocks: blocks.len() as u32,
            total_ns: nanos(report.total),
            consent_ns: nanos(report.consent),
            drain_ns: nanos(report.drain.waited),
            map_ns: nanos(report.map),
            kvm_ns: nanos(report.kvm),
            host_ns: nanos(report.munmap),
            holders: report.drain.holders.iter().map(of_map::hold).collect(),
            unmap_error: report.unmap_error.map(|error| error.to_string()),
        })
    }

    pub(super) fn resize(
        &self,
        request: &ResizeRequest,
        cancel: &Cancel,
    ) -> Result<ResizeStatus, Failure> {
        let wait = Duration::from_millis(request.wait_ms.unwrap_or(0));
        let patience = request.patience_ms.map(Duration::from_millis);
        let options = ResizeOptions {
            forced: request.forced,
            patience: patience.unwrap_or(ResizeOptions::default().patience),
        };
        let (block, total) = (self.region().block_size(), self.size().total);
        let bytes = request.requested;
        if !bytes.is_multiple_of(block) || bytes > total {
            return Err(failure(HotplugError::BadSize {
                bytes,
                block,
                total,
            }));
        }
        self.check()?;
        if self.machine.config().churn {
            return Err(Failure::conflict(
                "a thread of this run's own plugs and unplugs all the time, so no size lasts: start \
                 it with --no-churn",
            ));
        }
        let resize = self.request(bytes, options)?;
        let until = Instant::now() + wait;
        while matches!(resize.state(), Reached::Underway) && !cancel.is_cancelled() {
            let now = Instant::now();
            if now >= until {
                break;
            }
            // Looked at again, for whether anybody waits.
            let _ = resize.wait(until.min(now + Duration::from_millis(100)));
        }
        Ok(self.status_of(resize.size(), Some(&resize)))
    }

    /// Starts the resizer, if there is none yet, and asks it.
    fn request(&self, bytes: u64, options: ResizeOptions) -> Result<Resize, Failure> {
        let mut resizer = locked(&self.resizer);
        if resizer.is_none() {
            let new = Resizer::new(self.machine.hotplug().clone()).map_err(|error| {
                let error = format!("no thread could be started to resize: {error}");
                Failure::new(ErrorCode::Failed, error)
            })?;
            *resizer = Some((new, None));
        }
        let Some((resizer, last)) = &mut *resizer else {
            unreachable!("made above");
        };
        let resize = resizer.request(bytes, options).map_err(failure)?;
        *last = Some(resize.clone());
        Ok(resize)
    }

    pub(super) fn status(&self) -> ResizeStatus {
        let last = match &*locked(&self.resizer) {
            Some((_, last)) => last.clone(),
            None => None,
        };
        self.status_of(self.size(), last.as_ref())
    }

    fn status_of(&self, size: RegionSize, resize: Option<&Resize>) -> ResizeStatus {
        let (state, report, error) = match resize.map(Resize::state) {
            None => (ResizeState::None, None, None),
            Some(Reached::Underway) => (ResizeState::Underway, None, None),
            Some(Reached::Done(report)) => {
                let report = ResizeReport {
                    plugged_blocks: report.plugged,
                    unplugged_blocks: report.unplugged,
                    took_ns: nanos(report.took),
                    drain_ns: nanos(report.drained),
                    holders: report.holders.iter().map(of_map::hold).collect(),
                };
                (ResizeState::Done, Some(report), None)
            }
            Some(Reached::Failed(error)) => (ResizeState::Failed, None, Some(error.to_string())),
        };
        ResizeStatus {
            block_size: self.region().block_size(),
            total: size.total,
            requested: size.requested,
            plugged: size.plugged,
            state,
            report,
            error,
        }
    }
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that runs under these locks leaves half of something.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// What a client is told when it could not be done.
fn failure(error: HotplugError) -> Failure {
    let text = error.to_string();
    match error {
        HotplugError::NoSuchBlock { .. }
        | HotplugError::BadSize { .. }
        | HotplugError::BadRange { .. } => Failure::bad(text),
        HotplugError::NotReleased(who) => {
            let vcpus = who.users.iter().map(|user| *user as u32).collect();
            let who = Unreleased {
                vcpus,
                waited_ns: nanos(who.after),
                holders: Vec::new(),
            };
            Failure::not_released(text, who)
        }
        HotplugError::Map(WriteError::TimedOut { report }) => {
            let who = Unreleased {
                vcpus: Vec::new(),
                holders: report.holders.iter().map(of_map::hold).collect(),
                waited_ns: nanos(report.waited),
            };
            Failure::not_released(text, who)
        }
        HotplugError::Map(WriteError::LockTimedOut) | HotplugError::PageAwaited { .. } => {
            Failure::not_released(text, Unreleased::default())
        }
        HotplugError::Plugged { .. }
        | HotplugError::NotPlugged { .. }
        | HotplugError::Resting { .. }
        | HotplugError::Stuck { .. }
        | HotplugError::Contended => Failure::conflict(text),
        _ => Failure::new(ErrorCode::Failed, text),
    }
}
