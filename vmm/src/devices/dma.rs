//! The DMA device: copies between guest buffers, on the thread that asks for it.
//!
//! Its handler runs under the read lock of the device's own VMA and looks up each
//! region it copies from or to. It may do so while a writer waits to remove the
//! device, one of those regions, or both at once: whoever holds a member of a write
//! set is let in to the others while the writer drains. It holds no lock of its
//! own, and nothing of a buffer but for the one piece it reads or writes. Where it
//! sleeps until a writer is done with a buffer, the machine's kill flag calls it back:
//! a machine that is stopped waits for no writer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use gracefault_guest::abi::dma as regs;
use serde::Serialize;

use crate::memory::{
    Access, AccessError, AccessSizes, Device, DeviceError, GuestSpace, LogLimit, OtherSizes, PAGE,
    Served,
};
use crate::mm::{KillFlag, LookupError};

/// The DMA device, see [`abi::dma`](gracefault_guest::abi::dma).
#[derive(Debug)]
pub struct DmaDevice {
    /// The space that it is mapped in, and copies in.
    space: Weak<GuestSpace>,
    /// Ends its waits for writers.
    kill: Arc<KillFlag>,
    counts: Counts,
    complaints: LogLimit,
}

#[derive(Debug, Default)]
struct Counts {
    copies: AtomicU64,
    incomplete: AtomicU64,
    nested: AtomicU64,
    waited: AtomicU64,
}

/// What a [`DmaDevice`] has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DmaCounts {
    /// Copies that went from memory to memory throughout.
    pub complete: u64,
    /// Copies of which some was not there.
    pub incomplete: u64,
    /// Lookups that were let in to a region beside the writer that removes it and
    /// the device together.
    pub nested: u64,
    /// Lookups that slept for a writer.
    pub waited: u64,
}

impl DmaDevice {
    /// One that copies in `space`, which it does not keep: the space keeps it. Once
    /// `kill` is raised a copy that would wait for a writer fails instead, half done and
    /// with no status; so raise it only where the guest is not to go on.
    pub fn new(space: Weak<GuestSpace>, kill: Arc<KillFlag>) -> Self {
        Self {
            space,
            kill,
            counts: Counts::default(),
            complaints: LogLimit::new(Duration::from_secs(1)),
        }
    }

    /// Bytes of address space it wants.
    pub const LEN: u64 = PAGE;

    /// What it has done so far.
    pub fn counts(&self) -> DmaCounts {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        // In this order, since they are counted in the other: with relaxed loads a copy
        // may still be seen late, and is not counted as complete then.
        let incomplete = load(&self.counts.incomplete);
        let all = load(&self.counts.copies);
        DmaCounts {
            complete: all.saturating_sub(incomplete),
            incomplete,
            nested: load(&self.counts.nested),
            waited: load(&self.counts.waited),
        }
    }

    /// Carries out the copy that the descriptor at `addr` asks for.
    fn start(&self, addr: u64) -> Result<(), DeviceError> {
        // Gone only with the map that this handler is called from.
        let space = self.space.upgrade().ok_or(DeviceError::NoRegister)?;
        let mut words = [[0; 8]; 3];
        let kill = Some(&*self.kill);
        let read = space.read_memory(addr, words.as_flattened_mut(), kill);
        self.note(read, true)?;
        let [source, target, length] = words.map(u64::from_le_bytes);
        if length > regs::MAX_LENGTH {
            return Err(DeviceError::BadValue);
        }
        let complete = self.copy(&space, source, target, length)?;
        let counts = &self.counts;
        // In this order, so that nobody reads more incomplete ones than copies.
        counts.copies.fetch_add(1, Ordering::Relaxed);
        let status = match complete {
            true => regs::COMPLETE,
            false => {
                counts.incomplete.fetch_add(1, Ordering::Relaxed);
                regs::INCOMPLETE
            }
        };
        let at = addr.wrapping_add(regs::STATUS);
        let told = space.write_memory(at, &status.to_le_bytes(), kill);
        self.note(told, false).map(drop)
    }

    /// Whether all of it was there.
    fn copy(
        &self,
        space: &GuestSpace,
        source: u64,
        target: u64,
        length: u64,
    ) -> Result<bool, DeviceError> {
        let kill = Some(&*self.kill);
        let mut piece = [0; PAGE as usize];
        let (mut done, mut complete) = (0, true);
        while done < length {
            let piece = &mut piece[..(length - done).min(PAGE) as usize];
            let (from, to) = (source.wrapping_add(done), target.wrapping_add(done));
            complete &= self.note(space.read_memory(from, piece, kill), false)?;
            complete &= self.note(space.write_memory(to, piece, kill), false)?;
            done += piece.len() as u64;
        }
        Ok(complete)
    }

    /// Counts how an access went; whether memory served all of it, which it has to
    /// if `must`.
    fn note(&self, access: Result<Access, AccessError>, must: bool) -> Result<bool, DeviceError> {
        let access = access.map_err(|error| {
            if let AccessError::Lookup {
                error: LookupError::Killed,
                ..
            } = error
            {
                return DeviceError::CalledBack;
            }
            // At a rate that the guest cannot raise.
            if log::log_enabled!(log::Level::Info)
                && let Some(more) = self.complaints.pass()
            {
                log::info!("dma: {error} ({more} such messages held back)");
            }
            DeviceError::BadValue
        })?;
        let counts = [
            (&self.counts.nested, access.path.nested),
            (&self.counts.waited, access.path.waited.is_some()),
        ];
        for (count, happened) in counts {
            if happened {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
        match access.served == Served::Memory {
            false if must => Err(DeviceError::BadValue),
            all => Ok(all),
        }
    }
}

impl Device for DmaDevice {
    fn name(&self) -> &str {
        "dma"
    }

    fn sizes(&self) -> AccessSizes {
        AccessSizes::only(&[8], OtherSizes::AllOnes)
    }

    fn read(&self, _offset: u64, _data: &mut [u8]) -> Result<(), DeviceError> {
        Err(DeviceError::Direction)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        if offset != regs::START {
            return Err(DeviceError::NoRegister);
        }
        let addr = data.try_into().map_err(|_| DeviceError::BadValue)?;
        self.start(u64::from_le_bytes(addr))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Mapping;
    use crate::mm::AddrRange;

    const DEVICE: u64 = 0x10_0000;
    const DESCRIPTOR: u64 = 0xe00;

    /// Six pages of RAM in three regions, a hole after them, the device.
    fn space() -> (Arc<GuestSpace>, Arc<DmaDevice>) {
        let space = Arc::new(GuestSpace::physical(AddrRange::new(0, 1 << 30).unwrap()));
        for start in [0, 2 * PAGE, 4 * PAGE] {
            let ram = Arc::new(Mapping::anonymous(2 * PAGE).unwrap());
            let range = AddrRange::new(start, 2 * PAGE).unwrap();
            space.map_ram(range, ram).unwrap();
        }
        let dma = Arc::new(DmaDevice::new(Arc::downgrade(&space), Arc::default()));
        let range = AddrRange::new(DEVICE, DmaDevice::LEN).unwrap();
        space.map_device(range, dma.clone()).unwrap();
        (space, dma)
    }

    /// Asks for a copy; the device's answer and the status.
    fn ask(space: &GuestSpace, source: u64, target: u64, length: u64) -> (Served, u64) {
        let words = [source, target, length, 0];
        for (word, at) in words.into_iter().zip((DESCRIPTOR..).step_by(8)) {
            space.write(at, &word.to_le_bytes(), None).unwrap();
        }
        let start = DESCRIPTOR.to_le_bytes();
        let served = space.write(DEVICE, &start, None).unwrap().served;
        let mut status = [0; 8];
        let at = DESCRIPTOR + regs::STATUS;
        space.read(at, &mut status, None).unwrap();
        (served, u64::from_le_bytes(status))
    }

    #[test]
    fn copies_across_regions() {
        let (space, dma) = space();
        let data: Vec<u8> = (0..5000).map(|i| i as u8).collect();
        let (from, to) = (0x1000, 0x3123);
        space.write(from, &data, None).unwrap();
        assert_eq!(
            ask(&space, from, to, 5000),
            (Served::Device, regs::COMPLETE)
        );
        let mut found = vec![0; 5000];
        space.read(to, &mut found, None).unwrap();
        assert_eq!(found, data);
        assert_eq!(ask(&space, 0, 0, 0).1, regs::COMPLETE);
        let counts = dma.counts();
        assert_eq!((counts.complete, counts.incomplete), (2, 0));
    }

    #[test]
    fn what_is_not_there_is_said() {
        let (space, dma) = space();
        let end = 6 * PAGE;
        assert_eq!(ask(&space, end - 8, 0x100, 16).1, regs::INCOMPLETE);
        let mut found = [0; 16];
        space.read(0x100, &mut found, None).unwrap();
        assert_eq!(found[8..], [0xff; 8]);
        assert_eq!(ask(&space, 0, end - 8, 16).1, regs::INCOMPLETE);
        assert_eq!(dma.counts().incomplete, 2);
    }

    /// A guest that has the device write to itself, and on and on, would use up the
    /// thread's stack.
    #[test]
    fn it_reaches_no_device_not_even_itself() {
        let (space, _) = space();
        space.write(0, &DESCRIPTOR.to_le_bytes(), None).unwrap();
        assert_eq!(ask(&space, 0, DEVICE, 8).1, regs::INCOMPLETE);
        assert_eq!(ask(&space, DEVICE, 0x100, 8).1, regs::INCOMPLETE);
    }

    #[test]
    fn what_it_cannot_do_is_refused_and_leaves_no_status() {
        let (space, _) = space();
        let refused = (Served::DeviceFailed, 0);
        assert_eq!(ask(&space, 0, 8, regs::MAX_LENGTH + 1), refused);
        assert_eq!(ask(&space, u64::MAX - 7, 8, 16), refused);
        let bad = [0xdead_0000, u64::MAX - 3];
        for descriptor in bad {
            let access = space.write(DEVICE, &descriptor.to_le_bytes(), None);
            assert_eq!(access.unwrap().served, Served::DeviceFailed);
        }
        assert_eq!(
            space.read(DEVICE, &mut [0; 8], None).unwrap().served,
            Served::DeviceFailed
        );
        let odd = space.write(DEVICE + 8, &[0; 8], None).unwrap();
        assert_eq!(odd.served, Served::DeviceFailed);
    }

    /// With the flag raised: a copy goes on where nobody is in its way, and ends where a
    /// writer is, with nothing left held.
    #[test]
    fn it_is_called_back_from_its_waits() {
        let (space, dma) = space();
        dma.kill.raise();
        assert_eq!(ask(&space, 0, 2 * PAGE, 8).1, regs::COMPLETE);
        let mut section = space.mm().mmap_write_lock().unwrap();
        let target = AddrRange::new(2 * PAGE, 2 * PAGE).unwrap();
        section.unmap(target).unwrap();
        let drained = section.lock().unwrap();
        std::thread::scope(|scope| {
            let copy = scope.spawn(|| ask(&space, 0, 2 * PAGE, 8));
            assert_eq!(copy.join().unwrap(), (Served::DeviceFailed, 0));
        });
        drop(drained);
        assert_eq!(ask(&space, 0, 2 * PAGE, 8).1, regs::COMPLETE);
        assert_eq!(dma.counts().complete, 2);
    }
}
