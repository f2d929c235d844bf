//! Writing a trace file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::super::event::WORDS;
use super::super::record::OnFull;
use super::format::{BlockHeader, END, Header, MAX_META, MAX_PAYLOAD, NAME, RECORDS};
use super::meta::{End, Threads};
use super::{Meta, Outcome, ThreadEnd};
use crate::clock::Anchor;

/// A trace file that is being written.
#[derive(Debug)]
pub(in super::super) struct Output {
    file: File,
    nonce: u64,
    on_full: OnFull,
    /// Where the first block is.
    begin: u64,
    /// Where the next block goes.
    at: u64,
    /// Where blocks of records end at the latest.
    limit: u64,
    sequence: u64,
}

/// Whose block it is.
pub(in super::super) struct BlockOf<'a> {
    pub(in super::super) thread: &'a ThreadEnd,
    pub(in super::super) index: u32,
    pub(in super::super) anchor: Anchor,
}

impl Output {
    /// Writes the header to `file`, which is empty.
    pub(in super::super) fn create(
        file: File,
        meta: &Meta,
        size: u64,
        on_full: OnFull,
    ) -> io::Result<Self> {
        let json = serde_json::to_vec(meta)?;
        if json.len() > MAX_META {
            return Err(io::Error::other("too many VMAs to describe in the header"));
        }
        let anchor = Anchor::now();
        // Differs from that of any other file, so that none of its blocks, or what a
        // guest writes, is taken for one of this.
        let nonce = fastrand::u64(..) ^ anchor.ticks.rotate_left(32) ^ anchor.boot_ns;
        let header = Header::with_json(nonce, anchor, &json);
        file.write_all_at(&header, 0)?;
        let begin = header.len() as u64;
        Ok(Self {
            file,
            nonce,
            on_full,
            begin,
            at: begin,
            limit: size.max(begin + 2 * MAX_PAYLOAD as u64 / 8),
            sequence: 0,
        })
    }

    /// Writes a block of a thread's records; whether there was room for it.
    pub(in super::super) fn records(
        &mut self,
        of: &BlockOf<'_>,
        records: &[u8],
    ) -> io::Result<bool> {
        let thread = of.thread;
        let mut name = [0; NAME];
        let len = thread.name.floor_char_boundary_to(NAME - 1);
        name[..len].copy_from_slice(&thread.name.as_bytes()[..len]);
        let header = BlockHeader {
            kind: RECORDS,
            words: WORDS as u16,
            nonce: self.nonce,
            sequence: self.sequence,
            len: records.len() as u32,
            payload_crc: crc32fast::hash(records),
            thread: of.index,
            tid: thread.tid,
            vcpu: thread.vcpu.unwrap_or(u32::MAX),
            name,
            first: thread.written,
            lost: thread.lost + thread.not_written,
            anchor: of.anchor,
        };
        let mut bytes = Vec::with_capacity(header.encode().len() + records.len());
        bytes.extend(header.encode());
        bytes.extend(records);
        if self.at + bytes.len() as u64 > self.limit {
            if self.on_full == OnFull::Drop {
                return Ok(false);
            }
            self.at = self.begin;
        }
        self.put(&bytes)?;
        Ok(true)
    }

    /// Writes the end block.
    pub(in super::super) fn end(
        &mut self,
        threads: &Threads,
        outcome: Option<Outcome>,
    ) -> io::Result<()> {
        let end = End {
            outcome,
            threads: threads.clone(),
        };
        let mut json = serde_json::to_vec(&end)?;
        json.resize(json.len().next_multiple_of(8), b' ');
        if json.len() > MAX_PAYLOAD {
            return Err(io::Error::other("too many threads for the end block"));
        }
        let header = BlockHeader {
            kind: END,
            words: 0,
            nonce: self.nonce,
            sequence: self.sequence,
            len: json.len() as u32,
            payload_crc: crc32fast::hash(&json),
            thread: u32::MAX,
            tid: 0,
            vcpu: u32::MAX,
            name: [0; NAME],
            first: 0,
            lost: 0,
            anchor: Anchor::now(),
        };
        let mut bytes = header.encode().to_vec();
        bytes.extend(json);
        self.put(&bytes)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.at)?;
        self.at += bytes.len() as u64;
        self.sequence += 1;
        Ok(())
    }
}

trait FloorCharBoundary {
    /// The longest beginning, in bytes, of at most `most`, that ends with a whole
    /// character.
    fn floor_char_boundary_to(&self, most: usize) -> usize;
}

impl FloorCharBoundary for String {
    fn floor_char_boundary_to(&self, most: usize) -> usize {
        let most = most.min(self.len());
        (0..=most)
            .rev()
            .find(|at| self.is_char_boundary(*at))
            .unwrap_or(0)
    }
}
