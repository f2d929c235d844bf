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

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gracefault_guest::abi::{decode_event, encode_event, event, hotplug as regs};

use super::{bank, banks_len};
use crate::memory::{AccessSizes, Device, DeviceError, OtherSizes};

/// How far a block has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockPhase {
    /// Offered; no vCPU has acknowledged it yet.
    Offered,
    /// At least one vCPU uses it.
    InUse,
    /// Asked back, or gone; some vCPU has not acknowledged that yet.
    AskedBack,
    /// No vCPU uses it, or knows of it.
    Released,
}

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

#[derive(Debug)]
struct Block {
    volatile: bool,
    phase: BlockPhase,
    users: BTreeSet<usize>,
    /// Asked back, but not wanted any more: offered anew once it is released.
    withdrawn: bool,
}

#[derive(Debug, Default)]
struct Mailbox {
    joined: bool,
    events: VecDeque<u64>,
}

#[derive(Debug, Default)]
struct State {
    vcpus: Vec<Mailbox>,
    /// Every block that is not [`BlockPhase::Released`].
    blocks: BTreeMap<u32, Block>,
}

impl State {
    fn tell(&mut self, vcpu: usize, event: u32, block: u32) {
        self.vcpus[vcpu]
            .events
            .push_back(encode_event(event, block));
    }

    fn offer(&mut self, block: u32, volatile: bool) {
        let entry = Block {
            volatile,
            phase: BlockPhase::Offered,
            users: BTreeSet::new(),
            withdrawn: false,
        };
        let before = self.blocks.insert(block, entry);
        assert!(before.is_none(), "block {block} is offered twice");
        for vcpu in 0..self.vcpus.len() {
            if self.vcpus[vcpu].joined {
                self.offer_to(vcpu, block);
            }
        }
    }

    fn offer_to(&mut self, vcpu: usize, block: u32) {
        let Some(entry) = self.blocks.get_mut(&block) else {
            return;
        };
        entry.users.insert(vcpu);
        let offer = if entry.volatile {
            event::OFFERED_VOLATILE
        } else {
            event::OFFERED
        };
        self.tell(vcpu, offer, block);
    }

    fn tell_users(&mut self, block: u32, event: u32) {
        let Some(entry) = self.blocks.get_mut(&block) else {
            return;
        };
        entry.withdrawn = false;
        if entry.phase == BlockPhase::AskedBack {
            return;
        }
        entry.phase = BlockPhase::AskedBack;
        for vcpu in entry.users.clone() {
            self.tell(vcpu, event, block);
        }
        self.forget_if_released(block);
    }

    fn drop_user(&mut self, vcpu: usize, block: u32) {
        if let Some(entry) = self.blocks.get_mut(&block) {
            entry.users.remove(&vcpu);
        }
        self.forget_if_released(block);
    }

    fn forget_if_released(&mut self, block: u32) {
        let released = |b: &Block| b.phase == BlockPhase::AskedBack && b.users.is_empty();
        if self.blocks.get(&block).is_some_and(released)
            && let Some(entry) = self.blocks.remove(&block)
            && entry.withdrawn
        {
            self.offer(block, entry.volatile);
        }
    }

    fn acknowledge(&mut self, vcpu: usize, word: u64) -> Result<(), DeviceError> {
        let (event, block) = decode_event(word);
        if self.vcpus[vcpu].events.contains(&word) {
            return Err(DeviceError::BadValue);
        }
        let entry = self
            .blocks
            .get_mut(&block)
            .filter(|b| b.users.contains(&vcpu));
        let entry = entry.ok_or(DeviceError::BadValue)?;
        match event {
            event::OFFERED | event::OFFERED_VOLATILE => {
                if entry.phase == BlockPhase::Offered {
                    entry.phase = BlockPhase::InUse;
                }
            }
            event::ASKED_BACK | event::GONE if entry.phase == BlockPhase::AskedBack => {
                self.drop_user(vcpu, block);
            }
            _ => return Err(DeviceError::BadValue),
        }
        Ok(())
    }
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
    /// [`wake`](Self::wake) is called and `cancelled` then returns true.
    pub fn wait_released(
        &self,
        block: u32,
        deadline: Instant,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<(), NotReleased> {
        let since = Instant::now();
        let mut state = self.lock();
        while let Some(entry) = state.blocks.get(&block) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || cancelled() {
                let users = entry.users.iter().copied().collect();
                return Err(NotReleased {
                    block,
                    after: since.elapsed(),
                    users,
                });
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// Lets every thread in [`wait_released`](Self::wait_released) look whether it
    /// is cancelled.
    pub fn wake(&self) {
        drop(self.lock());
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

#[cfg(test)]
mod tests {
    use super::*;
    use gracefault_guest::abi::BANK;

    fn next(controller: &HotplugController, vcpu: u64) -> (u32, u32) {
        let mut data = [0; 8];
        controller
            .read(vcpu * BANK + regs::EVENT, &mut data)
            .unwrap();
        decode_event(u64::from_le_bytes(data))
    }

    fn write(c: &HotplugController, vcpu: u64, reg: u64, word: u64) -> Result<(), DeviceError> {
        c.write(vcpu * BANK + reg, &word.to_le_bytes())
    }

    fn ack(c: &HotplugController, vcpu: u64, event: u32, block: u32) {
        write(c, vcpu, regs::ACK, encode_event(event, block)).unwrap();
    }

    #[test]
    fn a_block_is_released_when_its_last_user_has_acknowledged() {
        let c = HotplugController::new(2);
        write(&c, 0, regs::JOIN, 1).unwrap();
        c.offer(7, false);
        assert_eq!(next(&c, 0), (event::OFFERED, 7));
        assert_eq!((next(&c, 0), next(&c, 1)), ((0, 0), (0, 0)));
        assert_eq!(c.phase(7), BlockPhase::Offered);
        ack(&c, 0, event::OFFERED, 7);
        assert_eq!(c.phase(7), BlockPhase::InUse);
        // Who joins late is told what is there.
        write(&c, 1, regs::JOIN, 1).unwrap();
        c.ask_back(7);
        c.ask_back(7);
        assert_eq!(next(&c, 0), (event::ASKED_BACK, 7));
        assert_eq!(next(&c, 0), (0, 0));
        ack(&c, 0, event::ASKED_BACK, 7);
        assert_eq!(c.phase(7), BlockPhase::AskedBack);
        let error = c.wait_released(7, Instant::now(), &|| false).unwrap_err();
        assert_eq!(error.users, [1]);
        assert_eq!(
            (next(&c, 1), next(&c, 1)),
            ((event::OFFERED, 7), (event::ASKED_BACK, 7))
        );
        ack(&c, 1, event::OFFERED, 7);
        ack(&c, 1, event::ASKED_BACK, 7);
        assert_eq!(c.phase(7), BlockPhase::Released);
        c.wait_released(7, Instant::now(), &|| false).unwrap();
    }

    #[test]
    fn a_request_that_is_withdrawn_leaves_the_block_with_the_guest() {
        let c = HotplugController::new(2);
        for vcpu in [0, 1] {
            write(&c, vcpu, regs::JOIN, 1).unwrap();
        }
        let take = |vcpu| {
            assert_eq!(next(&c, vcpu), (event::OFFERED, 1));
            ack(&c, vcpu, event::OFFERED, 1);
        };
        let give = |vcpu| {
            assert_eq!(next(&c, vcpu), (event::ASKED_BACK, 1));
            ack(&c, vcpu, event::ASKED_BACK, 1);
        };
        c.offer(1, false);
        take(0);
        take(1);
        c.ask_back(1);
        give(0);
        c.withdraw(1, false);
        assert_eq!((c.phase(1), next(&c, 0)), (BlockPhase::AskedBack, (0, 0)));
        give(1);
        assert_eq!(c.phase(1), BlockPhase::Offered);
        take(0);
        take(1);
        // Asked again, it is really given back; and withdrawn too late, offered.
        c.ask_back(1);
        c.withdraw(1, false);
        c.ask_back(1);
        give(0);
        give(1);
        assert_eq!(c.phase(1), BlockPhase::Released);
        c.withdraw(1, false);
        take(0);
        take(1);
        // Gone is gone.
        c.ask_back(1);
        c.withdraw(1, false);
        c.gone(1);
        give(0);
        give(1);
        assert_eq!((c.phase(1), next(&c, 0)), (BlockPhase::Released, (0, 0)));
    }

    #[test]
    fn leaving_releases_and_an_unused_block_is_released_at_once() {
        let c = HotplugController::new(1);
        c.offer(1, false);
        c.ask_back(1);
        assert_eq!(c.phase(1), BlockPhase::Released);
        write(&c, 0, regs::JOIN, 1).unwrap();
        c.offer(2, true);
        c.gone(2);
        assert_eq!(c.phase(2), BlockPhase::AskedBack);
        write(&c, 0, regs::JOIN, 0).unwrap();
        assert_eq!(c.phase(2), BlockPhase::Released);
        assert_eq!(next(&c, 0), (0, 0));
    }

    #[test]
    fn refuses_what_was_not_asked() {
        let c = HotplugController::new(1);
        write(&c, 0, regs::JOIN, 1).unwrap();
        c.offer(3, false);
        for (event, block) in [(event::ASKED_BACK, 3), (event::OFFERED, 4), (9, 3)] {
            let word = encode_event(event, block);
            assert_eq!(write(&c, 0, regs::ACK, word), Err(DeviceError::BadValue));
        }
        assert_eq!(write(&c, 0, regs::JOIN, 2), Err(DeviceError::BadValue));
        assert_eq!(write(&c, 0, regs::ACK + 8, 0), Err(DeviceError::NoRegister));
        assert_eq!(c.read(regs::ACK, &mut [0; 8]), Err(DeviceError::NoRegister));
        assert_eq!(write(&c, 1, regs::JOIN, 1), Err(DeviceError::NoRegister));
    }

    #[test]
    fn what_was_not_read_cannot_be_acknowledged_so_no_queue_grows() {
        let c = HotplugController::new(1);
        write(&c, 0, regs::JOIN, 1).unwrap();
        c.offer(1, false);
        c.ask_back(1);
        for event in [event::OFFERED, event::ASKED_BACK] {
            let word = encode_event(event, 1);
            assert_eq!(write(&c, 0, regs::ACK, word), Err(DeviceError::BadValue));
        }
        assert_eq!(c.phase(1), BlockPhase::AskedBack);
        assert_eq!(
            (next(&c, 0), next(&c, 0)),
            ((event::OFFERED, 1), (event::ASKED_BACK, 1))
        );
        ack(&c, 0, event::ASKED_BACK, 1);
        assert_eq!(c.phase(1), BlockPhase::Released);
    }

    #[test]
    fn a_waiter_is_woken_by_the_release_and_by_a_cancel() {
        let c = HotplugController::new(1);
        write(&c, 0, regs::JOIN, 1).unwrap();
        c.offer(1, false);
        c.ask_back(1);
        assert_eq!(
            (next(&c, 0), next(&c, 0)),
            ((event::OFFERED, 1), (event::ASKED_BACK, 1))
        );
        let far = Instant::now() + Duration::from_secs(600);
        let cancelled = std::sync::atomic::AtomicBool::new(false);
        let is_cancelled = || cancelled.load(std::sync::atomic::Ordering::Relaxed);
        std::thread::scope(|s| {
            let waiter = s.spawn(|| c.wait_released(1, far, &is_cancelled));
            cancelled.store(true, std::sync::atomic::Ordering::Relaxed);
            c.wake();
            assert!(waiter.join().unwrap().is_err());
            let waiter = s.spawn(|| c.wait_released(1, far, &|| false));
            ack(&c, 0, event::ASKED_BACK, 1);
            waiter.join().unwrap().unwrap();
        });
    }
}
