//! From a wait to what ended it, and from there to the retry.

use std::collections::BTreeMap;

use super::super::super::TraceFile;
use super::super::super::event::{Event, Exit, Space};
use super::super::super::links::{Links, space_of};
use super::super::super::report::Filter;

/// What lets waiters go on: the end of a section's number.
pub(super) type ReleaseKey = (Space, u64);

/// The releases that somebody in the export waits for.
pub(super) struct Arrows {
    releases: BTreeMap<ReleaseKey, Released>,
    /// Of each wait, by its thread and where its exit is among that thread's events.
    waits: BTreeMap<(usize, usize), u64>,
}

/// A release, and who waited for it.
#[derive(Clone, Debug, Default)]
pub(super) struct Released {
    /// When it is shown, in ticks.
    pub(super) at: u64,
    /// A number for each waiter; of its two arrows see [`to_publish`] and [`to_retry`].
    pub(super) waiters: Vec<u64>,
}

/// The arrow from the wait of this number to the release.
pub(super) fn to_publish(wait: u64) -> u64 {
    2 * wait + 1
}

/// The arrow from the release to the retry of this number.
pub(super) fn to_retry(wait: u64) -> u64 {
    2 * wait + 2
}

impl Arrows {
    /// Between the exits and the sections that `filter` lets through.
    ///
    /// A writer stamps a release just before it makes it, and may lose its processor in
    /// between; an exit that begins meanwhile still waits for it. So a release is shown
    /// no earlier than the beginning of any exit that waits for it, all of which lie
    /// before it really was made, and that before any of them was awake.
    pub(super) fn new(trace: &TraceFile, links: &Links<'_>, filter: &Filter) -> Self {
        let mut this = Self {
            releases: BTreeMap::new(),
            waits: BTreeMap::new(),
        };
        for (t, thread) in trace.threads.iter().enumerate() {
            for (n, event) in thread.events.iter().enumerate() {
                let Event::Exit(exit) = event else { continue };
                if !filter.takes_exit(trace, links, exit) {
                    continue;
                }
                let Some((key, at)) = release_of(trace, links, filter, exit) else {
                    continue;
                };
                let wait = this.waits.len() as u64;
                this.waits.insert((t, n), wait);
                let released = this.releases.entry(key).or_default();
                released.at = released.at.max(at).max(exit.start);
                released.waiters.push(wait);
            }
        }
        this
    }

    /// Who waited for this.
    pub(super) fn released(&self, key: ReleaseKey) -> Option<&Released> {
        self.releases.get(&key)
    }

    /// The number of the wait of event `n` of thread `t`.
    pub(super) fn wait(&self, t: usize, n: usize) -> Option<u64> {
        self.waits.get(&(t, n)).copied()
    }
}

fn release_of(
    trace: &TraceFile,
    links: &Links<'_>,
    filter: &Filter,
    exit: &Exit,
) -> Option<(ReleaseKey, u64)> {
    let release = links.release(exit)?;
    let shown = release
        .section
        .is_some_and(|section| filter.takes_section(trace, links, section));
    // A release that was stamped after the waiter was awake is none of its.
    let wait = exit.wait.filter(|wait| release.at <= wait.until)?;
    shown.then_some(((space_of(exit.kind), wait.section), release.at))
}
