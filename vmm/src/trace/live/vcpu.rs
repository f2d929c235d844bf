//! All that is counted of one vCPU.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::exits::{MAX_ROWS, MIN_ROWS};
use super::super::{ExitKey, ExitKind, VcpuTrace};
use super::doing::Words;
use super::rows::{Index, Rows};
use super::{LiveTimes, Now, add};
use crate::clock;
use crate::memory::{Access, Served};

/// What is counted of one vCPU, by its own thread only; to be read by any. What each exit
/// stores to comes first.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct LiveVcpu {
    words: Words,
    /// What its thread is told by others; the one word here that they store to.
    told: AtomicU64,
    counts: Counts,
    rows: Arc<Rows>,
    /// Rows before the rest is counted together.
    most: usize,
    waits: LiveTimes,
}

/// See [`VcpuTrace`].
#[derive(Debug, Default)]
#[repr(C)]
struct Counts {
    mmio_exits: AtomicU64,
    lookups_fast: AtomicU64,
    mmio_fragments: AtomicU64,
    unmapped: AtomicU64,
    unmapped_reads: AtomicU64,
    rom_writes: AtomicU64,
    device_failures: AtomicU64,
    lazy_slots: AtomicU64,
    lookups_none: AtomicU64,
}

impl LiveVcpu {
    /// Of one of `vcpus` vCPUs.
    pub fn for_one_of(vcpus: usize) -> Self {
        let most = (MAX_ROWS / vcpus.max(1)).max(MIN_ROWS);
        Self {
            words: Words::default(),
            told: AtomicU64::new(0),
            counts: Counts::default(),
            rows: Arc::new(Rows::new(most + ExitKind::ALL.len())),
            most,
            waits: LiveTimes::default(),
        }
    }

    /// What its thread is doing.
    pub fn now(&self) -> Now {
        self.words.now()
    }

    /// Its thread, as the kernel numbers it; 0 before it runs.
    pub fn tid(&self) -> u32 {
        self.words.tid()
    }

    /// Tells its thread something, by a number that is not the last one; it looks after each
    /// exit. Relaxed: the number carries nothing with it.
    pub fn tell(&self, number: u64) {
        self.told.store(number, Ordering::Relaxed);
    }

    /// What its thread was told last; 0 at first.
    #[inline(always)]
    pub fn told(&self) -> u64 {
        self.told.load(Ordering::Relaxed)
    }

    /// Its exits, by kind and address: from `KVM_RUN` returning to its next call.
    pub fn exits(&self) -> impl Iterator<Item = (ExitKey, &LiveTimes)> {
        self.rows.iter()
    }

    /// The sleeps of its lookups for the end of a write section.
    pub fn waits(&self) -> &LiveTimes {
        &self.waits
    }

    /// All that was counted by now.
    pub fn trace(&self) -> VcpuTrace {
        let mut trace = VcpuTrace {
            waits: self.waits.times(),
            ..self.counts()
        };
        for (key, times) in self.exits() {
            times.add_to(trace.exits.row(key));
        }
        trace
    }

    /// The same without the exits and the waits.
    pub fn counts(&self) -> VcpuTrace {
        let Counts {
            mmio_exits,
            mmio_fragments,
            unmapped,
            unmapped_reads,
            rom_writes,
            device_failures,
            lazy_slots,
            lookups_fast,
            lookups_none,
        } = &self.counts;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        VcpuTrace {
            mmio_exits: read(mmio_exits),
            mmio_fragments: read(mmio_fragments),
            unmapped: read(unmapped),
            unmapped_reads: read(unmapped_reads),
            rom_writes: read(rom_writes),
            device_failures: read(device_failures),
            lazy_slots: read(lazy_slots),
            lookups_fast: read(lookups_fast),
            lookups_none: read(lookups_none),
            ..VcpuTrace::default()
        }
    }
}

/// The vCPU's thread's own end of a [`LiveVcpu`].
#[derive(Debug)]
pub struct VcpuCounter {
    live: Arc<LiveVcpu>,
    index: Index,
}

impl VcpuCounter {
    /// The one for `live`, which has no other.
    pub fn new(live: Arc<LiveVcpu>) -> Self {
        let index = Index::new(live.rows.clone(), live.most);
        Self { live, index }
    }

    /// What it counts in.
    pub fn live(&self) -> &Arc<LiveVcpu> {
        &self.live
    }

    /// The vCPU's thread runs: the calling one.
    pub fn begin(&self) {
        // SAFETY: no argument, and it cannot fail.
        let tid = unsafe { libc::gettid() } as u32;
        self.live.words.begin(tid, clock::ticks());
    }

    /// `KVM_RUN` has returned at `since`, on [ticks](clock::ticks).
    #[inline(always)]
    pub fn enter(&self, kind: ExitKind, addr: u64, since: u64) {
        self.live.words.enter(kind, addr, since);
    }

    /// The exit is answered.
    #[inline(always)]
    pub fn leave(&self, at: u64) {
        self.live.words.leave(at);
    }

    /// It rests from now on.
    pub fn pause(&self) {
        self.live.words.pause(clock::ticks());
    }

    /// It has rested.
    pub fn go_on(&self) {
        self.live.words.leave(clock::ticks());
    }

    /// It has ended.
    pub fn end(&self) {
        self.live.words.end(clock::ticks());
    }

    /// Counts an exit by MMIO, or the second fragment of one.
    #[inline]
    pub fn mmio(&self, fragment: bool) {
        let counts = &self.live.counts;
        let count = match fragment {
            true => &counts.mmio_fragments,
            false => &counts.mmio_exits,
        };
        add(count, 1);
    }

    /// Counts memslots of lazy RAM that were missed and put in.
    pub fn lazy_slots(&self, slots: u64) {
        add(&self.live.counts.lazy_slots, slots);
    }

    /// Records an exit that was an access, and how many nanoseconds it took.
    #[inline(always)]
    pub fn access(&mut self, kind: ExitKind, addr: u64, access: &Access, ns: u64) {
        let usual = access.served == Served::Device && access.path.waited.is_none();
        if usual && access.slots == 0 {
            add(&self.live.counts.lookups_fast, 1);
        } else {
            self.unusual(kind, access);
        }
        self.index.record(ExitKey::new(kind, addr, access), ns);
    }

    /// Counts what may be said of an access that not simply went to a device.
    #[inline(never)]
    fn unusual(&self, kind: ExitKind, access: &Access) {
        let counts = &self.live.counts;
        match access.served {
            Served::Unmapped => {
                add(&counts.unmapped, 1);
                if kind == ExitKind::MmioRead {
                    add(&counts.unmapped_reads, 1);
                }
            }
            Served::RomWrite => add(&counts.rom_writes, 1),
            Served::DeviceFailed => add(&counts.device_failures, 1),
            Served::Memory | Served::Device => {}
        }
        add(&counts.lazy_slots, access.slots.into());
        match (&access.path.waited, access.vma) {
            (Some(waited), _) => {
                let ns = u64::try_from(waited.time.as_nanos()).unwrap_or(u64::MAX);
                self.live.waits.record_ns(ns);
            }
            (None, Some(_)) => add(&counts.lookups_fast, 1),
            (None, None) => add(&counts.lookups_none, 1),
        }
    }

    /// Records an exit that was none.
    pub fn other(&mut self, kind: ExitKind, ns: u64) {
        let key = ExitKey {
            kind,
            served: None,
            addr: 0,
        };
        self.index.record(key, ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device_at(addr: u64) -> Access {
        Access {
            served: Served::Device,
            vma: Some(addr & !0xfff),
            parts: 1,
            ..Access::default()
        }
    }

    #[test]
    fn a_guest_cannot_make_the_table_grow_without_end() {
        let mut counter = VcpuCounter::new(Arc::new(LiveVcpu::for_one_of(8)));
        let rows = MAX_ROWS / 8;
        let exits = 2 * rows as u64;
        for kind in [ExitKind::MmioRead, ExitKind::MmioWrite] {
            for addr in 0..exits {
                counter.access(kind, addr, &device_at(addr), 1);
            }
        }
        (0..3).for_each(|_| counter.other(ExitKind::Interrupted, 1));
        let trace = counter.live().trace();
        assert_eq!(trace.exits.len(), rows + 3);
        let count = |kind| {
            let row = trace.exits.get(&ExitKey::overflow(kind));
            row.unwrap().count()
        };
        assert_eq!(count(ExitKind::MmioRead), exits - rows as u64);
        assert_eq!(count(ExitKind::MmioWrite), exits);
        assert_eq!(count(ExitKind::Interrupted), 3);
        assert_eq!(trace.lookups_fast, 2 * exits);
        let counts = counter.live().exits().map(|(_, times)| times.count());
        assert_eq!(counts.sum::<u64>(), 2 * exits + 3);
        let mut sum = VcpuTrace::default();
        sum.add(&trace);
        sum.add(&trace);
        assert_eq!(sum.lookups_fast, 4 * exits);
        assert_eq!(sum.exits.count(), 2 * (2 * exits + 3));
    }
}
