//! The write sections of a space, for those who look at a machine that runs; and, while
//! it is being recorded, for the recorder.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::clock;
use crate::mm::{AddrRange, Observer, SectionSeen};
use crate::trace::event::What;
use crate::trace::record::{SpaceObserver, what};

/// Sections that are remembered when they are over.
const LAST: usize = 64;
/// Ranges of a write set that are remembered.
const RANGES: usize = 16;

/// A thread of the VMM's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadName {
    /// Its name.
    pub name: String,
    /// As the kernel numbers it.
    pub tid: u32,
}

impl ThreadName {
    fn here() -> Self {
        let thread = std::thread::current();
        // SAFETY: no argument, and it cannot fail.
        let tid = unsafe { libc::gettid() } as u32;
        Self {
            name: thread.name().unwrap_or("unnamed").to_owned(),
            tid,
        }
    }
}

/// A section whose write set is locked. Times are in [ticks](clock::ticks).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SectionOpen {
    /// Its first number.
    pub number: u64,
    /// Whose it is.
    pub writer: ThreadName,
    /// When its write set was locked.
    pub since: u64,
    /// Whether its readers are gone.
    pub drained: bool,
    /// Its write set, as far as it is remembered: 16 ranges.
    pub ranges: Vec<AddrRange>,
}

/// A section that is over. Times are in [ticks](clock::ticks).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SectionOver {
    /// Its first number.
    pub number: u64,
    /// What it did; `None` if it was given up.
    pub what: Option<What>,
    /// From the first address that it concerned to the last.
    pub range: Option<AddrRange>,
    /// Whose it was.
    pub writer: ThreadName,
    /// When it ended.
    pub ended: u64,
    /// From having the map lock to its end.
    pub took: u64,
    /// Of that, waiting for readers.
    pub drain: u64,
    /// Readers that it waited for.
    pub holders: usize,
}

/// A look at the sections of a space.
#[derive(Clone, Debug, Default)]
pub struct SectionsSeen {
    /// That were published since somebody has watched.
    pub published: u64,
    /// That were given up.
    pub given_up: u64,
    /// The one whose write set is locked.
    pub open: Option<SectionOpen>,
    /// The last ones that are over, the newest first.
    pub last: Vec<SectionOver>,
}

/// Watches the sections of one space. Each section costs its writer a lock that nobody
/// holds for long, and a name; no reader of the map comes here.
#[derive(Debug, Default)]
pub struct Monitor {
    state: Mutex<State>,
    /// Who is told besides.
    recorder: Mutex<Option<Arc<SpaceObserver>>>,
}

#[derive(Debug, Default)]
struct State {
    published: u64,
    given_up: u64,
    open: Option<SectionOpen>,
    last: VecDeque<SectionOver>,
    /// When each VMA that is mapped came, by its first address: which section made it,
    /// and when that ended.
    births: BTreeMap<u64, (u64, u64)>,
}

impl Monitor {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under the lock can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recorder(&self) -> Option<Arc<SpaceObserver>> {
        let recorder = self.recorder.lock();
        recorder.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has `recorder` told besides, from the next section on, in place of the one
    /// before.
    pub(super) fn record(&self, recorder: Option<Arc<SpaceObserver>>) {
        let before = self.recorder.lock();
        *before.unwrap_or_else(PoisonError::into_inner) = recorder;
    }

    /// The sections so far.
    pub fn sections(&self) -> SectionsSeen {
        let state = self.state();
        SectionsSeen {
            published: state.published,
            given_up: state.given_up,
            open: state.open.clone(),
            last: state.last.iter().rev().cloned().collect(),
        }
    }

    /// When each of these VMAs, named by its first address and the section that made it,
    /// came to be, in [ticks](clock::ticks); `None` if nobody watched then.
    pub fn births(&self, vmas: impl Iterator<Item = (u64, u64)>) -> Vec<Option<u64>> {
        let state = self.state();
        let birth = |(start, section)| match state.births.get(&start) {
            Some((made_by, at)) if *made_by == section => Some(*at),
            _ => None,
        };
        vmas.map(birth).collect()
    }
}

impl Observer for Monitor {
    fn now(&self) -> u64 {
        clock::ticks()
    }

    fn locking(&self, number: u64, write_set: &[AddrRange]) {
        let open = SectionOpen {
            number,
            writer: ThreadName::here(),
            since: clock::ticks(),
            drained: false,
            ranges: write_set.iter().take(RANGES).copied().collect(),
        };
        self.state().open = Some(open);
    }

    fn drained(&self, _number: u64) {
        if let Some(open) = &mut self.state().open {
            open.drained = true;
        }
    }

    fn section(&self, seen: &SectionSeen<'_>) {
        let writer = ThreadName::here();
        let mut state = self.state();
        let state = &mut *state;
        let all = || seen.removed.iter().chain(seen.added);
        let first = all().map(|vma| vma.range.start()).min();
        let last = all().map(|vma| vma.range.last()).max();
        let count = match seen.published {
            true => &mut state.published,
            false => &mut state.given_up,
        };
        *count += 1;
        for vma in seen.removed {
            if let Some((section, _)) = state.births.get(&vma.range.start())
                && *section == vma.generation
            {
                state.births.remove(&vma.range.start());
            }
        }
        for vma in seen.added {
            let birth = (vma.generation, seen.ended);
            state.births.insert(vma.range.start(), birth);
        }
        state.open = None;
        if state.last.len() == LAST {
            state.last.pop_front();
        }
        state.last.push_back(SectionOver {
            number: seen.number,
            what: seen.published.then(|| what(seen)),
            range: first
                .zip(last)
                .and_then(|(f, l)| AddrRange::inclusive(f, l)),
            writer,
            ended: seen.ended,
            took: seen.ended.saturating_sub(seen.opened),
            drain: seen.drained.saturating_sub(seen.planned),
            holders: seen.holders,
        });
        if let Some(recorder) = self.recorder() {
            recorder.section(seen);
        }
    }

    fn round(&self, seq: u64, at: u64) {
        if let Some(recorder) = self.recorder() {
            recorder.round(seq, at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mm::{AddressSpace, Payload, VmFlags};

    #[derive(Clone)]
    struct Page;
    impl Payload for Page {}

    fn range(start: u64) -> AddrRange {
        AddrRange::new(start, 0x1000).unwrap()
    }

    fn watched() -> (AddressSpace<Page>, Arc<Monitor>) {
        let space = AddressSpace::new("watched", AddrRange::new(0, 1 << 20).unwrap());
        let monitor = Arc::new(Monitor::default());
        space.observe(monitor.clone()).unwrap();
        (space, monitor)
    }

    #[test]
    fn tells_what_was_changed_and_when_each_vma_came() {
        let (space, monitor) = watched();
        for n in 0..2 * LAST as u64 {
            space.map(range(n << 12), VmFlags::READ, 0, Page).unwrap();
        }
        space.unmap(range(0x1000), None).unwrap();
        let seen = monitor.sections();
        assert_eq!(
            (seen.published, seen.last.len()),
            (2 * LAST as u64 + 1, LAST)
        );
        assert_eq!(seen.last[0].what, Some(What::Unmap));
        assert_eq!(seen.last[1].what, Some(What::Map));
        assert_eq!(seen.last[0].range, Some(range(0x1000)));
        let vmas = space.vmas(space.range());
        let births = monitor.births(vmas.iter().map(|v| (v.range.start(), v.generation)));
        assert_eq!(births.len(), 2 * LAST - 1);
        assert!(
            births
                .windows(2)
                .all(|two| two[0] < two[1] && two[0].is_some())
        );
        // Another VMA at the same place is not the one before.
        assert_eq!(
            monitor.births([(0x1000, 3), (0, 99)].into_iter()),
            [None, None]
        );
        assert_eq!(monitor.state().births.len(), vmas.len());
    }

    #[test]
    fn an_open_section_has_a_writer_and_says_who_waits() {
        let (space, monitor) = watched();
        space.map(range(0x1000), VmFlags::READ, 0, Page).unwrap();
        assert_eq!(monitor.sections().open, None);
        let mut section = space.mmap_write_lock().unwrap();
        section.unmap(range(0x1000)).unwrap();
        let number = section.number();
        let drained = section.lock().unwrap();
        let open = monitor.sections().open.unwrap();
        assert_eq!((open.number, open.drained), (number, true));
        assert_eq!(open.ranges, [range(0x1000)]);
        assert_eq!(open.writer, ThreadName::here());
        assert_eq!(space.waiters(), []);
        std::thread::scope(|scope| {
            let waits = || space.lock_vma_under_rcu_wait(0x1234).unwrap().is_some();
            let reader = std::thread::Builder::new().name("reader".to_owned());
            let reader = reader.spawn_scoped(scope, waits).unwrap();
            let waiter = loop {
                match space.waiters().pop() {
                    Some(waiter) => break waiter,
                    None => std::thread::yield_now(),
                }
            };
            assert_eq!((&*waiter.thread, waiter.addr), ("reader", 0x1234));
            assert_eq!(waiter.section, number);
            drop(drained);
            assert!(reader.join().unwrap());
        });
        let seen = monitor.sections();
        assert_eq!((seen.open, seen.given_up), (None, 1));
        assert_eq!((seen.last[0].what, seen.last[0].range), (None, None));
        assert_eq!(space.waiters(), []);
    }
}
