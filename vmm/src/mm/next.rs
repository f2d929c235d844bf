//! The next version of the map, built but not in force.

use super::core::Core;
use super::edit::{Edit, Version};
use super::plan::Plan;
use super::slot::Slot;
use super::{Payload, VmaInfo};

/// The next version of the tree, with the slots that it adds. Dropped, it is
/// given up.
pub(super) struct Next<T> {
    version: Option<Version<T>>,
    slots: Vec<*mut Slot<T>>,
}

impl<T: Payload> Next<T> {
    /// The version that has what `plan` says, merged with `neighbours`. With `last`
    /// what comes is taken out of the plan, else copied.
    pub(super) fn build(
        core: &Core<T>,
        plan: &mut Plan<T>,
        neighbours: &[*const Slot<T>],
        last: bool,
    ) -> Self {
        let comes = plan.merged(neighbours, last);
        let mut this = Self {
            version: None,
            slots: Vec::with_capacity(comes.len()),
        };
        let mut edits = Vec::with_capacity(plan.goes.len() + neighbours.len() + comes.len());
        // SAFETY: in the tree in force, under the map lock.
        let start = |slot: &*const Slot<T>| unsafe { &**slot }.range().start();
        let goes = plan.goes.keys().copied();
        edits.extend(
            goes.chain(neighbours.iter().map(start))
                .map(|key| Edit { key, slot: None }),
        );
        for vma in comes {
            let key = vma.range().start();
            let slot = Box::into_raw(Slot::new(vma));
            this.slots.push(slot);
            edits.push(Edit {
                key,
                slot: Some(slot.cast_const()),
            });
        }
        // Where one goes and another comes, the latter is the edit: it sorts last,
        // since the sort is stable.
        edits.sort_by_key(|edit| edit.key);
        edits.reverse();
        edits.dedup_by_key(|edit| edit.key);
        edits.reverse();
        // SAFETY: the tree in force, under the map lock.
        this.version = Some(unsafe { Version::new(core.root(), &edits) });
        this
    }

    /// What comes.
    pub(super) fn infos(&self) -> Vec<VmaInfo> {
        // SAFETY: made from boxes above, and freed only by what takes `self`.
        self.slots
            .iter()
            .map(|slot| unsafe { &**slot }.info())
            .collect()
    }

    /// The version, for who puts it in force.
    pub(super) fn into_version(mut self) -> Version<T> {
        self.slots.clear();
        self.version.take().expect("taken once")
    }
}

impl<T> Drop for Next<T> {
    fn drop(&mut self) {
        // Not published, then.
        if let Some(version) = self.version.take() {
            version.abandon();
        }
        for slot in self.slots.drain(..) {
            // SAFETY: made from a box above and seen by nobody.
            unsafe { drop(Box::from_raw(slot).take()) };
        }
    }
}
