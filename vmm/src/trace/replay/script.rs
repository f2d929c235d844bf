//! What happened, in one order.

use std::collections::BTreeMap;

use super::super::TraceFile;
use super::super::event::{Change, Event, Exit, Section, Space};

/// What happened.
pub(super) struct Script {
    pub(super) steps: Vec<Step>,
    /// Sections that are not all there.
    pub(super) incomplete: u64,
    /// When sections took effect, by the space and in the order of their ends.
    effects: BTreeMap<Space, Vec<Effect>>,
    /// The longest that one took.
    longest: u64,
}

/// One thing that happened.
pub(super) enum Step {
    Exit(Exit),
    Section {
        section: Section,
        changes: Vec<Change>,
    },
}

impl Step {
    /// When it counts.
    pub(super) fn at(&self) -> u64 {
        match self {
            // With its VMA held, so that nothing has changed since it was looked up.
            Self::Exit(exit) if exit.looked_up != 0 => exit.looked_up,
            Self::Exit(exit) => exit.end,
            Self::Section { section, .. } => section.ended,
        }
    }
}

/// What a section changed, and when a lookup could see either.
struct Effect {
    from: u64,
    until: u64,
    start: u64,
    last: u64,
}

impl Script {
    pub(super) fn new(trace: &TraceFile) -> Self {
        let mut changes: BTreeMap<(Space, u64), Vec<Change>> = BTreeMap::new();
        for (_, event) in trace.events() {
            if let Event::Change(change) = event {
                let of = changes.entry((change.space, change.section)).or_default();
                of.push(*change);
            }
        }
        let mut this = Self {
            steps: Vec::new(),
            incomplete: 0,
            effects: BTreeMap::new(),
            longest: 0,
        };
        for (_, event) in trace.events() {
            match event {
                Event::Exit(exit) => this.steps.push(Step::Exit(*exit)),
                Event::Section(section) if section.published => {
                    let key = (section.space, section.number);
                    this.section(*section, changes.remove(&key).unwrap_or_default());
                }
                _ => {}
            }
        }
        this.steps.sort_by_key(Step::at);
        for effects in this.effects.values_mut() {
            effects.sort_by_key(|effect| effect.until);
        }
        this
    }

    fn section(&mut self, section: Section, changes: Vec<Change>) {
        let expected = u64::from(section.added) + u64::from(section.removed);
        if changes.len() as u64 != expected {
            self.incomplete += 1;
            return;
        }
        if changes.is_empty() {
            return;
        }
        let effect = Effect {
            from: section.applied.min(section.ended),
            until: section.ended,
            start: section.start,
            last: section.last,
        };
        self.longest = self.longest.max(effect.until - effect.from);
        let effects = self.effects.entry(section.space).or_default();
        effects.push(effect);
        self.steps.push(Step::Section { section, changes });
    }

    /// Whether a section took effect at the address of `exit` between its beginning and
    /// the end of its lookup.
    pub(super) fn races(&self, space: Space, exit: &Exit) -> bool {
        let Some(effects) = self.effects.get(&space) else {
            return false;
        };
        let seen_until = if exit.looked_up == 0 {
            exit.end
        } else {
            exit.looked_up
        };
        let last = exit.addr.saturating_add(exit.len.into());
        let from = effects.partition_point(|effect| effect.until < exit.start);
        let longest = self.longest;
        effects[from..]
            .iter()
            .take_while(|effect| effect.until.saturating_sub(longest) <= seen_until)
            .any(|effect| {
                effect.from <= seen_until && effect.start <= last && exit.addr <= effect.last
            })
    }
}
