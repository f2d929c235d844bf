//! The ring between a thread that records and the one that writes the file.
//!
//! One producer, one consumer, and nothing that either waits for. A record is ten
//! relaxed stores, then one release of the count; what the consumer acquires with the
//! count it may read.
//!
//! In a ring that overwrites, the producer does not look where the consumer is. Before
//! the words of record `n` there is a release fence, after the store that says that `n`
//! records are there: so a consumer that has read any word of record `n` where it
//! expected record `n - capacity` sees, after an acquire fence, a count of at least
//! `n`, and throws away what it read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use super::super::event::{WORDS, Words};
use super::OnFull;

/// Whose ring it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// The thread's id, as the kernel has it.
    pub tid: u32,
    /// The thread's name; at most 15 bytes.
    pub name: String,
    /// The vCPU that it runs.
    pub vcpu: Option<u32>,
}

/// What the producer stores to and what it needs for that are on the same line.
#[derive(Debug)]
#[repr(C, align(128))]
pub(super) struct Ring {
    made: Made,
    words: Box<[AtomicU64]>,
    on_full: OnFull,
    taken: Taken,
}

/// What the producer stores to.
#[derive(Debug, Default)]
struct Made {
    /// Records that were put in.
    head: AtomicU64,
    /// Records that were not, since the ring was full.
    dropped: AtomicU64,
    /// Nothing more will come.
    closed: AtomicBool,
}

/// What the consumer stores to.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Taken {
    /// Records that were taken out, or given up as overwritten.
    tail: AtomicU64,
}

/// The end that records are put in at. Closes the ring when dropped.
#[derive(Debug)]
pub(super) struct Producer {
    ring: Arc<Ring>,
    head: u64,
    /// Where the consumer was when last looked.
    tail: u64,
}

/// The end that they are taken out at.
#[derive(Debug)]
pub(super) struct Consumer {
    ring: Arc<Ring>,
    tail: u64,
    overwritten: u64,
}

/// A ring of `records`, a power of two.
pub(super) fn ring(records: usize, on_full: OnFull) -> (Producer, Consumer) {
    assert!(records.is_power_of_two(), "{records} records");
    let words = (0..records * WORDS).map(|_| AtomicU64::new(0)).collect();
    let ring = Arc::new(Ring {
        words,
        on_full,
        made: Made::default(),
        taken: Taken::default(),
    });
    let producer = Producer {
        ring: ring.clone(),
        head: 0,
        tail: 0,
    };
    let consumer = Consumer {
        ring,
        tail: 0,
        overwritten: 0,
    };
    (producer, consumer)
}

impl Ring {
    fn capacity(&self) -> u64 {
        (self.words.len() / WORDS) as u64
    }

    #[inline(always)]
    fn record(&self, index: u64) -> &[AtomicU64] {
        let at = (index & (self.capacity() - 1)) as usize * WORDS;
        &self.words[at..at + WORDS]
    }
}

impl Producer {
    /// Puts a record in, or counts it as lost. Never blocks.
    #[inline]
    pub(super) fn put(&mut self, words: &Words) {
        let full = self.head.wrapping_sub(self.tail) >= self.ring.capacity();
        if full && !self.has_room() {
            return;
        }
        let ring = &*self.ring;
        // Orders the count of before with the words: see the module.
        fence(Ordering::Release);
        for (cell, word) in ring.record(self.head).iter().zip(words) {
            cell.store(*word, Ordering::Relaxed);
        }
        self.head += 1;
        ring.made.head.store(self.head, Ordering::Release);
    }

    #[cold]
    fn has_room(&mut self) -> bool {
        let ring = &*self.ring;
        if ring.on_full == OnFull::Overwrite {
            // As if all had been taken: another look only when a lap is over.
            self.tail = self.head;
            return true;
        }
        self.tail = ring.taken.tail.load(Ordering::Acquire);
        let full = self.head.wrapping_sub(self.tail) >= ring.capacity();
        if full {
            let dropped = ring.made.dropped.load(Ordering::Relaxed);
            ring.made.dropped.store(dropped + 1, Ordering::Relaxed);
        }
        !full
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.ring.made.closed.store(true, Ordering::Release);
    }
}

impl Consumer {
    /// Takes out up to `most` records, as little-endian bytes at the end of `out`;
    /// how many that was.
    pub(super) fn take(&mut self, most: u64, out: &mut Vec<u8>) -> u64 {
        let ring = &*self.ring;
        let capacity = ring.capacity();
        let head = ring.made.head.load(Ordering::Acquire);
        if head.wrapping_sub(self.tail) > capacity {
            self.give_up_to(head - capacity);
        }
        let from = self.tail;
        let until = head.min(from + most);
        let begin = out.len();
        for index in from..until {
            for cell in self.ring.record(index) {
                out.extend_from_slice(&cell.load(Ordering::Relaxed).to_le_bytes());
            }
        }
        let mut lost = 0;
        if self.ring.on_full == OnFull::Overwrite {
            fence(Ordering::Acquire);
            let head = self.ring.made.head.load(Ordering::Relaxed);
            // Record `head` may be half there, where record `head - capacity` was.
            let first_whole = (head + 1).saturating_sub(capacity);
            lost = first_whole.clamp(from, until) - from;
            out.drain(begin..begin + (lost as usize * WORDS * 8));
            self.overwritten += lost;
        }
        self.tail = until;
        self.ring.taken.tail.store(until, Ordering::Release);
        until - from - lost
    }

    fn give_up_to(&mut self, index: u64) {
        self.overwritten += index - self.tail;
        self.tail = index;
    }

    /// Records that were lost so far.
    pub(super) fn lost(&self) -> u64 {
        self.overwritten + self.ring.made.dropped.load(Ordering::Relaxed)
    }

    /// Whether nothing more will come. What was put in before is still to be taken.
    pub(super) fn is_closed(&self) -> bool {
        self.ring.made.closed.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record each word of which says which it is.
    fn words(n: u64) -> Words {
        std::array::from_fn(|i| n * WORDS as u64 + i as u64)
    }

    fn numbers(bytes: &[u8]) -> Vec<u64> {
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
        let record = |bytes: &[u8]| {
            let read: Vec<u64> = bytes.chunks_exact(8).map(word).collect();
            let n = read[0] / WORDS as u64;
            assert_eq!(read, words(n), "a record is whole");
            n
        };
        bytes.chunks_exact(WORDS * 8).map(record).collect()
    }

    #[test]
    fn full_drops_the_new_and_counts() {
        let (mut put, mut take) = ring(8, OnFull::Drop);
        (0..11).for_each(|n| put.put(&words(n)));
        assert_eq!(take.lost(), 3);
        let mut out = Vec::new();
        assert_eq!(take.take(5, &mut out), 5);
        put.put(&words(11));
        assert_eq!(take.take(100, &mut out), 4);
        assert_eq!(numbers(&out), [0, 1, 2, 3, 4, 5, 6, 7, 11]);
        assert_eq!((take.lost(), take.take(100, &mut out)), (3, 0));
        assert!(!take.is_closed());
        drop(put);
        assert!(take.is_closed());
    }

    #[test]
    fn full_overwrites_the_old_and_counts() {
        let (mut put, mut take) = ring(8, OnFull::Overwrite);
        (0..21).for_each(|n| put.put(&words(n)));
        let mut out = Vec::new();
        // The eighth from the end may be the one that is being overwritten.
        assert_eq!(take.take(100, &mut out), 7);
        assert_eq!(numbers(&out), [14, 15, 16, 17, 18, 19, 20]);
        assert_eq!(take.lost(), 14);
        put.put(&words(21));
        out.clear();
        assert_eq!(take.take(100, &mut out), 1);
        assert_eq!((numbers(&out), take.lost()), (vec![21], 14));
    }

    /// Whatever the threads do, each record comes whole, in order, once, or is counted.
    #[test]
    fn nothing_is_lost_uncounted() {
        const RECORDS: u64 = 300_000;
        for on_full in [OnFull::Drop, OnFull::Overwrite] {
            let (mut put, mut take) = ring(64, on_full);
            let mut all = Vec::new();
            std::thread::scope(|scope| {
                scope.spawn(move || (0..RECORDS).for_each(|n| put.put(&words(n))));
                loop {
                    let over = take.is_closed();
                    let mut out = Vec::new();
                    let some = take.take(48, &mut out);
                    assert_eq!(out.len() as u64, some * 8 * WORDS as u64);
                    all.extend(numbers(&out));
                    if over && some == 0 {
                        break;
                    }
                }
            });
            assert!(all.is_sorted_by(|a, b| a < b));
            assert_eq!(all.len() as u64 + take.lost(), RECORDS, "{on_full:?}");
            assert!(!all.is_empty());
        }
    }
}
