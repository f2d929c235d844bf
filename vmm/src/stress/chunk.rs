//! The memory of a region: marked when it comes, poisoned and unmapped when it goes.

use std::io;
use std::sync::Arc;

use crate::memory::{Mapping, PAGE};

/// What a page says first of all when it has been removed.
pub(super) const POISON: u64 = 0xdead_dead_dead_dead;

/// Memory of some pages. Each begins with a word: what the page is called.
#[derive(Debug)]
pub(super) struct Chunk {
    memory: Arc<Mapping>,
    /// 0 for memory that all regions share.
    pages: u64,
}

impl Chunk {
    /// Memory for the pages of these names.
    pub(super) fn new(names: impl ExactSizeIterator<Item = u64>) -> io::Result<Self> {
        let pages = names.len() as u64;
        let memory = Arc::new(Mapping::anonymous(pages * PAGE)?);
        for (page, name) in names.enumerate() {
            write(&memory, page as u64, name);
        }
        Ok(Self { memory, pages })
    }

    /// Memory that all regions share, since there are too many. It stays as it is.
    pub(super) fn common(memory: &Arc<Mapping>) -> Self {
        let memory = memory.clone();
        Self { memory, pages: 0 }
    }

    /// One more reference, for the map.
    pub(super) fn memory(&self) -> Arc<Mapping> {
        self.memory.clone()
    }

    /// Overwrites it and gives it back to the host, so that a reader that comes too
    /// late finds the one or dies of the other. `None` if somebody else still has it.
    pub(super) fn bury(self) -> Option<io::Result<()>> {
        if self.pages == 0 {
            return Some(Ok(()));
        }
        self.poison();
        Some(Arc::into_inner(self.memory)?.unmap())
    }

    /// Overwrites it.
    pub(super) fn poison(&self) {
        (0..self.pages).for_each(|page| write(&self.memory, page, POISON));
    }
}

fn write(memory: &Mapping, page: u64, word: u64) {
    memory
        .write(page * PAGE, &word.to_ne_bytes())
        .expect("the storm's own anonymous memory");
}

/// The first word of the page of `memory` that `offset` is in.
pub(super) fn name_at(memory: &Mapping, offset: u64) -> u64 {
    let mut word = [0; 8];
    match memory.read(offset & !(PAGE - 1), &mut word) {
        Ok(()) => u64::from_ne_bytes(word),
        Err(_) => POISON,
    }
}
