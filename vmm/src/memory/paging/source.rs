//! What pages come from.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::memory::PAGE;

/// What pages come from.
pub trait PageSource: Send + Sync + 'static {
    /// Fills `page` with the page at `offset`. Called by the pager's threads, several
    /// at a time; may block, but never for a change of guest memory: a writer may be
    /// waiting for whoever waits for this page.
    ///
    /// # Errors
    ///
    /// The page then becomes one whose touch is an error, for good.
    fn read_page(&self, offset: u64, page: &mut [u8; PAGE as usize]) -> io::Result<()>;
}

impl PageSource for File {
    fn read_page(&self, offset: u64, page: &mut [u8; PAGE as usize]) -> io::Result<()> {
        self.read_exact_at(page, offset)
    }
}
