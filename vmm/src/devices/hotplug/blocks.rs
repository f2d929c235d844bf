//! What the guest and the VMM have agreed on, block by block.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use gracefault_guest::abi::{decode_event, encode_event, event};

use crate::memory::DeviceError;

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

#[derive(Debug)]
pub(super) struct Block {
    volatile: bool,
    pub(super) phase: BlockPhase,
    pub(super) users: BTreeSet<usize>,
    /// Asked back, but not wanted any more: offered anew once it is released.
    pub(super) withdrawn: bool,
}

#[derive(Debug, Default)]
pub(super) struct Mailbox {
    pub(super) joined: bool,
    pub(super) events: VecDeque<u64>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) vcpus: Vec<Mailbox>,
    /// Every block that is not [`BlockPhase::Released`].
    pub(super) blocks: BTreeMap<u32, Block>,
    /// How often those who wait were told to look whether they are cancelled.
    pub(super) wakes: u64,
}

impl State {
    fn tell(&mut self, vcpu: usize, event: u32, block: u32) {
        self.vcpus[vcpu]
            .events
            .push_back(encode_event(event, block));
    }

    pub(super) fn offer(&mut self, block: u32, volatile: bool) {
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

    pub(super) fn offer_to(&mut self, vcpu: usize, block: u32) {
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

    pub(super) fn tell_users(&mut self, block: u32, event: u32) {
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

    pub(super) fn drop_user(&mut self, vcpu: usize, block: u32) {
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

    pub(super) fn acknowledge(&mut self, vcpu: usize, word: u64) -> Result<(), DeviceError> {
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
