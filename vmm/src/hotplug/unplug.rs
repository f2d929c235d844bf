//! Unplugging a block.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::claim::Taken;
use super::region::State;
use super::{BlockKind, HotplugError, HotplugRegion, UnplugReport};
use crate::memory::{Backing, LazyRam, Mapping};
use crate::mm::{DrainReport, Published};

/// Whether the guest is asked before a block is taken out.
#[derive(Clone, Copy)]
pub enum Consent<'a> {
    /// It is asked, and waited for until `deadline` or until `cancelled` returns
    /// true (it is called again after
    /// [`HotplugController::wake`](crate::devices::HotplugController::wake)). That is
    /// called with nothing locked: it may look at the region.
    Asked {
        /// When to give up.
        deadline: Instant,
        /// Whether to give up now.
        cancelled: &'a dyn Fn() -> bool,
    },
    /// As each block was offered: a cooperative one is asked for, a volatile one taken
    /// out unasked.
    AsOffered {
        /// When to give up.
        deadline: Instant,
        /// Whether to give up now.
        cancelled: &'a dyn Fn() -> bool,
    },
    /// It is told afterwards. Its accesses read all ones from then on.
    Surprise,
}

impl<'a> Consent<'a> {
    /// Until when the guest is waited for, if it is.
    fn wait(&self) -> Option<(Instant, &'a dyn Fn() -> bool)> {
        match *self {
            Self::Asked {
                deadline,
                cancelled,
            }
            | Self::AsOffered {
                deadline,
                cancelled,
            } => Some((deadline, cancelled)),
            Self::Surprise => None,
        }
    }

    /// Whether the guest is asked for this block.
    fn asks(&self, taken: &Taken<'_>) -> bool {
        match self {
            Self::Asked { .. } => true,
            Self::AsOffered { .. } => taken.kind() == BlockKind::Cooperative,
            Self::Surprise => false,
        }
    }
}

impl std::fmt::Debug for Consent<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Asked { .. } => "Asked",
            Self::AsOffered { .. } => "AsOffered",
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
    /// with `drain_deadline` it fails when they are not gone by then. Then blocks while
    /// KVM takes the memslot out, which waits for every vCPU that sleeps for a page of
    /// an image: with `drain_deadline` it fails if such a page does not come by then,
    /// but one that is first touched while KVM is at it is waited for, and so is one of
    /// another image than this region's. Before all that, blocks for as long as KVM
    /// takes to tell [another thread](Self::take_dirty_pages) which pages are dirty. On
    /// an error the block is plugged as before. A guest that was asked is told to keep
    /// it: it is offered the block anew as soon as it has given it back.
    pub fn unplug(
        &self,
        block: u32,
        consent: Consent<'_>,
        drain_deadline: Option<Instant>,
    ) -> Result<UnplugReport, HotplugError> {
        self.unplug_all(&[block], consent, drain_deadline)
    }

    /// As [`unplug`](Self::unplug), for several blocks, each named once, in one write
    /// section: a lookup sees all of them or none, and if one cannot be unplugged, none
    /// is. The guest is asked for all of them at once.
    ///
    /// # Errors
    /// As there. Where KVM refuses to take a memslot out, those before it go in again
    /// before anybody can look the blocks up, which are lazy RAM from then on: should
    /// KVM refuse that, too, the slot goes in at the next access. In a
    /// [dirty log](Self::with_dirty_log) all pages of theirs have been written then.
    pub fn unplug_all(
        &self,
        blocks: &[u32],
        consent: Consent<'_>,
        drain_deadline: Option<Instant>,
    ) -> Result<UnplugReport, HotplugError> {
        let start = Instant::now();
        let taken = blocks.iter().map(|block| Taken::new(self, *block));
        let mut taken = taken.collect::<Result<Vec<_>, _>>()?;
        let asked: Vec<_> = taken.iter().filter(|one| consent.asks(one)).collect();
        if let Some((deadline, cancelled)) = consent.wait() {
            self.wait_for_consent(&asked, deadline, cancelled)?;
        }
        let asked: Vec<_> = asked.iter().map(|one| (one.block(), one.kind())).collect();
        let consented = start.elapsed();
        let (published, kvm) = match self.take_out(&mut taken, drain_deadline) {
            Ok(done) => done,
            Err(error) => {
                self.withdraw_all(&asked);
                return Err(error);
            }
        };
        let mapped_out = start.elapsed();
        let waking = published.waking;
        let unmap_error = give_back(published.removed.into_iter().map(|vma| vma.into_payload()));
        let total = start.elapsed();
        // Told before the numbers can be plugged again.
        for one in taken.iter().filter(|one| !consent.asks(one)) {
            self.controller.gone(one.block());
        }
        drop(taken);
        let DrainReport { waited, .. } = published.drain;
        Ok(UnplugReport {
            total,
            consent: consented,
            map: (mapped_out - consented).saturating_sub(kvm + waited + waking),
            waking,
            drain: published.drain,
            kvm,
            munmap: total - mapped_out,
            unmap_error,
        })
    }

    /// Asks the guest for blocks, and waits until it has given all of them back. On an
    /// error it may keep them.
    fn wait_for_consent(
        &self,
        asked: &[&Taken<'_>],
        deadline: Instant,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<(), HotplugError> {
        for one in asked {
            self.controller.ask_back(one.block());
        }
        for one in asked {
            let block = one.block();
            let waited = self.controller.wait_released(block, deadline, cancelled);
            if let Err(error) = waited {
                let all: Vec<_> = asked.iter().map(|one| (one.block(), one.kind())).collect();
                self.withdraw_all(&all);
                return Err(error.into());
            }
        }
        Ok(())
    }

    fn withdraw_all(&self, asked: &[(u32, BlockKind)]) {
        for (block, kind) in asked {
            self.let_keep(*block, *kind);
        }
    }

    /// Tells the guest that it may keep what it was asked for.
    pub(super) fn let_keep(&self, block: u32, kind: BlockKind) {
        let volatile = kind == BlockKind::Volatile;
        self.controller.withdraw(block, volatile);
    }

    /// Asks the guest for a block, if it is plugged and nobody unplugs it.
    pub(super) fn ask_back(&self, block: u32) {
        if let Some(State::Plugged(_)) = self.states().get(&block) {
            self.controller.ask_back(block);
        }
    }

    /// Lets the guest keep a block that it was asked for, if that is still plugged; if
    /// somebody unplugs it, should that fail.
    pub(super) fn withdraw(&self, block: u32) {
        match self.states().get_mut(&block) {
            Some(State::Plugged(plugged)) => self.let_keep(block, plugged.kind),
            Some(State::Leaving { is_withdrawn, .. }) => *is_withdrawn = true,
            _ => {}
        }
    }

    /// The section: drain, memslots out, publish. On an error nothing has changed.
    fn take_out(
        &self,
        taken: &mut [Taken<'_>],
        deadline: Option<Instant>,
    ) -> Result<(Published<Backing>, Duration), HotplugError> {
        let mm = self.space.mm();
        let begun = Instant::now();
        // Where nobody has to wait with it; as a rule it leaves none for below.
        let first = taken.first().map_or(0, Taken::block);
        self.wait_for_pages(first, None, deadline)?;
        let kvm = begun.elapsed();
        let mut section = match deadline {
            Some(deadline) => mm.mmap_write_lock_until(deadline)?,
            None => mm.mmap_write_lock()?,
        };
        for one in &*taken {
            section.unmap(self.block_range(one.block()))?;
        }
        let drained = match deadline {
            Some(deadline) => section.lock_until(deadline)?,
            None => section.lock()?,
        };
        let before_kvm = Instant::now();
        for vma in drained.removed() {
            self.wait_for_pages(first, vma.payload().memory(), deadline)?;
        }
        let mut out = Vec::with_capacity(taken.len());
        for one in &*taken {
            match one.slot().take_out() {
                Ok(true) => out.push(one),
                Ok(false) => {}
                Err(error) => {
                    self.put_back(&out, drained);
                    return Err(error.into());
                }
            }
        }
        taken.iter_mut().for_each(Taken::gone);
        let kvm = kvm + before_kvm.elapsed();
        Ok((drained.publish(), kvm))
    }

    /// Waits until KVM can take a slot out, if there is a deadline for that.
    fn wait_for_pages(
        &self,
        block: u32,
        memory: Option<&Mapping>,
        deadline: Option<Instant>,
    ) -> Result<(), HotplugError> {
        match (deadline, self.ram.pager()) {
            (Some(deadline), Some(pager)) if !pager.wait_for_vcpus(memory, deadline) => {
                Err(HotplugError::PageAwaited { block })
            }
            _ => Ok(()),
        }
    }
}

/// Gives memory back to the host, and says so if that could not be done.
fn give_back(removed: impl Iterator<Item = Backing>) -> Option<io::Error> {
    let mut error = None;
    let mut memories: Vec<Arc<Mapping>> = Vec::new();
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
        // A block that was split has several VMAs, of one memory.
        if !memories.iter().any(|known| Arc::ptr_eq(known, &memory)) {
            memories.push(memory);
        }
    }
    for memory in memories {
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
