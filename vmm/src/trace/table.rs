//! A table of exits: how long those of each kind and address took.

use std::collections::HashMap;

use rustc_hash::FxBuildHasher;

use super::{ExitKey, Times};

/// How long the exits of each kind and address took: from `KVM_RUN` returning to
/// its next call.
#[derive(Clone, Debug, Default)]
pub struct ExitTable {
    rows: Vec<(ExitKey, Times)>,
    index: HashMap<ExitKey, usize, FxBuildHasher>,
}

impl ExitTable {
    /// The row of `key`, a new one if there was none.
    pub fn row(&mut self, key: ExitKey) -> &mut Times {
        let at = *self.index.entry(key).or_insert_with(|| {
            self.rows.push((key, Times::new()));
            self.rows.len() - 1
        });
        &mut self.rows[at].1
    }

    /// The row of `key`, if there is one.
    pub fn get(&self, key: &ExitKey) -> Option<&Times> {
        self.index.get(key).map(|at| &self.rows[*at].1)
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// All rows, in the order in which they came.
    pub fn iter(&self) -> impl Iterator<Item = (&ExitKey, &Times)> {
        self.rows.iter().map(|(key, times)| (key, times))
    }

    /// Adds what another has.
    pub fn add(&mut self, other: &Self) {
        for (key, times) in other.iter() {
            self.row(*key).add(times);
        }
    }

    /// How many exits are in it.
    pub fn count(&self) -> u64 {
        self.rows.iter().map(|(_, times)| times.count()).sum()
    }
}
