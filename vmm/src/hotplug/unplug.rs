//! Unplugging a block.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::region::{Plugged, State};
use super::{BlockKind, HotplugError, HotplugRegion, UnplugReport};
use crate::kvm::{BlockSlot, SlotError};
use crate::memory::{Backing, LazyRam};
use crate::mm::{DrainReport, Published};

/// Whether the guest is asked before a block is taken out.
#[derive(Clone, Copy)]
pub enum Consent<'a> {
    /// It is asked, and waited for until `deadline` or until `cancelled` returns
    /// true (it is called again after
    /// [`HotplugController::wake`](crate::devices::HotplugController::wake)).
    Asked {
        /// When to give up.
        deadline: Instant,
        /// Whether to give up now.
        cancelled: &'a dyn Fn() -> bool,
    },
    /// It is told afterwards. Its accesses read all ones from then on.
    Surprise,
}

impl std::fmt::Debug for Consent<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Asked { .. } => "Asked",
            Self::Surprise => "Surprise",
        })
    }
}

impl HotplugRegion {
    /// Unplugs a block: consent of the guest, then drain, memslot out, map
    /// without it, memory back to the host. When this returns, no reader and no
    /// vCPU can touch the memory any more, and the host has it again.
    ///
    /// Blocks for the guest's consent, and for as long as readers hold the block;
    /// with `drain_deadline` it fails when they are not gone by then. On an error
    /// the block is plugged as before, though a guest that has given it back
    /// already is offered it anew.
    pub fn unplug(
        &self,
        block: u32,
        consent: Consent<'_>,
        drain_deadline: Option<Instant>,
    ) -> Result<UnplugReport, HotplugError> {
        self.check(block)?;
        let start = Instant::now();
        let Plugged { slot, kind } = self.take(block)?;
        if let Consent::Asked {
            deadline,
            cancelled,
        } = consent
        {
            self.controller.ask_back(block);
            if let Err(error) = self.controller.wait_released(block, deadline, cancelled) {
                // It stays in use, and stays asked back: the guest may still
                // release it, and a later unplug then finds that done.
                self.put_back(block, Plugged { slot, kind });
                return Err(error.into());
            }
        }
        let consented = start.elapsed();
        let (published, kvm) = match self.take_out(block, slot, drain_deadline) {
            Ok(done) => done,
            Err((slot, error)) => {
                if let Consent::Asked { .. } = consent {
                    self.controller.offer(block, kind == BlockKind::Volatile);
                }
                self.put_back(block, Plugged { slot, kind });
                return Err(error);
            }
        };
        let mapped_out = start.elapsed();
        let unmap_error = give_back(published.removed.into_iter().map(|vma| vma.into_payload()));
        let total = start.elapsed();
        // Told before the number can be plugged again.
        if let Consent::Surprise = consent {
            self.controller.gone(block);
        }
        self.states().remove(&block);
        let DrainReport { waited, .. } = published.drain;
        Ok(UnplugReport {
            total,
            consent: consented,
            map: (mapped_out - consented).saturating_sub(kvm + waited),
            drain: published.drain,
            kvm,
            munmap: total - mapped_out,
            unmap_error,
        })
    }

    /// The section: drain, memslot out, publish. On an error nothing has changed
    /// and the slot comes back.
    fn take_out(
        &self,
        block: u32,
        slot: BlockSlot,
        deadline: Option<Instant>,
    ) -> Result<(Published<Backing>, Duration), (BlockSlot, HotplugError)> {
        let drained = || {
            let mm = self.space.mm();
            let mut section = match deadline {
                Some(deadline) => mm.mmap_write_lock_until(deadline)?,
                None => mm.mmap_write_lock()?,
            };
            section.unmap(self.block_range(block))?;
            match deadline {
                Some(deadline) => section.lock_until(deadline),
                None => section.lock(),
            }
        };
        let drained = match drained() {
            Ok(drained) => drained,
            Err(error) => return Err((slot, error.into())),
        };
        let before_kvm = Instant::now();
        slot.remove()
            .map_err(|(slot, error): (_, SlotError)| (slot, error.into()))?;
        let kvm = before_kvm.elapsed();
        Ok((drained.publish(), kvm))
    }

    fn take(&self, block: u32) -> Result<Plugged, HotplugError> {
        let mut states = self.states();
        let not_plugged = HotplugError::NotPlugged { block };
        let state = states.get_mut(&block).ok_or(not_plugged)?;
        match std::mem::replace(state, State::Busy) {
            State::Plugged(plugged) => Ok(plugged),
            // Some other thread is at it, and will end it.
            State::Busy => Err(HotplugError::NotPlugged { block }),
        }
    }

    fn put_back(&self, block: u32, plugged: Plugged) {
        self.states().insert(block, State::Plugged(plugged));
    }
}

/// Gives memory back to the host, and says so if that could not be done.
fn give_back(removed: impl Iterator<Item = Backing>) -> Option<io::Error> {
    let mut error = None;
    for backing in removed {
        let memory = match backing {
            Backing::Ram(memory) | Backing::Rom(memory) => memory,
            Backing::Lazy(LazyRam { memory, slot }) => {
                // Out of KVM; it has a reference of its own.
                drop(slot);
                memory
            }
            Backing::Mmio(_) => continue,
        };
        // The map and the memslot had a reference each; who took another out of a
        // guard has broken the rules, and the host gets the memory when it goes.
        let given_back = match Arc::into_inner(memory) {
            Some(memory) => memory.unmap(),
            None => Err(io::Error::other(
                "somebody still has a reference to the memory",
            )),
        };
        error = given_back.err().or(error);
    }
    error
}
