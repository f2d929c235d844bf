//! Looking at a plugged block, which stays plugged.

use std::sync::Arc;

use super::region::{Plugged, State};
use super::{HotplugError, HotplugRegion};
use crate::kvm::LazyMemSlot;

/// A plugged block that this thread looks at. Until it is dropped nobody unplugs the
/// block: who wants to waits, and is not told that it is not plugged.
pub(super) struct Look<'a> {
    region: &'a HotplugRegion,
    block: u32,
    /// `None` only at the end.
    slot: Option<Arc<LazyMemSlot>>,
}

impl<'a> Look<'a> {
    /// Waits while another thread looks at it.
    pub(super) fn at(region: &'a HotplugRegion, block: u32) -> Result<Self, HotplugError> {
        region.check(block)?;
        match region.states_for(block).get_mut(&block) {
            Some(State::Plugged(plugged)) => {
                plugged.is_looked_at = true;
                Ok(Self {
                    region,
                    block,
                    slot: Some(plugged.slot.clone()),
                })
            }
            // Some other thread is at it, or KVM keeps its slot.
            _ => Err(HotplugError::NotPlugged { block }),
        }
    }

    pub(super) fn slot(&self) -> &LazyMemSlot {
        self.slot.as_ref().expect("there until it is dropped")
    }
}

impl Drop for Look<'_> {
    fn drop(&mut self) {
        let mut states = self.region.states();
        // Under the lock: who unplugs the block is the only one to have its memory.
        self.slot = None;
        if let Some(State::Plugged(Plugged { is_looked_at, .. })) = states.get_mut(&self.block) {
            *is_looked_at = false;
        }
        drop(states);
        self.region.looked.notify_all();
    }
}
