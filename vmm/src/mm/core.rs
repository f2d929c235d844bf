//! What the handles of one address space share.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use super::bell::Bell;
use super::edit;
use super::gate::Gate;
use super::grace::Grace;
use super::local::{self, Local};
use super::maplock::MapLock;
use super::node::Child;
use super::registry::Registry;
use super::slot::Slot;
use super::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use super::sync::{Mutex, unless};
use super::{AddrRange, AtWindow, MmStats, Observer, Payload, Strategy};

/// An address space. The words that every lookup loads come first; only a writer
/// stores to them.
#[repr(C, align(128))]
pub(super) struct Core<T: Payload> {
    /// The tree in force: a [`Child`].
    root: AtomicPtr<()>,
    /// `mm_lock_seq`: odd from the locking of a write set to the end of its
    /// section.
    pub(super) seq: AtomicU64,
    /// The registry's number: a lookup that knows its record does not go there.
    id: u64,
    pub(super) range: AddrRange,
    pub(super) registry: Arc<Registry>,
    pub(super) bell: Bell,
    pub(super) writer: Writer,
    pub(super) gate: Arc<Gate>,
    pub(super) grace: Mutex<Grace<T>>,
    pub(super) strategy: Strategy,
    /// See [`window`](super::window).
    pub(super) at_window: Option<AtWindow>,
    /// What a pin, which may outlive the handles, keeps it by.
    this: Weak<Self>,
}

/// What writers write, on lines that no lookup loads.
#[repr(align(128))]
pub(super) struct Writer {
    pub(super) map_lock: MapLock,
    /// Bumped when a hold came to be by another one of the same write set; see
    /// [`drain`](super::drain).
    pub(super) moves: AtomicU64,
    pub(super) sections: AtomicU64,
    pub(super) drains: AtomicU64,
    pub(super) drained_readers: AtomicU64,
    pub(super) rounds: AtomicU64,
    pub(super) pace: Pace,
    /// Who is told of the sections. Looked at by writers, and by who waits for one.
    pub(super) observer: OnceLock<Arc<dyn Observer>>,
}

/// How a drain sleeps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// How long the first round of a drain lasts. Each is twice as long as the one
    /// before, without a bound: however long readers hold, some round outlasts it.
    /// With a longest round, two readers whose holds are longer would let each
    /// other in by turns for ever.
    pub(super) round: Duration,
    /// How long the first slice of sleep is, and the longest.
    pub(super) slice: (Duration, Duration),
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            round: Duration::from_millis(10),
            slice: (Duration::from_micros(100), Duration::from_millis(5)),
        }
    }
}

impl<T: Payload> Core<T> {
    /// An empty space. `seq` is where the sections' numbers start: an even number.
    pub(super) fn new(
        registry: Registry,
        range: AddrRange,
        (strategy, at_window): (Strategy, Option<AtWindow>),
        seq: u64,
        pace: Pace,
    ) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            root: AtomicPtr::new(Child::<T>::null().into_raw()),
            seq: AtomicU64::new(seq),
            id: registry.id,
            range,
            bell: Bell::new(registry.aside),
            registry: Arc::new(registry),
            writer: Writer {
                map_lock: MapLock::new(),
                moves: AtomicU64::new(0),
                sections: AtomicU64::new(0),
                drains: AtomicU64::new(0),
                drained_readers: AtomicU64::new(0),
                rounds: AtomicU64::new(0),
                pace,
                observer: OnceLock::new(),
            },
            gate: Arc::new(Gate::new()),
            grace: Mutex::new(Grace::new()),
            strategy,
            at_window,
            this: this.clone(),
        })
    }

    /// Another handle of the space, for one who borrows it.
    pub(super) fn shared(&self) -> Arc<Self> {
        self.this.upgrade().expect("borrowed, so not being dropped")
    }

    /// The calling thread's record; claims one on the first call.
    #[inline(always)]
    pub(super) fn record(&self) -> Local<'_> {
        local::record_in(self.id, &self.registry)
    }

    /// The tree in force.
    #[inline]
    pub(super) fn root(&self) -> Child<T> {
        Child::from_raw(self.root.load(unless("root-acquire", Ordering::Acquire)))
    }

    /// Who is told of the sections.
    pub(super) fn observer(&self) -> Option<&dyn Observer> {
        self.writer.observer.get().map(|observer| &**observer)
    }

    /// Now, on the observer's clock; 0 if there is none.
    pub(super) fn stamp(&self) -> u64 {
        self.observer().map_or(0, Observer::now)
    }

    /// Puts a version in force.
    pub(super) fn set_root(&self, root: Child<T>) {
        self.root.store(root.into_raw(), Ordering::Release);
    }

    pub(super) fn stats(&self) -> MmStats {
        let writer = &self.writer;
        let mut sum = MmStats {
            sections: writer.sections.load(Ordering::Relaxed),
            drains: writer.drains.load(Ordering::Relaxed),
            drained_readers: writer.drained_readers.load(Ordering::Relaxed),
            drain_rounds: writer.rounds.load(Ordering::Relaxed),
            ..MmStats::default()
        };
        self.registry.count_into(&mut sum);
        sum
    }
}

// SAFETY: the tree behind `root` is nodes, which never change, and slots, which
// are Send and Sync for such a `T`; everything else says so itself.
unsafe impl<T: Payload> Sync for Core<T> {}
// SAFETY: as above.
unsafe impl<T: Payload> Send for Core<T> {}

impl<T: Payload> Drop for Core<T> {
    fn drop(&mut self) {
        self.registry.close();
        let mut each = |slot: *const Slot<T>| {
            // SAFETY: made from a box, and in the tree once. Guards borrow
            // who has the space, pins and owned readers keep it: nobody has the VMA.
            unsafe {
                let slot = Box::from_raw(slot.cast_mut());
                drop(slot.take());
            }
        };
        // SAFETY: nobody else has the space.
        unsafe { edit::dismantle(self.root(), &mut each) };
    }
}
