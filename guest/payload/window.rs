//! This vCPU's part of the boot RAM that is free for the workload, handed out
//! from the bottom.

use gracefault_guest::rt::Guest;

use crate::page;

/// What of the part is left. Page-aligned, and nobody else's.
pub struct Window {
    start: u64,
    end: u64,
}

impl Window {
    /// The part of the vCPU: equal shares, in whole pages.
    ///
    /// # Safety
    ///
    /// To be called once per vCPU.
    pub unsafe fn of(guest: &Guest) -> Self {
        let params = guest.params();
        let pages = params.window_end.saturating_sub(params.window_start) / page::SIZE;
        let share = pages / u64::from(params.vcpus.max(1)) * page::SIZE;
        let start = params.window_start + share * u64::from(guest.vcpu());
        Self {
            start,
            end: start + share,
        }
    }

    /// Whole pages left.
    pub fn pages(&self) -> u64 {
        (self.end - self.start) / page::SIZE
    }

    /// The address of the first byte left.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Takes room for `count` values off the window, each set to `value`, or
    /// leaves it as it is if there is not enough.
    pub fn take<T: Copy + 'static>(&mut self, count: u64, value: T) -> Option<&'static mut [T]> {
        const { assert!(align_of::<T>() <= page::SIZE as usize) };
        let bytes = count
            .checked_mul(size_of::<T>() as u64)?
            .checked_next_multiple_of(page::SIZE)?;
        if bytes > self.end - self.start {
            return None;
        }
        let at = core::ptr::with_exposed_provenance_mut::<T>(self.start as usize);
        self.start += bytes;
        for index in 0..count as usize {
            // SAFETY: the bytes were this window's, so nobody else's, mapped boot
            // RAM, aligned to a page; they are not handed out a second time.
            unsafe { at.add(index).write(value) };
        }
        // SAFETY: as above, and all of them are initialised now.
        Some(unsafe { core::slice::from_raw_parts_mut(at, count as usize) })
    }
}
