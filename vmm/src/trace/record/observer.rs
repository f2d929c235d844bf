//! The write sections of a space, recorded by the threads that open them.

use std::sync::Arc;

use super::super::event::{Change, Event, Round, Section, Space, What};
use super::EventSet;
use super::threads::{Shared, put};
use crate::clock;
use crate::mm::{Observer, SectionSeen, VmaInfo};

/// Records the write sections of one space.
#[derive(Debug)]
pub struct SpaceObserver {
    shared: Arc<Shared>,
    space: Space,
}

impl SpaceObserver {
    pub(super) fn new(shared: Arc<Shared>, space: Space) -> Self {
        Self { shared, space }
    }

    fn wants_sections(&self) -> bool {
        self.shared.wants(EventSet::SECTIONS.bits())
    }

    fn change(&self, section: &SectionSeen<'_>, vma: &VmaInfo, added: bool) -> Event {
        Event::Change(Change {
            space: self.space,
            added,
            flags: vma.flags.bits(),
            section: section.number,
            at: section.ended,
            start: vma.range.start(),
            last: vma.range.last(),
            offset: vma.offset,
            generation: vma.generation,
        })
    }
}

impl Observer for SpaceObserver {
    fn now(&self) -> u64 {
        clock::ticks()
    }

    fn section(&self, seen: &SectionSeen<'_>) {
        if !self.wants_sections() {
            return;
        }
        let all = || seen.removed.iter().chain(seen.added);
        let section = Section {
            space: self.space,
            what: what(seen),
            published: seen.published,
            rounds: u16::try_from(seen.rounds).unwrap_or(u16::MAX),
            holders: u16::try_from(seen.holders).unwrap_or(u16::MAX),
            number: seen.number,
            opened: seen.opened,
            planned: seen.planned,
            drained: seen.drained,
            applied: seen.applied,
            ended: seen.ended,
            start: all().map(|vma| vma.range.start()).min().unwrap_or(0),
            last: all().map(|vma| vma.range.last()).max().unwrap_or(0),
            added: seen.added.len() as u32,
            removed: seen.removed.len() as u32,
        };
        let removed = seen.removed.iter().map(|vma| self.change(seen, vma, false));
        let added = seen.added.iter().map(|vma| self.change(seen, vma, true));
        let section = std::iter::once(Event::Section(section));
        put(&self.shared, section.chain(removed).chain(added));
    }

    fn round(&self, seq: u64, at: u64) {
        if self.wants_sections() {
            let space = self.space;
            let section = seq;
            let round = Event::Round(Round { space, section, at });
            put(&self.shared, std::iter::once(round));
        }
    }
}

/// What a section did, by what it left.
pub(crate) fn what(seen: &SectionSeen<'_>) -> What {
    let is_part = |vma: &VmaInfo| {
        let mut removed = seen.removed.iter();
        removed.any(|old| old.range.covers(vma.range) && old.flags == vma.flags)
    };
    let pages = |vmas: &[VmaInfo]| -> u128 {
        let len = |vma: &VmaInfo| u128::from(vma.range.last() - vma.range.start()) + 1;
        vmas.iter().map(len).sum()
    };
    match (seen.removed, seen.added) {
        ([], []) => What::Nothing,
        ([], _) => What::Map,
        (removed, added) if added.iter().all(is_part) && pages(added) < pages(removed) => {
            What::Unmap
        }
        _ => What::Change,
    }
}
