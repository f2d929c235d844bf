//! The bytes of the header and of a block's header.

use crate::clock::Anchor;

/// What a trace begins with. It is no text, and shows if a transfer took it for one.
pub(super) const MAGIC: [u8; 8] = *b"\x89GFT\r\n\x1a\n";
/// The version of the format: another major number is another format, and a larger
/// minor one has more in it.
pub(super) const VERSION: (u16, u16) = (1, 0);
/// Bytes of the header before its JSON.
pub(super) const HEADER: usize = 48;
/// What a block begins with.
pub(super) const BLOCK_MAGIC: [u8; 4] = *b"GFTB";
/// Bytes of a block's header.
pub(super) const BLOCK_HEADER: usize = 112;
/// The most bytes in a block.
pub(super) const MAX_PAYLOAD: usize = 1 << 20;
/// The most bytes of the header's JSON.
pub(super) const MAX_META: usize = 64 << 20;
/// Bytes of a thread's name.
pub(super) const NAME: usize = 16;

/// What kind a block is.
pub(super) const RECORDS: u16 = 1;
pub(super) const END: u16 = 2;

/// The header's fixed part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) version: (u16, u16),
    /// Where the first block is.
    pub(super) begin: u32,
    /// A number that this file's blocks have, and no other's.
    pub(super) nonce: u64,
    pub(super) anchor: Anchor,
    /// Bytes of JSON.
    pub(super) meta: u32,
}

impl Header {
    /// The header, whole: fixed part, JSON, and zeroes up to a multiple of 8.
    pub(super) fn with_json(nonce: u64, anchor: Anchor, json: &[u8]) -> Vec<u8> {
        let begin = (HEADER + json.len()).next_multiple_of(8);
        let mut bytes = Vec::with_capacity(begin);
        bytes.extend(MAGIC);
        bytes.extend(VERSION.0.to_le_bytes());
        bytes.extend(VERSION.1.to_le_bytes());
        bytes.extend((begin as u32).to_le_bytes());
        bytes.extend(nonce.to_le_bytes());
        bytes.extend(anchor.ticks.to_le_bytes());
        bytes.extend(anchor.boot_ns.to_le_bytes());
        bytes.extend((json.len() as u32).to_le_bytes());
        let mut crc = crc32fast::Hasher::new();
        crc.update(&bytes);
        crc.update(json);
        bytes.extend(crc.finalize().to_le_bytes());
        bytes.extend(json);
        bytes.resize(begin, 0);
        bytes
    }

    /// The fixed part, which is all that is looked at; `bytes` has as much.
    pub(super) fn decode(bytes: &[u8]) -> Self {
        let u16_at = |at| u16::from_le_bytes(array(bytes, at));
        let u32_at = |at| u32::from_le_bytes(array(bytes, at));
        let u64_at = |at| u64::from_le_bytes(array(bytes, at));
        Self {
            version: (u16_at(8), u16_at(10)),
            begin: u32_at(12),
            nonce: u64_at(16),
            anchor: Anchor {
                ticks: u64_at(24),
                boot_ns: u64_at(32),
            },
            meta: u32_at(40),
        }
    }

    /// Whether the checksum over the fixed part and `json` is right.
    pub(super) fn is_whole(bytes: &[u8], json: &[u8]) -> bool {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&bytes[..44]);
        crc.update(json);
        crc.finalize() == u32::from_le_bytes(array(bytes, 44))
    }
}

/// A block's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BlockHeader {
    pub(super) kind: u16,
    /// Words of a record.
    pub(super) words: u16,
    pub(super) nonce: u64,
    /// Its place in the order in which blocks were written.
    pub(super) sequence: u64,
    /// Bytes that follow, a multiple of 8.
    pub(super) len: u32,
    pub(super) payload_crc: u32,
    /// Which of the file's threads; the same number for all of its blocks.
    pub(super) thread: u32,
    pub(super) tid: u32,
    /// The vCPU that the thread runs; `u32::MAX` for none.
    pub(super) vcpu: u32,
    pub(super) name: [u8; NAME],
    /// Records of this thread in earlier blocks.
    pub(super) first: u64,
    /// Records of this thread that were lost before the end of this block.
    pub(super) lost: u64,
    /// When it was written.
    pub(super) anchor: Anchor,
}

impl BlockHeader {
    pub(super) fn encode(&self) -> [u8; BLOCK_HEADER] {
        let mut bytes = [0; BLOCK_HEADER];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &BLOCK_MAGIC);
        put(4, &self.kind.to_le_bytes());
        put(6, &self.words.to_le_bytes());
        put(8, &self.nonce.to_le_bytes());
        put(16, &self.sequence.to_le_bytes());
        put(24, &self.len.to_le_bytes());
        put(28, &self.payload_crc.to_le_bytes());
        put(32, &self.thread.to_le_bytes());
        put(36, &self.tid.to_le_bytes());
        put(40, &self.vcpu.to_le_bytes());
        put(48, &self.name);
        put(64, &self.first.to_le_bytes());
        put(72, &self.lost.to_le_bytes());
        put(80, &self.anchor.ticks.to_le_bytes());
        put(88, &self.anchor.boot_ns.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..104]);
        bytes[104..108].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// What `bytes` begin with, if that is a block's header of the file `nonce`.
    pub(super) fn decode(bytes: &[u8], nonce: u64) -> Option<Self> {
        let bytes = bytes.get(..BLOCK_HEADER)?;
        let u16_at = |at| u16::from_le_bytes(array(bytes, at));
        let u32_at = |at| u32::from_le_bytes(array(bytes, at));
        let u64_at = |at| u64::from_le_bytes(array(bytes, at));
        let is_one = bytes[..4] == BLOCK_MAGIC && u64_at(8) == nonce;
        if !is_one || crc32fast::hash(&bytes[..104]) != u32_at(104) {
            return None;
        }
        let header = Self {
            kind: u16_at(4),
            words: u16_at(6),
            nonce,
            sequence: u64_at(16),
            len: u32_at(24),
            payload_crc: u32_at(28),
            thread: u32_at(32),
            tid: u32_at(36),
            vcpu: u32_at(40),
            name: array(bytes, 48),
            first: u64_at(64),
            lost: u64_at(72),
            anchor: Anchor {
                ticks: u64_at(80),
                boot_ns: u64_at(88),
            },
        };
        (header.len as usize <= MAX_PAYLOAD && header.len.is_multiple_of(8)).then_some(header)
    }
}

/// `N` bytes at `at`, which are there.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("of that length")
}
