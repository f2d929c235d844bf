//! What the threads of a storm without KVM share.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::call::Calls;
use super::chunk::Chunk;
use super::clock::{Clock, Since};
use super::history::History;
use super::layout::Layout;
use super::linger;
use super::oracle::{Oracle, Violation};
use super::shadow::Shadow;
use super::{StressConfig, breaks};
use crate::memory::{Backing, GuestSpace, Mapping};
use crate::mm::{AddrRange, AddressSpace, SpaceOptions, VmFlags, WriteError};

/// The map under storm, and what is known of it beside it.
#[derive(Debug)]
pub(super) struct World {
    pub(super) config: StressConfig,
    pub(super) layout: Layout,
    pub(super) space: GuestSpace,
    pub(super) shadow: Shadow,
    pub(super) history: History,
    pub(super) calls: Calls,
    pub(super) clock: Clock,
    /// Lookups so far, of all readers; added to in lots.
    pub(super) lookups: AtomicU64,
    /// Operations so far, of all writers.
    pub(super) ops: AtomicU64,
    /// When lookups last slept for a section which wanted what their thread held.
    pub(super) slept_inside: Mutex<VecDeque<Since>>,
    common: Option<Arc<Mapping>>,
    stop: AtomicBool,
    violation: Mutex<Option<Violation>>,
}

/// Why a thread of the storm ends early: a violation has been noted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended;

/// Flags of a region that nobody has protected.
pub(super) const FLAGS: VmFlags = VmFlags::READ.union(VmFlags::WRITE);

impl World {
    pub(super) fn new(config: StressConfig) -> io::Result<Arc<Self>> {
        let layout = Layout::new(config.regions);
        let options = SpaceOptions {
            strategy: config.strategy,
            at_window: config.delays.then_some(linger::AT_WINDOW),
            ..SpaceOptions::default()
        };
        let common = match layout.has_memory() {
            true => None,
            false => Some(Arc::new(Mapping::anonymous(2 * layout.len())?)),
        };
        let this = Self {
            layout,
            space: GuestSpace::physical_with(Layout::space(), options),
            shadow: Shadow::new(layout.cells()),
            history: History::of_sections(),
            calls: Calls::default(),
            clock: Clock::default(),
            lookups: AtomicU64::new(0),
            ops: AtomicU64::new(0),
            slept_inside: Mutex::default(),
            common,
            stop: AtomicBool::new(false),
            violation: Mutex::default(),
            config,
        };
        let aside = Arc::new(Mapping::anonymous(crate::memory::PAGE)?);
        let mapped = this
            .mm()
            .map(Layout::aside(), FLAGS, 0, Backing::Ram(aside));
        mapped.map_err(io::Error::other)?;
        Ok(Arc::new(this))
    }

    pub(super) fn mm(&self) -> &AddressSpace<Backing> {
        self.space.mm()
    }

    /// Memory for the pages of `range`, which is at home.
    pub(super) fn chunk(&self, range: AddrRange) -> Result<Chunk, Ended> {
        let chunk = match &self.common {
            Some(common) => Ok(Chunk::common(common)),
            None => {
                let pages = (range.last() - range.start() + 1) / crate::memory::PAGE;
                let addr = |page: usize| range.start() + page as u64 * crate::memory::PAGE;
                let name = |page| self.layout.page_name(addr(page)).expect("at home");
                Chunk::new((0..pages as usize).map(name))
            }
        };
        chunk.map_err(|error| {
            let what = format!("the host gave no memory: {error}");
            self.violate(Oracle::Error, what, &[range])
        })
    }

    /// What a new VMA is born with: one that many share is not merged.
    pub(super) fn flags(&self) -> VmFlags {
        match self.common {
            Some(_) => FLAGS | VmFlags::NOMERGE,
            None => FLAGS,
        }
    }

    /// Notes a violation, the first one only, and ends the storm.
    pub(super) fn violate(&self, oracle: Oracle, what: String, concerned: &[AddrRange]) -> Ended {
        let mut noted = self.noted();
        if noted.is_none() {
            let thread = std::thread::current();
            *noted = Some(Violation {
                oracle,
                what,
                thread: thread.name().unwrap_or("a thread").to_owned(),
                history: self.history.of(concerned),
            });
        }
        self.stop();
        Ended
    }

    /// An operation failed that cannot.
    pub(super) fn failed(&self, what: &str, error: &WriteError, concerned: &[AddrRange]) -> Ended {
        self.violate(Oracle::Error, format!("{what}: {error}"), concerned)
    }

    fn noted(&self) -> MutexGuard<'_, Option<Violation>> {
        self.violation
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn violation(&self) -> Option<Violation> {
        self.noted().clone()
    }

    /// `time`, or longer where there are so many threads that each of them has to wait
    /// for its turn.
    pub(super) fn patience(&self, time: Duration) -> Duration {
        let threads = self.config.readers.saturating_add(self.config.writers);
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        time * (threads / (4 * cpus as u32)).max(1)
    }

    /// Asks all threads to end.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether the storm itself is to do this wrong.
    #[inline(always)]
    pub(super) fn does_wrong(&self, name: &str) -> bool {
        breaks::POSSIBLE && self.config.broken.is_some_and(|broken| broken.name == name)
    }
}
