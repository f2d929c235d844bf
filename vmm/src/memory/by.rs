//! By whom an access looks up, and what it may reach.

use super::Backing;
use crate::clock::Clock;
#[cfg(feature = "kvm")]
use crate::mm::OwnedReader;
use crate::mm::{
    AddrRange, AddressSpace, KillFlag, LookupError, LookupPath, VmaReadGuard, WaitOptions,
};

/// What an access may reach.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    All,
    Memory,
}

/// How an access looks up, what it may reach, and what ends its waits.
pub(super) struct By<'a, L> {
    pub(super) lookups: &'a L,
    /// What says when a lookup was over, if that is wanted.
    pub(super) stamp: Option<Clock>,
    pub(super) reach: Reach,
    pub(super) kill: Option<&'a KillFlag>,
}

impl<'a, L> By<'a, L> {
    /// Of a guest, which may reach anything.
    #[cfg(feature = "kvm")]
    #[inline(always)]
    pub(super) fn guest(lookups: &'a L, stamp: Option<Clock>, kill: &'a KillFlag) -> Self {
        Self {
            stamp,
            ..Self::unstamped(lookups, Reach::All, Some(kill))
        }
    }

    /// Of anybody who does not ask when.
    #[inline(always)]
    pub(super) fn unstamped(lookups: &'a L, reach: Reach, kill: Option<&'a KillFlag>) -> Self {
        Self {
            lookups,
            stamp: None,
            reach,
            kill,
        }
    }
}

impl<L> Clone for By<'_, L> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<L> Copy for By<'_, L> {}

/// Who looks up for an access: the space, or a thread's reader of it.
pub(super) trait LookUp {
    /// [`AddressSpace::range`].
    fn range(&self) -> AddrRange;

    /// [`AddressSpace::lock_vma_under_rcu_wait_with`].
    fn look_up(
        &self,
        addr: u64,
        options: WaitOptions<'_>,
        path: &mut LookupPath,
    ) -> Result<Option<VmaReadGuard<'_, Backing>>, LookupError>;
}

macro_rules! looks_up {
    ($who:ty) => {
        impl LookUp for $who {
            #[inline(always)]
            fn range(&self) -> AddrRange {
                self.range()
            }

            #[inline(always)]
            fn look_up(
                &self,
                addr: u64,
                options: WaitOptions<'_>,
                path: &mut LookupPath,
            ) -> Result<Option<VmaReadGuard<'_, Backing>>, LookupError> {
                self.lock_vma_under_rcu_wait_with(addr, options, path)
            }
        }
    };
}

looks_up!(AddressSpace<Backing>);
#[cfg(feature = "kvm")]
looks_up!(OwnedReader<Backing>);
