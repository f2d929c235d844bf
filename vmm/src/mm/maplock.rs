//! The map lock (`mmap_lock`): one writer, or any number of readers of the map.
//!
//! One word while nobody has to wait, a queue behind a mutex when somebody does. It is
//! fair by phases: who wants to read in turn waits behind a writer that waits, and
//! when a writer is done, all readers that wait get the lock before the next writer.
//! So a reader waits for one write section, and readers that come without rest do not
//! keep a writer out.

use super::WriteError;
use super::local;
use super::sync::atomic::{AtomicU64, Ordering};
use super::sync::{Condvar, Mutex, MutexGuard, lock, wait_ignoring_poison};

/// A writer has it.
const WRITTEN: u64 = 1 << 63;
/// Somebody waits: who gives it back has to look at the queue. Set and cleared with
/// the queue's mutex held. The bits below count the readers.
const QUEUED: u64 = 1 << 62;

/// Serialises writers. No native lookup takes it.
#[derive(Debug)]
pub(super) struct MapLock {
    word: AtomicU64,
    queue: Mutex<Queue>,
    changed: Condvar,
    /// The token of the thread that has it for writing, 0 for none. A thread finds
    /// its own token here exactly while it has the lock, since nobody else writes
    /// that one; what it finds of others means nothing.
    owner: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    /// Readers that wait. Who ends a phase counts them into the word.
    readers: u64,
    writers: usize,
    /// How many writers have left readers to go in.
    phase: u64,
}

impl MapLock {
    pub(super) fn new() -> Self {
        Self {
            word: AtomicU64::new(0),
            queue: Mutex::new(Queue::default()),
            changed: Condvar::new(),
            owner: AtomicU64::new(0),
        }
    }

    /// Whether the calling thread has it for writing.
    pub(super) fn is_mine(&self) -> bool {
        self.owner.load(Ordering::Relaxed) == local::token()
    }

    /// Takes it for writing; an error if the thread has it so.
    pub(super) fn write(&self) -> Result<(), WriteError> {
        if self.is_mine() {
            return Err(WriteError::Nested);
        }
        if !self.change(0, WRITTEN) {
            self.write_in_queue();
        }
        self.owner.store(local::token(), Ordering::Relaxed);
        Ok(())
    }

    #[cold]
    fn write_in_queue(&self) {
        let mut queue = lock(&self.queue);
        queue.writers += 1;
        loop {
            let word = self.word.load(Ordering::Relaxed);
            if word & !QUEUED == 0 {
                if self.change(word, word | WRITTEN) {
                    break;
                }
            } else if self.change(word, word | QUEUED) {
                // Who has it now finds the queue when giving it back, and with it
                // this thread asleep.
                queue = wait_ignoring_poison(&self.changed, queue);
            }
        }
        queue.writers -= 1;
        self.settle(&queue);
    }

    pub(super) fn end_write(&self) {
        self.owner.store(0, Ordering::Relaxed);
        if self.change(WRITTEN, 0) {
            return;
        }
        // Nobody else changes a word that says both that it is written and that
        // somebody waits.
        let mut queue = lock(&self.queue);
        let readers = std::mem::take(&mut queue.readers);
        queue.phase = queue.phase.wrapping_add(1);
        let queued = if queue.writers > 0 { QUEUED } else { 0 };
        self.word.store(readers | queued, Ordering::Release);
        drop(queue);
        self.changed.notify_all();
    }

    /// Takes it for reading unless a writer has it; one that waits is overtaken, so
    /// that who has it for reading may take it once more.
    pub(super) fn read(&self) {
        if !self.try_read_past(WRITTEN) {
            self.read_in_queue(false);
        }
    }

    /// Takes it for reading, behind a writer that waits. Not for a thread that has it.
    pub(super) fn read_in_turn(&self) {
        if !self.try_read() {
            self.read_in_queue(true);
        }
    }

    /// Takes it for reading if no writer has it or waits.
    #[inline]
    pub(super) fn try_read(&self) -> bool {
        self.try_read_past(WRITTEN | QUEUED)
    }

    #[inline]
    fn try_read_past(&self, bars: u64) -> bool {
        let mut word = self.word.load(Ordering::Relaxed);
        while word & bars == 0 {
            match self
                .word
                .compare_exchange(word, word + 1, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => return true,
                Err(now) => word = now,
            }
        }
        false
    }

    #[cold]
    fn read_in_queue(&self, in_turn: bool) {
        let mut queue = lock(&self.queue);
        if !in_turn || queue.writers == 0 {
            loop {
                if self.try_read_past(WRITTEN) {
                    return self.settle(&queue);
                }
                let word = self.word.load(Ordering::Relaxed);
                if word & WRITTEN != 0 && self.change(word, word | QUEUED) {
                    break;
                }
            }
        }
        queue.readers += 1;
        let phase = queue.phase;
        while queue.phase == phase {
            queue = wait_ignoring_poison(&self.changed, queue);
        }
        // The writer that ended the phase has counted this thread in.
    }

    #[inline]
    pub(super) fn end_read(&self) {
        let mut word = self.word.load(Ordering::Relaxed);
        while word & QUEUED == 0 {
            match self
                .word
                .compare_exchange(word, word - 1, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(now) => word = now,
            }
        }
        self.end_read_in_queue();
    }

    #[cold]
    fn end_read_in_queue(&self) {
        let queue = lock(&self.queue);
        let left = self.word.fetch_sub(1, Ordering::Release) - 1;
        drop(queue);
        if left & !QUEUED == 0 {
            self.changed.notify_all();
        }
    }

    /// Whether a writer waits for it.
    #[cfg(all(test, not(loom)))]
    pub(super) fn keeps_a_writer_out(&self) -> bool {
        lock(&self.queue).writers > 0
    }

    /// Says that nobody waits, if so.
    fn settle(&self, queue: &MutexGuard<'_, Queue>) {
        if queue.readers == 0 && queue.writers == 0 {
            self.word.fetch_and(!QUEUED, Ordering::Relaxed);
        }
    }

    /// Takes it, gives it back, or says that somebody waits.
    #[inline]
    fn change(&self, from: u64, to: u64) -> bool {
        self.word
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }
}
