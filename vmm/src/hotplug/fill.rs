//! The patterns of volatile blocks, and what was there before them.

use std::io;
use std::sync::Arc;

use super::HotplugRegion;
use crate::memory::Mapping;
use crate::memory::faults::{self, Step};

/// What eight bytes held that have a pattern now.
struct Held<'a> {
    ram: &'a Mapping,
    offset: u64,
    bytes: [u8; 8],
}

impl HotplugRegion {
    /// Writes the patterns of volatile blocks into fresh memory, which nobody has seen.
    pub(super) fn fill_fresh(&self, blocks: &[(u32, Arc<Mapping>)]) -> io::Result<()> {
        self.fill(blocks, &mut |_, _| Ok(()))
    }

    /// The same where a user's file is behind it: on an error the file holds what it held.
    pub(super) fn fill_file(&self, blocks: &[(u32, Arc<Mapping>)]) -> io::Result<()> {
        let mut held = Vec::new();
        let filled = self.fill(blocks, &mut |ram, offset| {
            let mut bytes = [0; 8];
            ram.read(offset, &mut bytes).map_err(io::Error::other)?;
            held.push(Held { ram, offset, bytes });
            Ok(())
        });
        if filled.is_err() {
            for Held { ram, offset, bytes } in held {
                if let Err(fault) = ram.write(offset, &bytes) {
                    log::error!("undoing a plug: a file behind guest RAM has a pattern: {fault}");
                }
            }
        }
        filled
    }

    /// Writes each pattern, once `before` has seen the place.
    fn fill<'a>(
        &self,
        blocks: &'a [(u32, Arc<Mapping>)],
        before: &mut dyn FnMut(&'a Mapping, u64) -> io::Result<()>,
    ) -> io::Result<()> {
        for (block, ram) in blocks {
            faults::check(Step::FillBlock)?;
            for (offset, pattern) in self.volatile_patterns(*block) {
                before(ram, offset)?;
                ram.write(offset, &pattern.to_le_bytes())
                    .map_err(io::Error::other)?;
            }
        }
        Ok(())
    }
}
