//! A thread's handles for lookups without a thread-local.

use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;

use super::core::Core;
use super::record::Record;
use super::{
    AddrRange, AddressSpace, Lines, LookupError, LookupPath, Payload, VmaReadGuard, WaitOptions,
};

/// The calling thread's reader record of one address space, at hand. Lookups
/// through it do what those of [`AddressSpace`] do, and save finding the record: a
/// nanosecond or so. It is the same record, so that guards had either way know of
/// each other.
///
/// Stays with its thread.
pub struct Reader<'a, T: Payload> {
    core: &'a Core<T>,
    record: &'a Record,
    stays: PhantomData<*const ()>,
}

impl<T: Payload> AddressSpace<T> {
    /// The calling thread's reader record, at hand. May allocate one.
    pub fn reader(&self) -> Reader<'_, T> {
        let local = self.core.record();
        let record = local.get();
        record.claim_again();
        Reader {
            core: &self.core,
            record,
            stays: PhantomData,
        }
    }
}

/// A [`Reader`] that keeps the space, as a [`VmaPin`](super::VmaPin) does, instead of
/// borrowing it: for who looks up as long as a thread lives.
///
/// What is mapped stays, and can be looked up, when the [`AddressSpace`] itself is dropped;
/// the last that keeps it drops it, payloads included, on its own thread.
///
/// Stays with its thread.
pub struct OwnedReader<T: Payload> {
    /// The calling thread's, in the registry that `core` keeps.
    record: NonNull<Record>,
    /// The space's: whoever asks for it before a lookup need not load the space's line
    /// before the lookup's fence.
    range: AddrRange,
    core: Arc<Core<T>>,
    stays: PhantomData<*const ()>,
}

impl<T: Payload> AddressSpace<T> {
    /// The calling thread's reader record, at hand for as long as it is wanted. May
    /// allocate one.
    pub fn owned_reader(&self) -> OwnedReader<T> {
        let local = self.core.record();
        let record = local.get();
        record.claim_again();
        OwnedReader {
            record: record.into(),
            range: self.core.range,
            core: self.core.clone(),
            stays: PhantomData,
        }
    }
}

impl<T: Payload> OwnedReader<T> {
    #[inline(always)]
    fn record(&self) -> &Record {
        // SAFETY: a record of this space's registry, which `core` keeps.
        unsafe { self.record.as_ref() }
    }

    /// The addresses that may be mapped.
    #[inline(always)]
    pub fn range(&self) -> AddrRange {
        self.range
    }

    /// As [`AddressSpace::lock_vma_under_rcu_wait_with`].
    #[inline(always)]
    pub fn lock_vma_under_rcu_wait_with(
        &self,
        addr: u64,
        options: WaitOptions<'_>,
        path: &mut LookupPath,
    ) -> Result<Option<VmaReadGuard<'_, T>>, LookupError> {
        self.core
            .waiting_lookup(self.record(), addr, None, options, path)
    }

    /// What the thread's next lookup will load, if it is for what the last one was for.
    #[inline(always)]
    pub fn lines(&self) -> Lines {
        let core: *const Core<T> = &raw const *self.core;
        let record = self.record();
        Lines([core.addr(), self.record.addr().get(), record.recent.guess()])
    }
}

impl<T: Payload> Drop for OwnedReader<T> {
    fn drop(&mut self) {
        self.record().unclaim();
    }
}

impl<T: Payload> fmt::Debug for OwnedReader<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnedReader")
            .field("space", &self.core.registry.name)
            .finish_non_exhaustive()
    }
}

impl<'a, T: Payload> Reader<'a, T> {
    /// As [`AddressSpace::lock_vma_under_rcu`].
    #[inline]
    pub fn lock_vma_under_rcu(&self, addr: u64) -> Option<VmaReadGuard<'a, T>> {
        self.core.try_lookup(self.record, addr)
    }

    /// As [`AddressSpace::lock_vma_under_rcu_wait`].
    #[inline]
    pub fn lock_vma_under_rcu_wait(
        &self,
        addr: u64,
    ) -> Result<Option<VmaReadGuard<'a, T>>, LookupError> {
        self.core.plain_lookup(self.record, addr)
    }

    /// As [`AddressSpace::lock_vma_under_rcu_wait_with`].
    #[inline]
    pub fn lock_vma_under_rcu_wait_with(
        &self,
        addr: u64,
        options: WaitOptions<'_>,
        path: &mut LookupPath,
    ) -> Result<Option<VmaReadGuard<'a, T>>, LookupError> {
        self.core
            .waiting_lookup(self.record, addr, None, options, path)
    }
}

impl<T: Payload> Drop for Reader<'_, T> {
    fn drop(&mut self) {
        self.record.unclaim();
    }
}

impl<T: Payload> fmt::Debug for Reader<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("space", &self.core.registry.name)
            .finish_non_exhaustive()
    }
}
