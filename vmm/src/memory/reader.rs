//! A thread's own way to what a guest's addresses stand for.

use std::sync::Arc;

use super::access::{By, Data, LookUp};
use super::{Access, AccessError, Backing, GuestSpace};
use crate::clock::Clock;
use crate::mm::{
    AddrRange, KillFlag, Lines, LookupError, LookupPath, OwnedReader, VmaReadGuard, WaitOptions,
};

/// A space with the calling thread's reader record of it at hand: for who answers exits.
/// What an access takes that way touches fewer pages, and after the guest has run it takes
/// as long as it touches pages.
///
/// Its accesses are generic or inline, so that they are there once more in the crate that
/// runs the vCPU: where one crate calls another it looks up where that is, on a page that
/// is cold by then.
///
/// Stays with its thread.
#[derive(Debug)]
pub(crate) struct SpaceReader {
    reader: OwnedReader<Backing>,
    space: Arc<GuestSpace>,
}

impl SpaceReader {
    /// The calling thread's.
    pub(crate) fn new(space: Arc<GuestSpace>) -> Self {
        Self {
            reader: space.mm.owned_reader(),
            space,
        }
    }

    /// As [`GuestSpace::read`], but what became of it goes to `access`, which is to be a
    /// new one, also as far as it came where it fails: nothing is handed from frame to
    /// frame. And by `stamp` it is known whether accesses [are
    /// stamped](GuestSpace::stamp_accesses), so that the space is not looked at.
    #[inline]
    pub(crate) fn read(
        &self,
        addr: u64,
        data: &mut [u8],
        (stamp, kill): (Option<Clock>, &KillFlag),
        access: &mut Access,
    ) -> Result<(), AccessError> {
        let by = By::guest(&self.reader, stamp, kill);
        self.space.carry_out(addr, Data::Read(data), by, access)
    }

    /// As [`GuestSpace::write`]; otherwise as [`read`](Self::read).
    #[inline]
    pub(crate) fn write(
        &self,
        addr: u64,
        data: &[u8],
        (stamp, kill): (Option<Clock>, &KillFlag),
        access: &mut Access,
    ) -> Result<(), AccessError> {
        let by = By::guest(&self.reader, stamp, kill);
        self.space.carry_out(addr, Data::Write(data), by, access)
    }

    /// What the next access will load, if it is like the last one.
    #[inline(always)]
    pub(crate) fn lines(&self) -> Lines {
        self.reader.lines()
    }
}

impl LookUp for OwnedReader<Backing> {
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
