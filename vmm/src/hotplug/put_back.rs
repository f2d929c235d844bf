//! Undoing an unplug of several blocks, of which some are out when KVM keeps another.

use vm_memory::bitmap::Bitmap;

use super::HotplugRegion;
use super::claim::Taken;
use crate::memory::{Backing, GuestSpace, HostMemory, LazyRam};
use crate::mm::Drained;

/// How often KVM is asked for a memslot that must be there again.
const TRIES: u32 = 3;

impl HotplugRegion {
    /// Puts memslots in again that were just taken out, under the numbers they had, and
    /// publishes their blocks as new VMAs: a slot does not come back while its VMA
    /// lives. The old ones are write-locked, so that who has missed a slot meanwhile
    /// finds a new one.
    ///
    /// These are lazy RAM. KVM wants some memory for a slot, and if it has none, even
    /// when it is asked a few times, the slot goes in at the next access, before that is
    /// served: an access served with no slot would lose updates of other vCPUs. And an
    /// instruction that KVM cannot emulate, met while the slot was out, is tried again.
    pub(super) fn put_back(&self, out: &[&Taken<'_>], drained: Drained<'_, Backing>) {
        for one in out {
            put_in(one);
        }
        drained.publish_instead(|vma| {
            let is_of = |one: &&&Taken<'_>| self.block_range(one.block()).covers(vma.range());
            let slot = out.iter().find(is_of)?.slot().clone();
            let memory = match vma.payload() {
                Backing::Ram(memory) | Backing::Lazy(LazyRam { memory, .. }) => memory.clone(),
                Backing::Rom(_) | Backing::Mmio(_) => return None,
            };
            // KVM's log of it went with the slot: any page may have been written.
            if let Some(dirty) = memory.dirty_pages() {
                dirty.mark_dirty(0, memory.len() as usize);
            }
            let flags = vma.flags().union(GuestSpace::LAZY);
            Some((flags, Backing::Lazy(LazyRam { memory, slot })))
        });
    }
}

fn put_in(one: &Taken<'_>) {
    let block = one.block();
    for _ in 0..TRIES {
        match one.slot().insert() {
            Ok(_) => return,
            Err(error) => log::warn!("putting a memslot in again: {error}"),
        }
    }
    log::error!("block {block} stays plugged, but has no memslot until it is next accessed");
}
