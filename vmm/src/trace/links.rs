//! Which write section a wait was for, and what stands behind a VMA.

use std::collections::BTreeMap;

use super::event::{Event, Exit, Section, Space, What};
use super::{ExitKind, TraceFile};
use crate::memory::Served;

/// The write sections of a trace, by their numbers, and the names of its VMAs.
#[derive(Debug)]
pub struct Links<'a> {
    trace: &'a TraceFile,
    /// With the thread that opened it.
    sections: BTreeMap<(Space, u64), (usize, Section)>,
    /// When a drain let in who waited for this number.
    rounds: BTreeMap<(Space, u64), (usize, u64)>,
    names: BTreeMap<(Space, u64), &'a str>,
}

/// What ended a wait.
#[derive(Clone, Copy, Debug)]
pub struct Release<'a> {
    /// The thread that did; its place in [`TraceFile::threads`].
    pub thread: usize,
    /// The section; not known if only the end of a round of its drain was recorded.
    pub section: Option<&'a Section>,
    /// When.
    pub at: u64,
    /// Whether it was published then. If not, it let in who waited, and went on or
    /// was given up.
    pub published: bool,
}

impl<'a> Links<'a> {
    /// Of all of `trace`.
    pub fn new(trace: &'a TraceFile) -> Self {
        let mut sections = BTreeMap::new();
        let mut rounds = BTreeMap::new();
        for (n, thread) in trace.threads.iter().enumerate() {
            for event in &thread.events {
                match event {
                    Event::Section(s) => {
                        sections.insert((s.space, s.number), (n, *s));
                    }
                    Event::Round(round) => {
                        rounds.insert((round.space, round.section), (n, round.at));
                    }
                    Event::Exit(_) | Event::Change(_) => {}
                }
            }
        }
        let named = trace.meta.map.iter();
        let names = named
            .map(|vma| ((space_named(&vma.space), vma.start), &*vma.name))
            .collect();
        Self {
            trace,
            sections,
            rounds,
            names,
        }
    }

    /// The section with that number among its own.
    pub fn section(&self, space: Space, number: u64) -> Option<(usize, &Section)> {
        let before = self.sections.range(..=(space, number)).next_back();
        let ((of, _), (thread, section)) = before?;
        (*of == space && section.has_number(number)).then_some((*thread, section))
    }

    /// What ended the wait of an exit, if the trace has it.
    pub fn release(&self, exit: &Exit) -> Option<Release<'_>> {
        let number = exit.wait?.section;
        let space = space_of(exit.kind);
        let section = self.section(space, number);
        if let Some((thread, at)) = self.rounds.get(&(space, number)) {
            return Some(Release {
                thread: *thread,
                section: section.map(|(_, section)| section),
                at: *at,
                published: false,
            });
        }
        let (thread, section) = section?;
        // Its earlier numbers ended with rounds, which were lost.
        (number == section.last_number()).then_some(Release {
            thread,
            section: Some(section),
            at: section.ended,
            published: section.published,
        })
    }

    /// All sections in the order of their ends, with their threads.
    pub fn sections(&self) -> Vec<(usize, &Section)> {
        let mut all: Vec<_> = self.sections.values().map(|(n, s)| (*n, s)).collect();
        all.sort_by_key(|(_, section)| section.ended);
        all
    }

    /// What stands behind the VMA that begins at `start`.
    pub fn name(&self, space: Space, start: u64) -> String {
        if let Some(name) = self.names.get(&(space, start)) {
            return (*name).to_owned();
        }
        match self.block(space, start) {
            Some(block) => format!("block {block}"),
            None => "ram".to_owned(),
        }
    }

    /// The block that `addr` lies in.
    pub fn block(&self, space: Space, addr: u64) -> Option<u64> {
        let region = self.trace.meta.machine.hotplug?;
        let block = addr.checked_sub(region.start)?.checked_div(region.block)?;
        (space == Space::Memory && block < u64::from(region.blocks)).then_some(block)
    }

    /// Who answered an exit.
    pub fn answered(&self, exit: &Exit) -> String {
        let name = |start: Option<u64>| {
            start.map_or(String::new(), |start| self.name(space_of(exit.kind), start))
        };
        match exit.served {
            None => String::new(),
            Some(Served::Unmapped) => "unmapped".to_owned(),
            Some(Served::RomWrite) => "rom".to_owned(),
            Some(Served::Memory | Served::Device) => name(exit.vma),
            Some(Served::DeviceFailed) => name(exit.vma) + " (failed)",
        }
    }
}

/// The space that exits of a kind look up in.
pub fn space_of(kind: ExitKind) -> Space {
    match kind {
        ExitKind::PioIn | ExitKind::PioOut => Space::Ports,
        _ => Space::Memory,
    }
}

/// The space of that name in a file's description.
pub fn space_named(name: &str) -> Space {
    if name == "ports" {
        Space::Ports
    } else {
        Space::Memory
    }
}

impl What {
    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Map => "map",
            Self::Unmap => "unmap",
            Self::Change => "change",
            Self::Nothing => "nothing",
        }
    }
}

impl Space {
    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Ports => "ports",
        }
    }
}
