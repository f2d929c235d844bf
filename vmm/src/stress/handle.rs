//! A storm, seen from other threads while it lasts.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Preset;
use super::world::World;
use crate::machine::{MachineHandle, Monitor};
use crate::memory::Backing;
use crate::mm::AddressSpace;

/// What can be seen of a storm that begins.
#[derive(Debug)]
pub enum Watched {
    /// With KVM: the machine, and how to ask how many operations the writers have done.
    Machine(MachineHandle, Arc<std::sync::atomic::AtomicU64>),
    /// Without: the map.
    Map(StormHandle),
}

/// A storm without KVM. It keeps the map until it is dropped.
#[derive(Clone, Debug)]
pub struct StormHandle {
    world: Arc<World>,
    monitor: Arc<Monitor>,
    start: Instant,
}

impl StormHandle {
    pub(super) fn new(world: Arc<World>) -> Self {
        let monitor = Arc::new(Monitor::default());
        // A space that was just made has no other observer.
        let _ = world.mm().observe(monitor.clone());
        Self {
            world,
            monitor,
            start: Instant::now(),
        }
    }

    /// What it was derived from.
    pub fn preset(&self) -> Preset {
        self.world.config.preset
    }

    /// The map under storm.
    pub fn map(&self) -> &AddressSpace<Backing> {
        self.world.mm()
    }

    /// Its write sections.
    pub fn sections(&self) -> &Monitor {
        &self.monitor
    }

    /// Lookups and operations so far.
    pub fn progress(&self) -> (u64, u64) {
        let read = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
        (read(&self.world.lookups), read(&self.world.ops))
    }

    /// Whether its threads have been told to end.
    pub fn is_over(&self) -> bool {
        self.world.is_over()
    }

    /// Since it began.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}
