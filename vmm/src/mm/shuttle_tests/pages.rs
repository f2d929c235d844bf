//! A space of a few pages, and who may be in which of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::{Drained, Payload, Vma, VmaReadGuard};
use super::*;

/// Addresses in a page.
pub(super) const PAGE: u64 = 10;
/// Pages that are mapped at times. The first two are so always, and have the same
/// flags, whatever VMAs they lie in.
pub(super) const PAGES: u64 = 7;
pub(super) const ALWAYS: u64 = 2;

pub(super) const RAM: VmFlags = VmFlags::READ;
pub(super) const ROM: VmFlags = VmFlags::EXEC;

/// A payload that is the same as another from the same mapping, and counts its
/// copies.
#[derive(Clone, Debug)]
pub(super) struct Part(pub(super) u64, Arc<()>);

impl Payload for Part {
    fn same(&self, other: &Self) -> bool {
        self.0 == other.0 && Arc::ptr_eq(&self.1, &other.1)
    }
}

/// The pages `first` up to `end`.
pub(super) fn pages(first: u64, end: u64) -> AddrRange {
    range(first * PAGE, (end - first) * PAGE)
}

/// A map, and how often each page of it has been changed. A page is changed between
/// the drain of its VMA and the publishing: while somebody holds it, never.
pub(super) struct Pages {
    pub(super) mm: Arc<AddressSpace<Part>>,
    changes: Vec<AtomicU64>,
    alive: Arc<()>,
}

impl Pages {
    pub(super) fn new(strategy: Strategy, seq: u64, pace: Pace) -> Self {
        let whole = pages(0, 2 * PAGES);
        let mm = AddressSpace::starting_at("model", whole, strategy, seq, pace);
        let this = Self {
            mm: Arc::new(mm),
            changes: (0..whole.len().unwrap())
                .map(|_| AtomicU64::new(0))
                .collect(),
            alive: Arc::new(()),
        };
        let mut section = this.mm.mmap_write_lock().unwrap();
        section.map(pages(0, 4), RAM, 0, this.part(1)).unwrap();
        section
            .map(pages(4, 5), ROM, 4 * PAGE, this.part(1))
            .unwrap();
        section.map(pages(6, 7), RAM, 0, this.part(2)).unwrap();
        section.lock().unwrap().publish();
        this
    }

    pub(super) fn part(&self, number: u64) -> Part {
        Part(number, self.alive.clone())
    }

    /// Notes that all that `drained` has locked is changed now.
    pub(super) fn change(&self, drained: &Drained<'_, Part>) {
        for range in drained.write_set() {
            for addr in range.start()..=range.last() {
                self.changes[addr as usize].fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// What is held, to be looked at again.
    pub(super) fn look(&self, addr: u64, vma: &Vma<Part>) -> Look {
        assert!(vma.range().contains(addr));
        let (start, last) = (vma.range().start() as usize, vma.range().last() as usize);
        let changes = self.changes[start..=last].iter();
        Look {
            addr,
            generation: vma.generation(),
            flags: vma.flags(),
            number: vma.payload().0,
            changes: changes.map(|count| count.load(Ordering::Relaxed)).collect(),
        }
    }

    /// All threads are gone, so that nobody is waited for and nothing is kept.
    pub(super) fn end(self) {
        let done = self.mm.unmap(pages(0, 2 * PAGES), None).unwrap();
        assert_eq!(done.drain.holders, []);
        assert_eq!(self.mm.core.retired(), 0, "nothing is left to free");
        drop(done);
        assert_eq!(Arc::strong_count(&self.alive), 1, "nothing leaked");
    }
}

/// What somebody who holds a VMA saw of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) addr: u64,
    generation: u64,
    pub(super) flags: VmFlags,
    number: u64,
    changes: Vec<u64>,
}

/// A guard and what it showed when it was new.
pub(super) struct Held<'a> {
    pub(super) guard: VmaReadGuard<'a, Part>,
    pub(super) look: Look,
}

impl<'a> Held<'a> {
    pub(super) fn new(pages: &Pages, addr: u64, guard: VmaReadGuard<'a, Part>) -> Self {
        let look = pages.look(addr, &guard);
        Self { guard, look }
    }

    /// It is what it was.
    pub(super) fn check(&self, pages: &Pages) {
        assert_eq!(pages.look(self.look.addr, &self.guard), self.look);
    }
}
