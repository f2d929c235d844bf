//! What plugged blocks are called, and whose a name is.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Mutex, MutexGuard};

use super::hotplug::locked;

/// Names of blocks that a request has plugged. The number of the plug tells a block from
/// one that came after it.
#[derive(Debug, Default)]
pub(super) struct Names(Mutex<BTreeMap<String, Name>>);

#[derive(Debug)]
enum Name {
    /// Of a plug that is under way.
    Coming,
    /// Of these blocks, as long as they are of this plug.
    Given { blocks: Vec<u32>, plug: u64 },
}

/// The blocks that a name was given to.
#[derive(Debug)]
pub(super) struct Called {
    /// Those that are there yet, from the first on.
    pub(super) left: Vec<u32>,
    /// How many there were.
    pub(super) given: usize,
}

impl Names {
    /// Takes a name for blocks that are to be plugged: nobody else gets it, until what is
    /// returned is dropped. `None` if it is taken. `plug_of` says by which plug a block
    /// came, if it is plugged.
    pub(super) fn reserve<'a>(
        &'a self,
        name: &'a str,
        plug_of: impl Fn(u32) -> Option<u64>,
    ) -> Option<Reserved<'a>> {
        match self.current(plug_of).entry(name.to_owned()) {
            Entry::Occupied(_) => None,
            Entry::Vacant(free) => {
                free.insert(Name::Coming);
                Some(Reserved {
                    names: self,
                    name,
                    is_given: false,
                })
            }
        }
    }

    /// What has this name, if anything that is plugged has.
    pub(super) fn called(
        &self,
        name: &str,
        plug_of: impl Fn(u32) -> Option<u64>,
    ) -> Option<Called> {
        match self.current(&plug_of).get(name)? {
            Name::Coming => None,
            Name::Given { blocks, plug } => Some(Called {
                left: left(blocks, *plug, plug_of).collect(),
                given: blocks.len(),
            }),
        }
    }

    /// The name of each block that has one.
    pub(super) fn of_blocks(&self, plug_of: impl Fn(u32) -> Option<u64>) -> Vec<(u32, String)> {
        let mut all = Vec::new();
        for (name, of) in &*self.current(&plug_of) {
            if let Name::Given { blocks, plug } = of {
                let blocks = left(blocks, *plug, &plug_of);
                all.extend(blocks.map(|block| (block, name.clone())));
            }
        }
        all
    }

    /// The names, without those of which nothing is left.
    fn current(
        &self,
        plug_of: impl Fn(u32) -> Option<u64>,
    ) -> MutexGuard<'_, BTreeMap<String, Name>> {
        let mut names = locked(&self.0);
        names.retain(|_, name| match name {
            Name::Coming => true,
            Name::Given { blocks, plug } => left(blocks, *plug, &plug_of).next().is_some(),
        });
        names
    }
}

fn left(
    blocks: &[u32],
    plug: u64,
    plug_of: impl Fn(u32) -> Option<u64>,
) -> impl Iterator<Item = u32> {
    let blocks = blocks.iter().copied();
    blocks.filter(move |block| plug_of(*block) == Some(plug))
}

/// A name that is taken. It is free again when this is dropped, if it was not given.
#[derive(Debug)]
pub(super) struct Reserved<'a> {
    names: &'a Names,
    name: &'a str,
    is_given: bool,
}

impl Reserved<'_> {
    /// Gives it to the blocks of a `plug`.
    pub(super) fn give(mut self, blocks: Vec<u32>, plug: u64) {
        let given = Name::Given { blocks, plug };
        locked(&self.names.0).insert(self.name.to_owned(), given);
        self.is_given = true;
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if !self.is_given {
            locked(&self.names.0).remove(self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_plugs_until_all_of_it_is_gone() {
        let names = Names::default();
        let nothing = |_| None;
        let reserved = names.reserve("x", nothing).unwrap();
        assert!(names.reserve("x", nothing).is_none());
        assert!(names.called("x", nothing).is_none());
        // The plug failed.
        drop(reserved);
        let reserved = names.reserve("x", nothing).unwrap();
        reserved.give(vec![3, 4, 5], 7);

        let all = |_| Some(7);
        assert!(names.reserve("x", all).is_none());
        let of_x: Vec<_> = (3..6).map(|block| (block, "x".to_owned())).collect();
        assert_eq!(names.of_blocks(all), of_x);
        // Block 4 went, and another came.
        let some = |block| Some(if block == 4 { 9 } else { 7 });
        let called = names.called("x", some).unwrap();
        assert_eq!((called.left, called.given), (vec![3, 5], 3));
        assert!(names.reserve("x", some).is_none());
        // All have gone and come.
        assert!(names.called("x", |_| Some(11)).is_none());
        assert!(names.reserve("x", nothing).is_some());
    }
}
