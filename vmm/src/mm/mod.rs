//! The map: disjoint VMAs over a range of addresses, lookups that wait for
//! writers, and removal that returns exactly when no reader is left.
//!
//! ```
//! use gracefault::mm::{AddrRange, AddressSpace, Payload, VmFlags};
//!
//! #[derive(Clone, Debug, PartialEq)]
//! struct Ram(&'static str);
//! impl Payload for Ram {}
//!
//! let mm = AddressSpace::new("guest", AddrRange::new(0, 1 << 40).unwrap());
//! let range = AddrRange::new(0x1000, 0x1000).unwrap();
//! mm.map(range, VmFlags::READ | VmFlags::WRITE, 0, Ram("one page"))?;
//!
//! // A vCPU thread, on its way out of an exit: never a lock over the map.
//! let vma = mm.lock_vma_under_rcu_wait(0x1234)?.expect("mapped above");
//! assert_eq!(vma.payload(), &Ram("one page"));
//! drop(vma);
//!
//! // A hotplug thread. When this returns, nobody can touch the page any more,
//! // and what it carried is the caller's alone.
//! let gone = mm.unmap(range, None)?;
//! assert_eq!(gone.removed[0].payload(), &Ram("one page"));
//! assert!(mm.lock_vma_under_rcu_wait(0x1234)?.is_none());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Rules for who holds a guard
//!
//! - Hold it for as long as you need; a writer that wants to change this VMA
//!   waits that long, a writer elsewhere does not notice.
//! - Look up and hold more, in any order: a thread that holds a member of a write
//!   set is let in to the other members while the writer drains.
//! - Do not open a write section of the same space: that is an error at once.
//!   What a handler wants changed is done after its guard is dropped.
//! - Do not wait, with a guard held, for a thread that may be waiting in a lookup
//!   or for the map lock.
//! - What outlives the call is a [pin](VmaReadGuard::pin), which may go to another
//!   thread. The map no longer knows whose it is: look up through it what the same
//!   writer may want, and open no section that would wait for it. What an operation
//!   pins as it goes along is a [set of pins](AddressSpace::pin_set).
//! - In the destructor of a thread-local, hold one VMA at a time and open no section
//!   meanwhile: the map may already have forgotten the thread, and does not know it
//!   for the holder.
//! - Lookups are forbidden in signal handlers and in a forked child.
//!
//! # What it costs
//!
//! A lookup is one exchange on a cache line of the thread's own, a walk over a few
//! wide nodes that nobody ever writes (none, if the thread keeps finding the same VMA
//! and no writer was there since), and three loads from a line that only writers store
//! to. Dropping a guard is a load from there and a store. `cargo bench --bench lookup`
//! and `--bench writer` compare all of it with a search of a static array, with the
//! other strategies, and with what else a VMM could keep its regions in. A thread that
//! holds many VMAs at once allocates more entries, at most twice as many as it ever needs
//! at once (one for a guard or a pin, two for a set of pins); they stay for as long as the
//! space is there, and every drain looks at them.
//!
//! A section copies the nodes on the way to what it changes. A
//! [gap](WriteSection::find_gap) is found by what the nodes know of the room below
//! them, on lines that no lookup loads. A drain scans the
//! records of all threads that ever used the space at the same time.
//! [`protocol.md`](https://github.com/gracefault/gracefault/blob/main/vmm/docs/protocol.md)
//! has the protocol, and says what each step is for.
//!
//! # Other strategies
//!
//! [`AddressSpace::with_strategy`] makes a map whose holds are kept, or whose lookups
//! wait, in another way, to compare this one with; each says what it
//! [can](Strategy::capabilities), and some of the rules above are not among it. See
//! [`Strategy`].
//!
//! # Rules for writers
//!
//! A section is planned, then locked and drained, then published. What can fail
//! goes into the plan, or between [`WriteSection::lock`] and
//! [`Drained::publish`]; dropping the section at any point before the latter
//! leaves the map as it was, and nothing behind; so does a panic in a step or a side
//! effect, which unwinds through it; where a panic of a step is caught with the section
//! still there, that section can no longer be published. A failed allocation is no error here: the standard
//! library ends the process. Whom a long drain waits for can be told [while it
//! lasts](LockOptions), and of each section, when it is over, an [observer](Observer).
//! What is returned in [`Published::removed`] is dropped
//! by the caller after the section is over, so a `Drop` may itself use the map.
//!
//! # Merging
//!
//! As in Linux, nobody asks for it: what a section maps, protects or relocates is
//! merged with its neighbours when the section locks its write set, where the two
//! have the same flags, offsets that follow each other, and payloads that say they
//! are the [same](Payload::same), which by default none does. It stays apart
//!
//! - under [`VmFlags::NOMERGE`], for what has an identity to keep;
//! - at a border that a [`split`](WriteSection::split) has planned, until a later
//!   step changes what lies on one side of it;
//! - if a reader is at the neighbour. A merge is never waited for, nor tried again:
//!   what you look up may be in more pieces than you mapped.
//!
//! What a merge absorbs is in [`Published::replaced`] and not in
//! [`removed`](Published::removed). `mm` keeps the payload of the leftmost.
//!
//! # Several spaces
//!
//! A thread that needs VMAs of two spaces at once looks up in one always before
//! the other; a [rank](SpaceOptions::rank) has debug builds see to it.

mod annex;
#[cfg(test)]
mod audit;
mod bell;
mod beside;
mod core;
mod drain;
mod edit;
mod entry;
mod error;
mod flags;
mod gap;
mod gap_tree;
mod gate;
mod grace;
mod guard;
mod kill;
mod lease;
mod lines;
mod local;
mod locked;
mod lookup;
#[cfg(all(test, loom))]
mod loom_tests;
mod mapguard;
mod maplock;
mod merge;
mod next;
mod node;
mod observer;
mod options;
mod pin;
mod pin_set;
mod pin_table;
mod pinning;
mod plan;
mod range;
mod reader;
mod recent;
mod record;
mod registry;
mod report;
mod room;
mod section;
#[cfg(all(test, shuttle))]
mod shuttle_tests;
mod slot;
mod space;
mod stats;
mod strategy;
mod sync;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
mod tree;
mod vma;
mod window;

pub use error::{LookupError, WriteError};
pub use flags::VmFlags;
pub use gap::Gap;
pub use guard::VmaReadGuard;
pub use kill::KillFlag;
pub use lines::Lines;
pub use lookup::{LookupPath, WaitOptions, Waited};
pub use mapguard::MmapReadGuard;
pub use observer::{Observer, SectionSeen};
pub use options::{LockOptions, OnSlow, SpaceOptions};
pub use pin::VmaPin;
pub use pin_set::PinSet;
pub use range::AddrRange;
pub use reader::{OwnedReader, Reader};
pub use report::{DrainReport, HoldKind, Holder, Waiter};
pub use section::{Drained, Published, WriteSection};
pub use space::AddressSpace;
pub use stats::MmStats;
pub use strategy::{Capabilities, Strategy, UnknownStrategy};
#[cfg(gracefault_mutants)]
#[doc(hidden)]
pub use sync::choose_mutant;
pub use vma::{Payload, Vma, VmaInfo};
pub use window::{AtWindow, Window};
