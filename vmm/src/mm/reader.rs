//! A thread's handle for lookups without a thread-local.

use std::fmt;
use std::marker::PhantomData;

use super::core::Core;
use super::record::Record;
use super::{AddressSpace, LookupError, LookupPath, Payload, VmaReadGuard, WaitOptions};

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
