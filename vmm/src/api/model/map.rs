//! The map: what is at which guest address.

use serde::{Deserialize, Serialize};

/// What stands behind the addresses of a VMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backing {
    /// Memory that the guest reads and writes.
    Ram,
    /// As RAM, but KVM hears of it when the guest first touches it.
    LazyRam,
    /// Memory that the guest reads.
    Rom,
    /// A device.
    Mmio,
}

/// Somebody who holds a VMA read-locked, or stands in a writer's way otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The thread's name.
    pub thread: String,
    /// The address that it had looked up.
    pub addr: u64,
    /// `walk` (on its way to the VMA), `hold`, `pin` (which may have left the thread) or
    /// `wait` (for a section).
    pub kind: String,
}

/// A VMA. `GET /vm.map` has all of guest memory's, in order, as they were at one
/// moment; slot, hits and holders are of the moments after.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MapEntry {
    /// The first guest address.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// `r` read, `w` write, `x` execute, `i` a device answers, `b` keeps its identity; a
    /// dash for what is absent: `rwx-b`.
    pub flags: String,
    /// What stands behind it.
    pub backing: Backing,
    /// The device's name, or the kind of memory.
    pub name: String,
    /// What whoever plugged it has called it.
    pub id: Option<String>,
    /// Where in what stands behind it the first address is.
    pub offset: u64,
    /// Its memslot's number in KVM; none for a device, and for lazy RAM that nobody has
    /// touched.
    pub slot: Option<u32>,
    /// Exits so far at these addresses that memory or a device answered: also of what
    /// was there before. (An access that a memslot serves is no exit.) None where
    /// exits are not counted, in a storm without KVM.
    pub hits: Option<u64>,
    /// Who holds it now.
    pub holders: Vec<Hold>,
    /// The number of the write section that made it.
    pub section: u64,
    /// For how long it has been there as it is; none if it was made before the VM was
    /// watched.
    pub age_ns: Option<u64>,
}
