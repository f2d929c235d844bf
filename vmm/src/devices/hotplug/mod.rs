//! The hotplug controller: guest and VMM agree on each block.
//!
//! A block goes through four phases, in the guest's eyes:
//!
//! ```text
//!             offer            first ACK           ask_back          last ACK
//!  (absent) ────────► offered ───────────► in use ──────────► asked ──────────► released
//!                        └───────────────────────────────────► back
//! ```
//!
//! Every vCPU that has joined is told of each change by a queue of its own, and
//! counts as a user of the block from the offer on until it has acknowledged the
//! request to give it back, or left. The block is released when it has no user.
//!
//! A *volatile* block may vanish unasked. Its users are told afterwards
//! ([`gone`](HotplugController::gone)); only when all have acknowledged that may
//! the block's number be offered again, since until then one of them may still
//! take the new memory for the old.
//!
//! An event can be acknowledged once it has been read, and no sooner. So a block
//! that a vCPU was offered comes back to be offered again only after that vCPU has
//! read all about it, and a queue holds two events per block at most, whatever the
//! guest does. No handler waits for anything.

mod blocks;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gracefault_guest::abi::{event, hotplug as regs};

use super::{bank, banks_len};
use crate::memory::{AccessSizes, Device, DeviceError, OtherSizes};

pub use blocks::BlockPhase;
use blocks::{Mailbox, State};

/// The guest did not give a block back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the guest has not released block {block} after {after:?}; vCPUs {users:?} still use it")]
pub struct NotReleased {
    /// The block's number.
    pub block: u32,
    /// How long it was waited.
    pub after: Duration,
    /// The vCPUs that have not acknowledged.
    pub users: Vec<usize>,
}

/// The hotplug controller: a bank of registers per vCPU, see
/// [`abi::hotplug`](gracefault_guest::abi::hotplug).
#[derive(Debug)]
pub struct HotplugController {
    state: Mutex<State>,
    /// Notified when a block may have been released.
    changed: Condvar,
}

impl HotplugController {
    /// For `vcpus` vCPUs, none of which has joined.
    pub fn new(vcpus: usize) -> Self {
        let vcpus = (0..vcpus).map(|_| Mailbox::default()).collect();
        let state = State {
            vcpus,
            blocks: BTreeMap::new(),
            wakes: 0,
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// Bytes of address space it wants.
    pub fn len(&self) -> u64 {
        banks_len(0, self.lock().vcpus.len())
    }

    /// Whether it serves no vCPU.
    pub fn is_empty(&self) -> bool {
        self.lock().vcpus.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under the lock can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Offers a block, just plugged, to every vCPU that has joined, and to those
    /// that will.
    ///
    /// # Panics
    ///
    /// If the block is not [`BlockPhase::Released`].
    pub fn offer(&self, block: u32, volatile: bool) {
        self.lock().offer(block, volatile);
    }

    /// Asks for a block back. See [`wait_released`](Self::wait_released).
    pub fn ask_back(&self, block: u32) {
        self.lock().tell_users(block, event::ASKED_BACK);
    }

    /// Takes [`ask_back`](Self::ask_back) back: the block stays. What the guest has
    /// been asked it will do, and each vCPU that has joined is offered the block
    /// anew when the last one has; at once if that is so already. To be called by
    /// who asked, while the block is plugged.
    pub fn withdraw(&self, block: u32, volatile: bool) {
        let mut state = self.lock();
        match state.blocks.get_mut(&block) {
            Some(entry) => entry.withdrawn = entry.phase == BlockPhase::AskedBack,
            None => state.offer(block, volatile),
        }
    }

    /// Tells that a volatile block is gone.
    pub fn gone(&self, block: u32) {
        self.lock().tell_users(block, event::GONE);
    }

    /// How far a block has come.
    pub fn phase(&self, block: u32) -> BlockPhase {
        self.lock()
            .blocks
            .get(&block)
            .map_or(BlockPhase::Released, |b| b.phase)
    }

    /// Blocks until no vCPU uses the block any more, until `deadline`, or until
    /// [`wake`](Self::wake) is called and `cancelled` then returns true. That is called
    /// with nothing locked, and may use the controller.
    pub fn wait_released(
        &self,
        block: u32,
        deadline: Instant,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<(), NotReleased> {
        let since = Instant::now();
        let mut state = self.lock();
        while state.blocks.contains_key(&block) {
            let wakes = state.wakes;
            drop(state);
            let is_cancelled = cancelled();
            state = self.lock();
            let Some(entry) = state.blocks.get(&block) else {
                break;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || is_cancelled {
                let users = entry.users.iter().copied().collect();
                return Err(NotReleased {
                    block,
                    after: since.elapsed(),
                    users,
                });
            }
            // Woken meanwhile, it looks again before it sleeps.
            if state.wakes == wakes {
                let waited = self.changed.wait_timeout(state, left);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        Ok(())
    }

    /// Lets every thread in [`wait_released`](Self::wait_released) look whether it
    /// is cancelled.
    pub fn wake(&self) {
        let mut state = self.lock();
        state.wakes = state.wakes.wrapping_add(1);
        drop(state);
        self.changed.notify_all();
    }

    /// Takes a vCPU out, as if it had left: it runs no more.
    pub fn leave(&self, vcpu: usize) {
        let mut state = self.lock();
        state.vcpus[vcpu] = Mailbox::default();
        let used: Vec<_> = state
            .blocks
            .iter()
            .filter(|(_, b)| b.users.contains(&vcpu))
            .map(|(&n, _)| n)
            .collect();
        for block in used {
            state.drop_user(vcpu, block);
        }
        drop(state);
        self.changed.notify_all();
    }

    fn join(&self, vcpu: usize) {
        let mut state = self.lock();
        if std::mem::replace(&mut state.vcpus[vcpu].joined, true) {
            return;
        }
        let there: Vec<_> = state
            .blocks
            .iter()
            .filter(|(_, b)| b.phase != BlockPhase::AskedBack)
            .map(|(&n, _)| n)
            .collect();
        for block in there {
            state.offer_to(vcpu, block);
        }
    }
}

impl Device for HotplugController {
    fn name(&self) -> &str {
        "hotplug"
    }

    fn sizes(&self) -> AccessSizes {
        AccessSizes::only(&[8], OtherSizes::AllOnes)
    }

    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), DeviceError> {
        let mut state = self.lock();
        let (vcpu, register) = bank(offset, state.vcpus.len())?;
        if register != regs::EVENT {
            return Err(DeviceError::NoRegister);
        }
        let word = state.vcpus[vcpu].events.pop_front().unwrap_or(0);
        data.copy_from_slice(&word.to_le_bytes());
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        let word = u64::from_le_bytes(data.try_into().map_err(|_| DeviceError::BadValue)?);
        let (vcpu, register) = bank(offset, self.lock().vcpus.len())?;
        match (register, word) {
            (regs::JOIN, 0) => self.leave(vcpu),
            (regs::JOIN, 1) => self.join(vcpu),
            (regs::ACK, _) => {
                self.lock().acknowledge(vcpu, word)?;
                self.changed.notify_all();
            }
            (regs::JOIN, _) => return Err(DeviceError::BadValue),
            _ => return Err(DeviceError::NoRegister),
        }
        Ok(())
    }
}
