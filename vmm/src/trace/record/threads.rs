//! The threads that record: each has a ring, which the file's writer knows of from
//! the thread's first event on.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::event::{Event, Exit};
use super::super::{ExitKind, event};
use super::ring::{Consumer, Producer, Who, ring};
use super::{EventSet, OnFull, RecordingHandle, Written};

/// What the threads that record and the writer share.
#[derive(Debug)]
pub(super) struct Shared {
    /// Which events are recorded: none when it is off. Looked at for each.
    events: AtomicU32,
    ring: usize,
    on_full: OnFull,
    /// What the writer has written, and what it knows to be lost.
    written: AtomicU64,
    lost: AtomicU64,
    /// Rings that the writer has not taken over yet. Held for a push or a take only.
    new_rings: Mutex<Vec<(Who, Consumer)>>,
}

impl Shared {
    pub(super) fn new(events: EventSet, ring: usize, on_full: OnFull) -> Self {
        Self {
            events: AtomicU32::new(events.bits()),
            ring,
            on_full,
            written: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            new_rings: Mutex::default(),
        }
    }

    /// The writer's: how far it is.
    pub(super) fn tell(&self, so_far: Written) {
        self.written.store(so_far.events, Ordering::Relaxed);
        self.lost.store(so_far.lost, Ordering::Relaxed);
    }

    /// What the writer has written and lost so far.
    pub(super) fn so_far(&self) -> Written {
        Written {
            events: self.written.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
        }
    }

    #[inline(always)]
    pub(super) fn wants(&self, bit: u32) -> bool {
        self.events.load(Ordering::Relaxed) & bit != 0
    }

    /// Nothing is recorded any more, from about now on.
    pub(super) fn stop(&self) {
        self.events.store(0, Ordering::Relaxed);
    }

    /// Rings that have come since the last call.
    pub(super) fn take_new(&self) -> Vec<(Who, Consumer)> {
        std::mem::take(&mut *self.arrivals())
    }

    fn arrivals(&self) -> MutexGuard<'_, Vec<(Who, Consumer)>> {
        self.new_rings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A ring for the calling thread.
    fn join(&self, vcpu: Option<u32>) -> Producer {
        let (producer, consumer) = ring(self.ring, self.on_full);
        // SAFETY: no argument, and it cannot fail.
        let tid = unsafe { libc::gettid() } as u32;
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed").to_owned();
        self.arrivals().push((Who { tid, name, vcpu }, consumer));
        producer
    }
}

/// Records the exits of one vCPU, on its thread.
#[derive(Debug)]
pub struct VcpuRecorder {
    shared: Arc<Shared>,
    vcpu: u16,
    producer: Option<Producer>,
}

impl VcpuRecorder {
    pub(super) fn new(shared: Arc<Shared>, vcpu: u16) -> Self {
        Self {
            shared,
            vcpu,
            producer: None,
        }
    }

    /// Whether it records for this recording.
    pub fn is_of(&self, recording: &RecordingHandle) -> bool {
        Arc::ptr_eq(&self.shared, recording.shared())
    }

    /// Whether exits of this kind are recorded: one relaxed load.
    #[inline(always)]
    pub fn wants(&self, kind: ExitKind) -> bool {
        self.shared.wants(EventSet::bit(kind))
    }

    /// Records one. Never blocks, but for the first of a thread, which makes the ring.
    #[inline(always)]
    pub fn exit(&mut self, mut exit: Exit) {
        exit.vcpu = self.vcpu;
        let words = exit.encode();
        match &mut self.producer {
            Some(producer) => producer.put(&words),
            None => self.first(&words),
        }
    }

    #[cold]
    fn first(&mut self, words: &event::Words) {
        let mut producer = self.shared.join(Some(self.vcpu.into()));
        producer.put(words);
        self.producer = Some(producer);
    }
}

thread_local! {
    /// The rings of a thread that is none of a vCPU's: one for each recording that it
    /// has an event for.
    static MINE: RefCell<Vec<(Arc<Shared>, Producer)>> = const { RefCell::new(Vec::new()) };
}

/// Puts events into the calling thread's ring. They are lost, uncounted, if the thread
/// is past its destructors.
pub(super) fn put(shared: &Arc<Shared>, events: impl Iterator<Item = Event>) {
    let _ = MINE.try_with(|mine| {
        let mut mine = mine.borrow_mut();
        let at = match mine.iter().position(|(of, _)| Arc::ptr_eq(of, shared)) {
            Some(at) => at,
            None => {
                // Rings of recordings that are over.
                mine.retain(|(of, _)| Arc::strong_count(of) > 1);
                mine.push((shared.clone(), shared.join(None)));
                mine.len() - 1
            }
        };
        for event in events {
            mine[at].1.put(&event.encode());
        }
    });
}
