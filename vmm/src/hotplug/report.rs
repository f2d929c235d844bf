//! What a plug and an unplug tell.

use std::io;
use std::time::Duration;

use crate::mm::DrainReport;

/// How a plug went.
#[derive(Clone, Copy, Debug)]
pub struct PlugReport {
    /// How many blocks.
    pub blocks: usize,
    /// The number of the plug, which [`plug_of`](super::HotplugRegion::plug_of) says of
    /// each of its blocks until that is unplugged, and of no other.
    pub plug: u64,
    /// All of it.
    pub total: Duration,
    /// Getting the memory from the host.
    pub mmap: Duration,
    /// KVM's part: adding the memslot.
    pub kvm: Duration,
    /// The map's part: planning, locking and publishing.
    pub map: Duration,
    /// Waking the threads whose lookups waited for it.
    pub waking: Duration,
}

/// How an unplug went.
#[derive(Debug)]
pub struct UnplugReport {
    /// All of it.
    pub total: Duration,
    /// Waiting for the guest to give the block back.
    pub consent: Duration,
    /// Which readers held the block, and how long they were waited for.
    pub drain: DrainReport,
    /// The map's part: planning, locking and publishing; without the drain.
    pub map: Duration,
    /// Waking the threads whose lookups waited for it.
    pub waking: Duration,
    /// KVM's part: removing the memslot, and before that, with a deadline, waiting for
    /// pages of an image that it would wait for.
    pub kvm: Duration,
    /// Giving the memory back to the host.
    pub munmap: Duration,
    /// If the host refused to unmap it: the memory was given back all the same,
    /// the host addresses were not. Or if somebody keeps a reference to it.
    pub unmap_error: Option<io::Error>,
}
