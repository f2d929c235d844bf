//! Memslots that go in when they are first missed, or when their owner says so, and
//! keep their id while they are out.
//!
//! The id is taken, and all that can be checked is, when the slot is made: a guest
//! cannot come upon memory for which KVM has no slot left. See
//! [`LazyRam`](crate::memory::LazyRam) for who puts it in, and when.
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::slots::{MemSlot, SlotAccess, SlotError};
use super::vm::Vm;
use crate::memory::{HostMemory, LazySlot, PAGE, PutInError};

/// A memslot with an id of its own that KVM hears of on demand. Dropping it takes
/// it out of the guest.
pub struct LazyMemSlot {
    vm: Vm,
    id: u32,
    gpa: u64,
    access: SlotAccess,
    memory: Arc<dyn HostMemory>,
    /// Never held across a lookup: whoever waits for it may hold the VMA. Across an
    /// ioctl it is.
    slot: Mutex<Option<MemSlot>>,
    /// Whether `slot` is there; saves the mutex those who come later.
    is_in: AtomicBool,
}

impl Vm {
    /// A slot for all of `memory` at `gpa`, read-write, which is not in yet. Does
    /// not block.
    ///
    /// # Errors
    /// See [`SlotError`]; above all [`SlotError::NoneLeft`].
    pub fn lazy_slot(
        &self,
        gpa: u64,
        memory: Arc<dyn HostMemory>,
    ) -> Result<LazyMemSlot, SlotError> {
        let id = self.reserve_slot(gpa, &*memory)?;
        Ok(LazyMemSlot {
            vm: self.clone(),
            id,
            gpa,
            access: SlotAccess::ReadWrite,
            memory,
            slot: Mutex::new(None),
            is_in: AtomicBool::new(false),
        })
    }
}

impl LazyMemSlot {
    /// The same, for other accesses than reading and writing.
    pub fn with_access(mut self, access: SlotAccess) -> Self {
        self.access = access;
        self
    }

    /// As [`MemSlot::take_dirty_pages`]: where the slot is not in, what the VMM has
    /// written.
    ///
    /// # Errors
    /// As there.
    pub fn take_dirty_pages(&self) -> Result<Vec<u64>, SlotError> {
        match &*self.lock() {
            Some(slot) => slot.take_dirty_pages(),
            None => {
                let mut pages = vec![0; self.memory.len().div_ceil(64 * PAGE) as usize];
                if let Some(tracked) = self.memory.dirty_pages() {
                    let tracked = tracked.get_and_reset();
                    pages
                        .iter_mut()
                        .zip(tracked)
                        .for_each(|(to, word)| *to = word);
                }
                Ok(pages)
            }
        }
    }

    /// As [`MemSlot::merge_dirty_pages`]: where the slot is not in, the guest has written
    /// nothing by itself.
    ///
    /// # Errors
    /// As there.
    pub fn merge_dirty_pages(&self) -> Result<(), SlotError> {
        match &*self.lock() {
            Some(slot) => slot.merge_dirty_pages(),
            None => Ok(()),
        }
    }

    /// KVM's number of it, which it has before it is in.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Puts it in, unless it is in already; `true` if this call did it. Blocks as
    /// [`Vm::add_slot`] does.
    ///
    /// # Errors
    /// See [`SlotError`]; it is not in then, and keeps its id.
    pub fn insert(&self) -> Result<bool, SlotError> {
        if self.is_in() {
            return Ok(false);
        }
        let mut slot = self.lock();
        if slot.is_some() {
            return Ok(false);
        }
        let memory = self.memory.clone();
        *slot = Some((self.vm).add_slot_as(self.id, self.gpa, memory, self.access)?);
        self.is_in.store(true, Ordering::Release);
        Ok(true)
    }

    /// Whether KVM has it.
    pub fn is_in(&self) -> bool {
        self.is_in.load(Ordering::Acquire)
    }

    /// Takes it out of the guest, if it is in; `true` if it was. When this returns,
    /// no vCPU reaches the memory by itself. It keeps its id, and may be put in
    /// again: so there is nothing to undo if what was to follow fails. Blocks as
    /// [`Vm::add_slot`] does.
    ///
    /// # Errors
    /// [`SlotError::Kvm`]; it is still in then.
    pub fn take_out(&self) -> Result<bool, SlotError> {
        let mut slot = self.lock();
        let Some(there) = slot.take() else {
            return Ok(false);
        };
        match there.remove_keeping_id() {
            Ok(()) => {
                self.is_in.store(false, Ordering::Release);
                Ok(true)
            }
            Err((there, error)) => {
                *slot = Some(there);
                Err(error)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<MemSlot>> {
        // Set in one step, at the end.
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LazySlot for LazyMemSlot {
    fn put_in(&self) -> Result<bool, PutInError> {
        self.insert().map_err(|error| {
            log::error!("{error}");
            PutInError {
                errno: error.errno(),
            }
        })
    }
}

impl Drop for LazyMemSlot {
    fn drop(&mut self) {
        // One that is in gives the id back itself, when KVM has forgotten it.
        if self.lock().is_none() {
            self.vm.inner.ids.give(self.id);
        }
    }
}

impl fmt::Debug for LazyMemSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LazyMemSlot")
            .field("id", &self.id)
            .field("gpa", &format_args!("{:#x}", self.gpa))
            .field("is_in", &self.is_in())
            .finish_non_exhaustive()
    }
}
