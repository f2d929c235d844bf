//! A thread's own way to what a guest's addresses stand for.

use std::sync::Arc;

use super::access::Data;
use super::by::By;
use super::{Access, AccessError, Backing, GuestSpace};
use crate::clock::Clock;
use crate::mm::{KillFlag, Lines, OwnedReader};

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
    /// frame. It says when each lookup was [over](Access::looked_up), by `stamp` if that
    /// is given: a time stamp more for each.
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::super::{Device, DeviceError, PAGE};
    use super::*;
    use crate::clock;
    use crate::mm::AddrRange;

    /// Notes when it is called.
    struct Clocked(AtomicU64);

    impl Device for Clocked {
        fn name(&self) -> &str {
            "clocked"
        }

        fn read(&self, _: u64, _: &mut [u8]) -> Result<(), DeviceError> {
            self.0.store(clock::ticks(), Ordering::Relaxed);
            Ok(())
        }

        fn write(&self, _: u64, _: &[u8]) -> Result<(), DeviceError> {
            Ok(())
        }
    }

    #[test]
    fn the_last_part_says_when_it_was_looked_up() {
        let range = AddrRange::new(0, 2 * PAGE).unwrap();
        let space = Arc::new(GuestSpace::physical(range));
        let clocked = || Arc::new(Clocked(AtomicU64::new(0)));
        let (first, last) = (clocked(), clocked());
        for (page, device) in [(0, &first), (PAGE, &last)] {
            let range = AddrRange::new(page, PAGE).unwrap();
            space.map_device(range, device.clone()).unwrap();
        }
        let (reader, kill) = (SpaceReader::new(space), KillFlag::default());
        let across = |stamp| {
            let (mut data, mut access) = ([0; 8], Access::default());
            let by = (stamp, &kill);
            reader.read(PAGE - 4, &mut data, by, &mut access).unwrap();
            access
        };
        assert_eq!(across(None).looked_up, 0);
        let access = across(Some(Clock::of_this_machine()));
        let called = [&first, &last].map(|device| device.0.load(Ordering::Relaxed));
        assert!(
            (called[0]..=called[1]).contains(&access.looked_up),
            "{called:?}, {access:?}"
        );
        assert_eq!(access.vma, Some(PAGE));
    }
}
