//! The map itself: looking up, and opening it for reading and for writing.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use super::core::{Core, Pace};
use super::entry::State;
use super::registry::Registry;
use super::sync;
use super::sync::atomic::Ordering;
use super::{
    AddrRange, Holder, LookupError, LookupPath, MmStats, MmapReadGuard, Observer, Payload,
    Published, SpaceOptions, Strategy, VmFlags, VmaInfo, VmaReadGuard, WaitOptions, Waiter,
    WriteError, WriteSection,
};

/// A map of disjoint VMAs over a range of addresses (Linux: `mm_struct`).
pub struct AddressSpace<T: Payload> {
    pub(super) core: Arc<Core<T>>,
}

impl<T: Payload> AddressSpace<T> {
    /// An empty map over `range`. The name is for messages.
    pub fn new(name: impl Into<String>, range: AddrRange) -> Self {
        Self::with_options(name, range, SpaceOptions::default())
    }

    /// An empty map whose holds are kept, and whose lookups wait, by `strategy`. All
    /// but the native one are there to be compared with; see what each
    /// [can](Strategy::capabilities).
    pub fn with_strategy(name: impl Into<String>, range: AddrRange, strategy: Strategy) -> Self {
        Self::with_options(name, range, strategy.into())
    }

    /// How it keeps its holds and how its lookups wait.
    pub fn strategy(&self) -> Strategy {
        self.core.strategy
    }

    /// An empty map with a strategy, a rank, or both.
    pub fn with_options(name: impl Into<String>, range: AddrRange, options: SpaceOptions) -> Self {
        Self::build(name.into(), range, options, 0, Pace::default())
    }

    /// One whose sections are numbered from `seq + 1` on.
    #[cfg(test)]
    pub(super) fn starting_at(
        name: impl Into<String>,
        range: AddrRange,
        strategy: Strategy,
        seq: u64,
        pace: Pace,
    ) -> Self {
        Self::build(name.into(), range, strategy.into(), seq, pace)
    }

    fn build(name: String, range: AddrRange, options: SpaceOptions, seq: u64, pace: Pace) -> Self {
        let SpaceOptions {
            strategy,
            rank,
            at_window,
        } = options;
        let aside = strategy.is_aside() || at_window.is_some();
        let registry = Registry::new(name, rank, aside);
        Self {
            core: Core::new(registry, range, (strategy, at_window), seq, pace),
        }
    }

    /// Has `observer` told of every section from now on, for as long as the space is
    /// there. A space has one observer: another is handed back.
    ///
    /// # Errors
    /// `observer`, if there is one already.
    pub fn observe(&self, observer: Arc<dyn Observer>) -> Result<(), Arc<dyn Observer>> {
        self.core.writer.observer.set(observer)
    }

    /// The name it was given.
    pub fn name(&self) -> &str {
        &self.core.registry.name
    }

    /// The addresses that may be mapped.
    pub fn range(&self) -> AddrRange {
        self.core.range
    }

    /// What happened so far. Adds up the counters of all reader records.
    pub fn stats(&self) -> MmStats {
        self.core.stats()
    }

    /// Read-locks the VMA that covers `addr`, if there is one and no writer is at
    /// work on it (Linux: `lock_vma_under_rcu`). `None` means either. Never
    /// blocks.
    #[inline]
    pub fn lock_vma_under_rcu(&self, addr: u64) -> Option<VmaReadGuard<'_, T>> {
        let record = self.core.record();
        self.core.try_lookup(record.get(), addr)
    }

    /// Read-locks the VMA that covers `addr`, waiting for the writer that is at
    /// work on it, if one is (Linux: `lock_vma_under_rcu_wait`, as posted in April
    /// 2026; renamed `vma_start_read_unlocked` in its second version).
    ///
    /// `Ok(None)` only if at some moment during the call no VMA covered `addr`. It
    /// never waits for a writer elsewhere, sleeps for the end of one section at
    /// most, and holds nothing but the VMA when it returns. Fails only with
    /// [`LookupError::OwnWriteSection`].
    #[inline]
    pub fn lock_vma_under_rcu_wait(
        &self,
        addr: u64,
    ) -> Result<Option<VmaReadGuard<'_, T>>, LookupError> {
        let record = self.core.record();
        self.core.plain_lookup(record.get(), addr)
    }

    /// As [`lock_vma_under_rcu_wait`](Self::lock_vma_under_rcu_wait), but the wait
    /// ends with an error at the deadline, or when the flag is raised; then no
    /// trace of it is left for a writer to wait for. A VMA that can be had without
    /// waiting is had in any case. What happened is written to `path`.
    #[inline(always)]
    pub fn lock_vma_under_rcu_wait_with(
        &self,
        addr: u64,
        options: WaitOptions<'_>,
        path: &mut LookupPath,
    ) -> Result<Option<VmaReadGuard<'_, T>>, LookupError> {
        let record = self.core.record();
        self.core
            .waiting_lookup(record.get(), addr, None, options, path)
    }

    /// Read-locks the VMA that covers `addr`, or else the first one after it, and
    /// waits for a writer that is at work on that one. For walking over a range
    /// with locks: ask again with the address after the guard's last. `Ok(None)` if
    /// nothing is mapped from `addr` on. Looks again each time that a section has
    /// meanwhile changed which VMA that is.
    pub fn lock_next_vma(&self, addr: u64) -> Result<Option<VmaReadGuard<'_, T>>, LookupError> {
        let record = self.core.record();
        self.core.next_lookup(record.get(), addr)
    }

    /// What is mapped in `range`, in order, all of it at one moment during the
    /// call: a bare walk, which locks nothing, waits for nobody and delays no
    /// drain.
    pub fn vmas(&self, range: AddrRange) -> Vec<VmaInfo> {
        let record = self.core.record();
        self.core.bare_walk(record.get(), range)
    }

    /// Which readers there are in `range` now: on their way to a VMA, holding one, or
    /// waiting for a writer. (Not those who hold by other means than an entry; see
    /// [`Capabilities::names_holders`](super::Capabilities::names_holders).) They come
    /// and go meanwhile; but who cannot come again, since nothing is mapped there, and
    /// is not in it, is gone.
    pub fn holders(&self, range: AddrRange) -> Vec<Holder> {
        sync::full_fence();
        let mut found = Vec::new();
        for record in self.core.registry.records() {
            record.each_entry(|entry| {
                let (state, addr) = entry.load_whole();
                if state.delays(0) && range.contains(addr) {
                    let (thread, kind) = (record.thread_name(), state.kind());
                    found.push(Holder { thread, addr, kind });
                }
            });
        }
        found
    }

    /// Which lookups wait for the section that is open now. (Not those that wait by
    /// other means than an entry, as with [`holders`](Self::holders).) They come and go
    /// meanwhile.
    pub fn waiters(&self) -> Vec<Waiter> {
        let open = self.core.seq.load(Ordering::Acquire);
        let mut found = Vec::new();
        for record in self.core.registry.records() {
            record.each_entry(|entry| {
                let (state, addr) = entry.load_whole();
                if state == State::Wait(open) {
                    let (thread, section) = (record.thread_name(), open);
                    found.push(Waiter {
                        thread,
                        addr,
                        section,
                    });
                }
            });
        }
        found
    }

    /// Takes the map lock for reading. Blocks while a write section is open or
    /// waited for: do not call it with a guard held that such a section may be
    /// draining. A thread that has it so may take it again.
    ///
    /// Fails with [`LookupError::OwnWriteSection`], instead of hanging, if this
    /// thread has a section of this space open.
    pub fn mmap_read_lock(&self) -> Result<MmapReadGuard<'_, T>, LookupError> {
        MmapReadGuard::new(&self.core)
    }

    /// Takes the map lock for writing and opens a write section. Blocks while
    /// another section, or a reader of the map lock, is there. Readers of VMAs do
    /// not matter until [`WriteSection::lock`].
    ///
    /// Fails at once, instead of hanging, if this thread holds a guard of this
    /// space, has its map lock for reading, or has a section of it open.
    pub fn mmap_write_lock(&self) -> Result<WriteSection<'_, T>, WriteError> {
        WriteSection::open(&self.core, None)
    }

    /// As [`mmap_write_lock`](Self::mmap_write_lock), but fails with
    /// [`WriteError::LockTimedOut`] if the map lock is not free by `deadline`.
    pub fn mmap_write_lock_until(
        &self,
        deadline: Instant,
    ) -> Result<WriteSection<'_, T>, WriteError> {
        WriteSection::open(&self.core, Some(deadline))
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
    /// passes first. VMAs that stick out of the range are split.
    pub fn unmap(
        &self,
        range: AddrRange,
        deadline: Option<Instant>,
    ) -> Result<Published<T>, WriteError> {
        let mut section = WriteSection::open(&self.core, deadline)?;
        section.unmap(range)?;
        let drained = match deadline {
            Some(deadline) => section.lock_until(deadline)?,
            None => section.lock()?,
        };
        Ok(drained.publish())
    }
}

impl<T: Payload> Drop for AddressSpace<T> {
    fn drop(&mut self) {
        self.core.clone().give_up();
    }
}

impl<T: Payload> fmt::Debug for AddressSpace<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddressSpace")
            .field("name", &self.core.registry.name)
            .field("range", &self.core.range)
            .finish_non_exhaustive()
    }
}
