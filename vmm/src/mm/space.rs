//! The map itself: opening it for reading and for writing.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use super::state::{Core, State};
use super::sync::{Condvar, Mutex, lock, thread, wait_ignoring_poison};
use super::{
    AddrRange, MmStats, MmapReadGuard, Payload, Published, VmFlags, WriteError, WriteSection,
};

/// A map of disjoint VMAs over a range of addresses (Linux: `mm_struct`).
pub struct AddressSpace<T: Payload> {
    pub(super) core: Arc<Core<T>>,
}

impl<T: Payload> AddressSpace<T> {
    /// An empty map over `range`. The name is for messages.
    pub fn new(name: impl Into<String>, range: AddrRange) -> Self {
        let state = State {
            map: Arc::default(),
            seq: 0,
            locked: Vec::new(),
            owner: None,
            read_locks: 0,
            readers: Default::default(),
            next_reader: 0,
            stats: MmStats::default(),
        };
        Self {
            core: Arc::new(Core {
                name: name.into(),
                range,
                state: Mutex::new(state),
                changed: Condvar::new(),
            }),
        }
    }

    /// The name it was given.
    pub fn name(&self) -> &str {
        &self.core.name
    }

    /// The addresses that may be mapped.
    pub fn range(&self) -> AddrRange {
        self.core.range
    }

    /// What happened so far.
    pub fn stats(&self) -> MmStats {
        lock(&self.core.state).stats
    }

    /// Takes the map lock for reading. Blocks while a write section is open: do
    /// not call it with a guard held that such a section may be draining.
    pub fn mmap_read_lock(&self) -> MmapReadGuard<'_, T> {
        let mut state = lock(&self.core.state);
        while state.owner.is_some() {
            state = wait_ignoring_poison(&self.core.changed, state);
        }
        state.read_locks += 1;
        MmapReadGuard {
            core: &self.core,
            map: state.map.clone(),
        }
    }

    /// Takes the map lock for writing and opens a write section. Blocks while
    /// another section, or a reader of the map lock, is there. Readers of VMAs do
    /// not matter until [`WriteSection::lock`].
    ///
    /// Fails at once, instead of hanging, if this thread holds a guard of this
    /// space or has a section of it open.
    pub fn mmap_write_lock(&self) -> Result<WriteSection<'_, T>, WriteError> {
        let me = thread::current().id();
        let mut state = lock(&self.core.state);
        if state.holds(me).next().is_some() {
            return Err(WriteError::HoldsGuard);
        }
        if state.owner == Some(me) {
            return Err(WriteError::Nested);
        }
        while state.owner.is_some() || state.read_locks > 0 {
            state = wait_ignoring_poison(&self.core.changed, state);
        }
        state.owner = Some(me);
        Ok(WriteSection::new(
            &self.core,
            state.map.clone(),
            state.seq + 1,
        ))
    }

    /// Maps one VMA, in a section of its own. Waits for no reader.
    pub fn map(
        &self,
        range: AddrRange,
        flags: VmFlags,
        offset: u64,
        payload: T,
    ) -> Result<(), WriteError> {
        let mut section = self.mmap_write_lock()?;
        section.map(range, flags, offset, payload)?;
        section.lock()?.publish();
        Ok(())
    }

    /// Unmaps `range`, in a section of its own, and returns when no reader can
    /// touch what it removed; with a deadline it fails cleanly instead when that
    /// passes first.
    pub fn unmap(
        &self,
        range: AddrRange,
        deadline: Option<Instant>,
    ) -> Result<Published<T>, WriteError> {
        let mut section = self.mmap_write_lock()?;
        section.unmap(range)?;
        let drained = match deadline {
            Some(deadline) => section.lock_until(deadline)?,
            None => section.lock()?,
        };
        Ok(drained.publish())
    }
}

impl<T: Payload> fmt::Debug for AddressSpace<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddressSpace")
            .field("name", &self.core.name)
            .field("range", &self.core.range)
            .finish_non_exhaustive()
    }
}
