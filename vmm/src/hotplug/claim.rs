//! Who is at a block: one thread at a time, until it is done or unwinds.

use std::collections::btree_map::Entry;
use std::sync::Arc;

use super::region::{Plugged, State};
use super::{BlockKind, HotplugError, HotplugRegion};
use crate::devices::BlockPhase;
use crate::kvm::{BlockSlot, LazyMemSlot};

/// Absent blocks that this thread is plugging. Dropped, those that are not plugged
/// by then are absent again.
pub(super) struct Claim<'a> {
    region: &'a HotplugRegion,
    blocks: Vec<u32>,
}

impl<'a> Claim<'a> {
    /// All of them, or none.
    pub(super) fn of(region: &'a HotplugRegion, blocks: &[u32]) -> Result<Self, HotplugError> {
        let mut claim = Self {
            region,
            blocks: Vec::with_capacity(blocks.len()),
        };
        for &block in blocks {
            region.check(block)?;
            claim.add(block)?;
            // Ours now, so no other thread can offer the block between this look
            // and the offer.
            if region.controller.phase(block) != BlockPhase::Released {
                return Err(HotplugError::Resting { block });
            }
        }
        Ok(claim)
    }

    fn add(&mut self, block: u32) -> Result<(), HotplugError> {
        let stuck = match self.region.states().entry(block) {
            Entry::Vacant(entry) => {
                entry.insert(State::Arriving);
                None
            }
            Entry::Occupied(mut entry) => match entry.insert(State::Arriving) {
                State::Stuck(slot) => Some(slot),
                other => {
                    entry.insert(other);
                    return Err(HotplugError::Plugged { block });
                }
            },
        };
        if let Some(Err((slot, source))) = stuck.map(BlockSlot::remove) {
            self.region.states().insert(block, State::Stuck(slot));
            return Err(HotplugError::Stuck { block, source });
        }
        self.blocks.push(block);
        Ok(())
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut states = self.region.states();
        for block in &self.blocks {
            if let Some(State::Arriving) = states.get(block) {
                states.remove(block);
            }
        }
    }
}

/// A plugged block that this thread is at. Dropped, it is plugged as before,
/// unless its slot was taken.
pub(super) struct Taken<'a> {
    region: &'a HotplugRegion,
    block: u32,
    kind: BlockKind,
    /// `None` once it is out.
    slot: Option<BlockSlot>,
    /// One that is out, and can go in again. It keeps its memory.
    lazy: Option<Arc<LazyMemSlot>>,
}

impl<'a> Taken<'a> {
    pub(super) fn new(region: &'a HotplugRegion, block: u32) -> Result<Self, HotplugError> {
        region.check(block)?;
        let mut states = region.states();
        let not_plugged = || HotplugError::NotPlugged { block };
        let state = states.get_mut(&block).ok_or_else(not_plugged)?;
        let State::Plugged(Plugged { kind, .. }) = *state else {
            // Some other thread is at it, or KVM keeps its slot.
            return Err(not_plugged());
        };
        match std::mem::replace(state, State::Leaving(kind)) {
            State::Plugged(plugged) => Ok(Self {
                region,
                block,
                kind,
                slot: Some(plugged.slot),
                lazy: None,
            }),
            _ => unreachable!("looked at above, under the same lock"),
        }
    }

    pub(super) fn block(&self) -> u32 {
        self.block
    }

    /// How it was offered.
    pub(super) fn kind(&self) -> BlockKind {
        self.kind
    }

    /// Its slot, which is in.
    pub(super) fn slot(&self) -> &BlockSlot {
        self.slot.as_ref().expect("not taken out yet")
    }

    /// Takes its slot out of the guest, or leaves it in.
    pub(super) fn remove_slot(&mut self) -> Result<(), HotplugError> {
        let Some(slot) = self.slot.take() else {
            return Ok(());
        };
        let lazy = match &slot {
            BlockSlot::Lazy(slot) => Some(slot.clone()),
            BlockSlot::Eager(_) => None,
        };
        match slot.remove() {
            Ok(()) => self.lazy = lazy,
            Err((slot, error)) => {
                self.slot = Some(slot);
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// The slot that was taken out was not in all the time: goes in when it is missed.
    /// Whether that was so.
    pub(super) fn put_back_lazy(&mut self) -> bool {
        let lazy = self.lazy.take();
        let is_lazy = lazy.is_some();
        self.slot = lazy.map(BlockSlot::Lazy).or(self.slot.take());
        is_lazy
    }

    /// Another slot for the one that was taken out.
    pub(super) fn put_back(&mut self, slot: BlockSlot) {
        self.slot = Some(slot);
    }

    /// The slot is out for good.
    pub(super) fn forget_slot(&mut self) {
        self.lazy = None;
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let (mut states, kind) = (self.region.states(), self.kind);
        match self.slot.take() {
            Some(slot) => states.insert(self.block, State::Plugged(Plugged { slot, kind })),
            None => states.remove(&self.block),
        };
    }
}
