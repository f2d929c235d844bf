//! The range of guest addresses in which blocks come and go.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use gracefault_guest::abi;

use super::HotplugError;
use super::look::Look;
use crate::devices::HotplugController;
use crate::kvm::{LazyMemSlot, Vm};
use crate::memory::{GuestSpace, PAGE, RamSizes, RamSource};
use crate::mm::AddrRange;

/// How a block is offered to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockKind {
    /// To be used, and to be given back when asked.
    Cooperative,
    /// To be read only; it may be taken out unasked. Filled with the ABI's
    /// pattern.
    Volatile,
}

/// A plugged block.
#[derive(Debug)]
pub(super) struct Plugged {
    /// In since the plug, or to go in when it is first missed.
    pub(super) slot: Arc<LazyMemSlot>,
    pub(super) kind: BlockKind,
    /// The number of the plug.
    pub(super) plug: u64,
    /// Some thread is looking at it: who wants to take it waits.
    pub(super) is_looked_at: bool,
}

/// A block's state between absent (no entry) and plugged.
#[derive(Debug)]
pub(super) enum State {
    /// Some thread is plugging it.
    Arriving,
    Plugged(Plugged),
    /// Some thread is unplugging it, or may.
    Leaving {
        kind: BlockKind,
        plug: u64,
        /// Should it stay, the guest is told that it may keep it.
        is_withdrawn: bool,
    },
    /// Not plugged, but KVM has not let go of its slot.
    Stuck(Arc<LazyMemSlot>),
}

/// A range of guest-physical addresses, cut into blocks that are plugged and
/// unplugged one by one, from any thread. Clones share it.
pub struct HotplugRegion {
    pub(super) vm: Arc<Vm>,
    pub(super) space: Arc<GuestSpace>,
    pub(super) controller: Arc<HotplugController>,
    /// Where the blocks' memory comes from.
    pub(super) ram: Arc<RamSource>,
    start: u64,
    block_size: u64,
    blocks: u32,
    /// Whether a block's memslot goes in at the first access to it.
    pub(super) lazy: bool,
    /// Whether it is tracked which pages of a block are written.
    pub(super) dirty_log: bool,
    /// Held for a look-up or a change only: never across a lookup in the map, a
    /// write section or an ioctl. The controller's own lock is taken under it.
    states: Mutex<BTreeMap<u32, State>>,
    /// Notified when a block is no longer looked at.
    pub(super) looked: Condvar,
    /// Plugs so far.
    pub(super) plugs: AtomicU64,
}

impl HotplugRegion {
    /// A region of `blocks` blocks of `block_size` bytes each from `start` on,
    /// none of them plugged.
    ///
    /// # Panics
    ///
    /// If the block size is not a power of two of at least a page, `start` is not
    /// a multiple of it, or the region goes past the end of the space: whoever
    /// takes these from a user checks them first.
    pub fn new(
        vm: Arc<Vm>,
        space: Arc<GuestSpace>,
        controller: Arc<HotplugController>,
        start: u64,
        block_size: u64,
        blocks: u32,
    ) -> Self {
        assert!(
            block_size.is_power_of_two() && block_size >= PAGE,
            "block size {block_size}"
        );
        assert!(
            start.is_multiple_of(block_size),
            "blocks begin at {start:#x}"
        );
        let range = AddrRange::new(start, block_size.saturating_mul(u64::from(blocks)));
        let fits = range.is_none_or(|range| space.mm().range().covers(range));
        assert!(
            fits,
            "{blocks} blocks at {start:#x} go past the end of the space"
        );
        let states = Mutex::default();
        let ram = Arc::new(RamSource::anonymous(RamSizes {
            boot: 0,
            hotplug: block_size * u64::from(blocks),
            block: block_size,
        }));
        Self {
            ram,
            vm,
            space,
            controller,
            start,
            block_size,
            blocks,
            lazy: false,
            dirty_log: false,
            states,
            looked: Condvar::new(),
            plugs: AtomicU64::new(0),
        }
    }

    /// The same, with its blocks' memory from `ram`.
    ///
    /// # Panics
    ///
    /// If `ram` has blocks of another size, or not so many.
    pub fn with_ram(self, ram: Arc<RamSource>) -> Self {
        let sizes = ram.sizes();
        let needed = self.block_size * u64::from(self.blocks);
        assert!(
            sizes.block == self.block_size && sizes.hotplug >= needed,
            "blocks from {sizes:?}"
        );
        Self { ram, ..self }
    }

    /// The same, where the memslot of a block goes in only when an access first
    /// misses it: see [`LazyRam`](crate::memory::LazyRam). A plug takes the slot's
    /// number all the same, and fails if none is left.
    pub fn lazy(self, lazy: bool) -> Self {
        Self { lazy, ..self }
    }

    /// The same, where it is tracked which pages of a block the guest writes (its
    /// memslot logs, which costs a fault at the first write to each page) and which the
    /// VMM does (its memory has a bitmap): see [`take_dirty_pages`](Self::take_dirty_pages).
    /// Of guest-memfd memory KVM keeps no log: a plug then fails, with
    /// [`SlotError::NoDirtyLog`](crate::kvm::SlotError::NoDirtyLog).
    pub fn with_dirty_log(self, dirty_log: bool) -> Self {
        Self { dirty_log, ..self }
    }

    /// The pages of a block that guest or VMM have written since the last call, or since
    /// the plug: bit `n % 64` of word `n / 64` is page `n`. Of a region
    /// [with a dirty log](Self::with_dirty_log). While this is at it, a thread that wants
    /// to unplug the block waits, or to look at it, too.
    ///
    /// # Errors
    /// [`HotplugError::NoSuchBlock`], [`HotplugError::NotPlugged`], and
    /// [`HotplugError::Slot`] where KVM does not log.
    pub fn take_dirty_pages(&self, block: u32) -> Result<Vec<u64>, HotplugError> {
        Ok(Look::at(self, block)?.slot().take_dirty_pages()?)
    }

    /// Adds the pages of a block that the guest has written to the bitmap of its memory,
    /// where the VMM's are, and which each access by the `vm-memory` traits sees
    /// ([`MemSlot::merge_dirty_pages`](crate::kvm::MemSlot::merge_dirty_pages)). Otherwise
    /// as [`take_dirty_pages`](Self::take_dirty_pages).
    ///
    /// # Errors
    /// As [`take_dirty_pages`](Self::take_dirty_pages).
    pub fn merge_dirty_pages(&self, block: u32) -> Result<(), HotplugError> {
        Ok(Look::at(self, block)?.slot().merge_dirty_pages()?)
    }

    /// How many blocks there are.
    pub fn blocks(&self) -> u32 {
        self.blocks
    }

    /// Bytes in a block.
    pub fn block_size(&self) -> u64 {
        self.block_size
    }

    /// The guest-physical addresses of a block.
    pub fn block_range(&self, block: u32) -> AddrRange {
        let start = self.start + u64::from(block) * self.block_size;
        AddrRange::new(start, self.block_size).expect("the region ends below 2^64")
    }

    /// The blocks that are plugged now, in order, and how each was offered. One
    /// that is being unplugged is plugged until it is gone.
    pub fn plugged(&self) -> Vec<(u32, BlockKind)> {
        let states = self.states();
        states
            .iter()
            .filter_map(|(&block, state)| match state {
                State::Plugged(plugged) => Some((block, plugged.kind)),
                State::Leaving { kind, .. } => Some((block, *kind)),
                State::Arriving | State::Stuck(_) => None,
            })
            .collect()
    }

    /// The blocks that are plugged, and that nobody unplugs, with the number of the memslot
    /// that each has in KVM; `None` for one that is not in (see [`lazy`](Self::lazy)).
    pub fn slots(&self) -> Vec<(u32, Option<u32>)> {
        let states = self.states();
        let plugged = states.iter().filter_map(|(&block, state)| match state {
            State::Plugged(Plugged { slot, .. }) => {
                Some((block, slot.is_in().then_some(slot.id())))
            }
            _ => None,
        });
        plugged.collect()
    }

    /// The number of the plug that a block came by, if it is plugged: it tells the block
    /// from one that came before it, or comes after. One that is being unplugged is
    /// plugged until it is gone.
    pub fn plug_of(&self, block: u32) -> Option<u64> {
        match self.states().get(&block)? {
            State::Plugged(Plugged { plug, .. }) | State::Leaving { plug, .. } => Some(*plug),
            State::Arriving | State::Stuck(_) => None,
        }
    }

    /// Has each thread that waits in [`unplug`](Self::unplug) for the guest look whether it
    /// is cancelled.
    pub fn wake(&self) {
        self.controller.wake();
    }

    /// The blocks that `start` and `bytes` say.
    ///
    /// # Errors
    /// [`HotplugError::BadRange`] unless these are whole blocks, at least one, of the
    /// region.
    pub fn blocks_in(&self, start: u64, bytes: u64) -> Result<Vec<u32>, HotplugError> {
        let offset = start.checked_sub(self.start);
        let end = offset.and_then(|offset| offset.checked_add(bytes));
        let total = self.block_size * u64::from(self.blocks);
        match (offset, end) {
            (Some(offset), Some(end))
                if bytes > 0
                    && end <= total
                    && offset.is_multiple_of(self.block_size)
                    && bytes.is_multiple_of(self.block_size) =>
            {
                let blocks = offset / self.block_size..end / self.block_size;
                Ok(blocks.map(|block| block as u32).collect())
            }
            _ => Err(HotplugError::BadRange {
                start,
                bytes,
                block: self.block_size,
                first: self.start,
                total,
            }),
        }
    }

    /// The blocks that are not plugged, and that nobody is at, in order.
    pub fn absent(&self) -> Vec<u32> {
        let states = self.states();
        let is_free = |block: &u32| matches!(states.get(block), None | Some(State::Stuck(_)));
        (0..self.blocks).filter(is_free).collect()
    }

    /// The states, when nobody looks at this block any more.
    pub(super) fn states_for(&self, block: u32) -> MutexGuard<'_, BTreeMap<u32, State>> {
        let is_looked_at = |states: &mut BTreeMap<u32, State>| match states.get(&block) {
            Some(State::Plugged(plugged)) => plugged.is_looked_at,
            _ => false,
        };
        let rested = self.looked.wait_while(self.states(), is_looked_at);
        rested.unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn states(&self) -> MutexGuard<'_, BTreeMap<u32, State>> {
        // Nothing that runs under the lock leaves half of something.
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn check(&self, block: u32) -> Result<(), HotplugError> {
        if block < self.blocks {
            return Ok(());
        }
        Err(HotplugError::NoSuchBlock {
            block,
            blocks: self.blocks,
        })
    }

    /// The addresses in a volatile block that hold a pattern, and the patterns.
    pub(super) fn volatile_patterns(&self, block: u32) -> impl Iterator<Item = (u64, u64)> {
        let start = self.block_range(block).start();
        let pages = abi::VOLATILE_PAGES.min(self.block_size / PAGE);
        (0..pages).map(move |page| {
            let offset = page * PAGE;
            (offset, abi::pattern(start + offset, abi::VOLATILE_ROUND))
        })
    }
}

impl fmt::Debug for HotplugRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HotplugRegion")
            .field("start", &format_args!("{:#x}", self.start))
            .field("block_size", &self.block_size)
            .field("blocks", &self.blocks)
            .finish_non_exhaustive()
    }
}
