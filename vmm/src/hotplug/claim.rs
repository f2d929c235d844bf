//! Who is at a block: one thread at a time, until it is done or unwinds.

use std::collections::btree_map::Entry;
use std::sync::Arc;

use super::region::{Plugged, State};
use super::{BlockKind, HotplugError, HotplugRegion};
use crate::devices::BlockPhase;
use crate::kvm::LazyMemSlot;

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
        if let Some(slot) = stuck
            && let Err(source) = slot.take_out()
        {
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

/// A plugged block that this thread is about to unplug. Dropped, it is plugged as
/// before, unless it was said to be [gone](Self::gone).
pub(super) struct Taken<'a> {
    region: &'a HotplugRegion,
    block: u32,
    kind: BlockKind,
    plug: u64,
    /// `None` once the block is gone.
    slot: Option<Arc<LazyMemSlot>>,
}

impl<'a> Taken<'a> {
    /// Waits while another thread looks at the block.
    pub(super) fn new(region: &'a HotplugRegion, block: u32) -> Result<Self, HotplugError> {
        region.check(block)?;
        let mut states = region.states_for(block);
        let not_plugged = || HotplugError::NotPlugged { block };
        let state = states.get_mut(&block).ok_or_else(not_plugged)?;
        let State::Plugged(Plugged { kind, plug, .. }) = *state else {
            // Some other thread is at it, or KVM keeps its slot.
            return Err(not_plugged());
        };
        let leaving = State::Leaving {
            kind,
            plug,
            is_withdrawn: false,
        };
        match std::mem::replace(state, leaving) {
            State::Plugged(plugged) => Ok(Self {
                region,
                block,
                kind,
                plug,
                slot: Some(plugged.slot),
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

    /// Its slot, whether that is in or not.
    pub(super) fn slot(&self) -> &Arc<LazyMemSlot> {
        self.slot.as_ref().expect("it is not gone yet")
    }

    /// The slot is out for good, and the block with it.
    pub(super) fn gone(&mut self) {
        self.slot = None;
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let (mut states, block) = (self.region.states(), self.block);
        let Some(slot) = self.slot.take() else {
            states.remove(&block);
            return;
        };
        let (kind, plug) = (self.kind, self.plug);
        if let Some(State::Leaving {
            is_withdrawn: true, ..
        }) = states.get(&block)
        {
            self.region.let_keep(block, kind);
        }
        let plugged = Plugged {
            slot,
            kind,
            plug,
            is_looked_at: false,
        };
        states.insert(block, State::Plugged(plugged));
    }
}
