//! Reading a trace file, whatever has become of it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use super::super::event::{Event, WORDS, Words};
use super::super::record::OnFull;
use super::format::{
    BLOCK_HEADER, BLOCK_MAGIC, BlockHeader, END, HEADER, Header, MAGIC, MAX_META, RECORDS, VERSION,
};
use super::meta::End;
use super::{Meta, Outcome, ThreadEnd, Timeline};

/// Why a file cannot be read at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// It could not be opened, or read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is something else.
    #[error("this is no trace of Gracefault's: it does not begin like one")]
    Foreign,
    /// It was taken for text on its way.
    #[error("this trace was changed as if it were text: transfer it as binary")]
    Text,
    /// It ends within its header.
    #[error("this trace ends within its header, after {0} bytes")]
    Short(usize),
    /// It is of a later version.
    #[error(
        "this trace is of version {found}, and this Gracefault reads version {}: take a newer one",
        VERSION.0
    )]
    Version {
        /// What it says.
        found: u16,
    },
    /// Its header is damaged.
    #[error("the header of this trace is damaged: {0}")]
    Damaged(&'static str),
}

/// A trace, read and sorted.
#[derive(Clone, Debug)]
pub struct TraceFile {
    /// What it says about itself.
    pub meta: Meta,
    /// How the run ended, if the file got to say so.
    pub outcome: Option<Outcome>,
    /// Whether it was ended: otherwise the VMM crashed, or is still running, or the
    /// file was cut.
    pub complete: bool,
    /// Its threads, vCPUs first and in their order.
    pub threads: Vec<Thread>,
    /// Bytes that are none of a whole block's. In a file that overwrites there are
    /// some where the oldest block is that is partly there.
    pub skipped: u64,
    /// Records of a kind that this version does not know.
    pub unknown: u64,
    /// What its ticks are.
    pub time: Timeline,
}

/// A thread, and what it recorded.
#[derive(Clone, Debug)]
pub struct Thread {
    /// Its id.
    pub tid: u32,
    /// Its name.
    pub name: String,
    /// The vCPU that it ran.
    pub vcpu: Option<u32>,
    /// Its events, in the order in which they were over.
    pub events: Vec<Event>,
    /// How many more there were: lost in the ring, overwritten in the file, without
    /// room there, or damaged.
    pub lost: u64,
    /// When some were known to be lost, in ticks, and how many until then: the last is
    /// [`lost`](Self::lost).
    pub losses: Vec<(u64, u64)>,
}

impl Thread {
    fn lose(&mut self, at: u64, lost: u64) {
        if lost > self.losses.last().map_or(0, |(_, lost)| *lost) {
            self.losses.push((at, lost));
        }
    }
}

impl TraceFile {
    /// Reads a file: as much of it as is there and whole.
    ///
    /// # Errors
    /// See [`ReadError`]: without its header a file says nothing.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        Self::parse(&fs::read(path)?)
    }

    /// As [`open`](Self::open), of a file's bytes.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ReadError> {
        let (header, meta) = read_header(bytes)?;
        let mut found = Found::default();
        let mut at = header.begin as usize;
        while at < bytes.len() {
            match found.block(&bytes[at..], header.nonce) {
                Some(len) => at += len,
                None => {
                    let next = next_magic(bytes, at + 1);
                    found.skipped += (next - at) as u64;
                    at = next;
                }
            }
        }
        let last = found.last.unwrap_or(header.anchor);
        let time = Timeline::new(header.anchor, last);
        Ok(found.sorted(meta, time))
    }

    /// All events with their threads, those of each thread in order.
    pub fn events(&self) -> impl Iterator<Item = (&Thread, &Event)> {
        self.threads
            .iter()
            .flat_map(|thread| thread.events.iter().map(move |event| (thread, event)))
    }

    /// What whoever looks at it should know, a sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if !self.complete {
            warnings.push(
                "it has no end: the run was killed or is not over, or the file was cut; the last \
                 milliseconds are missing"
                    .to_owned(),
            );
        }
        if self.skipped > 0 && self.meta.on_full == OnFull::Drop {
            warnings.push(format!(
                "{} bytes are damaged and were left out",
                self.skipped
            ));
        }
        if self.unknown > 0 {
            warnings.push(format!(
                "{} records or blocks are of a later version and were left out",
                self.unknown
            ));
        }
        if self.lost() > 0 {
            let there = self.threads.iter().map(|thread| thread.events.len() as u64);
            warnings.push(format!(
                "{} of {} events were lost",
                self.lost(),
                there.fold(self.lost(), u64::saturating_add)
            ));
        }
        warnings
    }

    /// How many events were lost.
    pub fn lost(&self) -> u64 {
        let lost = self.threads.iter().map(|thread| thread.lost);
        // A damaged file may claim anything.
        lost.fold(0, u64::saturating_add)
    }
}

fn read_header(bytes: &[u8]) -> Result<(Header, Meta), ReadError> {
    let begins = &bytes[..bytes.len().min(MAGIC.len())];
    if begins != &MAGIC[..begins.len()] || begins.is_empty() {
        // What is left of the magic if line ends were changed, or the high bit cut.
        let text = begins.len() > 4 && begins[1..4] == MAGIC[1..4];
        return Err(if text {
            ReadError::Text
        } else {
            ReadError::Foreign
        });
    }
    let short = || ReadError::Short(bytes.len());
    let fixed = bytes.get(..HEADER).ok_or_else(short)?;
    let header = Header::decode(fixed);
    if header.version.0 != VERSION.0 {
        let found = header.version.0;
        return Err(ReadError::Version { found });
    }
    let len = header.meta as usize;
    let begin = header.begin as usize;
    if len > MAX_META || begin != (HEADER + len).next_multiple_of(8) {
        return Err(ReadError::Damaged("its lengths do not fit"));
    }
    let json = bytes.get(HEADER..HEADER + len).ok_or_else(short)?;
    if bytes.len() < begin {
        return Err(short());
    }
    if !Header::is_whole(fixed, json) {
        return Err(ReadError::Damaged("its checksum is wrong"));
    }
    if bytes[HEADER + len..begin].iter().any(|&byte| byte != 0) {
        return Err(ReadError::Damaged("what fills it up is not zero"));
    }
    let meta = serde_json::from_slice(json);
    let meta = meta.map_err(|_| ReadError::Damaged("its description cannot be read"))?;
    Ok((header, meta))
}

/// Where, from `from` on, the next block may begin; the end if nowhere.
fn next_magic(bytes: &[u8], from: usize) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    let mut windows = rest.windows(BLOCK_MAGIC.len());
    let found = windows.position(|window| window == BLOCK_MAGIC);
    found.map_or(bytes.len(), |n| from + n)
}

/// What was found so far.
#[derive(Default)]
struct Found {
    /// Blocks by thread and sequence.
    threads: BTreeMap<u32, BTreeMap<u64, (BlockHeader, Vec<Event>)>>,
    /// The last end block.
    end: Option<(u64, End)>,
    /// The newest block of records.
    newest: Option<u64>,
    /// The anchor of the newest block.
    last: Option<crate::clock::Anchor>,
    last_sequence: u64,
    skipped: u64,
    unknown: u64,
}

impl Found {
    /// Takes the block that `bytes` begin with; how long it is, or `None` if there is
    /// no whole one.
    fn block(&mut self, bytes: &[u8], nonce: u64) -> Option<usize> {
        let header = BlockHeader::decode(bytes, nonce)?;
        let len = BLOCK_HEADER + header.len as usize;
        let payload = bytes.get(BLOCK_HEADER..len)?;
        if crc32fast::hash(payload) != header.payload_crc {
            return None;
        }
        if self.last.is_none() || header.sequence >= self.last_sequence {
            self.last = Some(header.anchor);
            self.last_sequence = header.sequence;
        }
        match header.kind {
            RECORDS if usize::from(header.words) == WORDS => {
                let events = self.events(payload);
                self.newest = self.newest.max(Some(header.sequence));
                let thread = self.threads.entry(header.thread).or_default();
                thread.insert(header.sequence, (header, events));
            }
            END => {
                let end: End = serde_json::from_slice(payload).ok()?;
                if self
                    .end
                    .as_ref()
                    .is_none_or(|(sequence, _)| *sequence <= header.sequence)
                {
                    self.end = Some((header.sequence, end));
                }
            }
            // Of a later version.
            _ => self.unknown += 1,
        }
        Some(len)
    }

    fn events(&mut self, payload: &[u8]) -> Vec<Event> {
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("8 bytes"));
        let mut events = Vec::with_capacity(payload.len() / (WORDS * 8));
        for record in payload.chunks_exact(WORDS * 8) {
            let mut words: Words = [0; WORDS];
            for (to, from) in words.iter_mut().zip(record.chunks_exact(8)) {
                *to = word(from);
            }
            match Event::decode(&words) {
                Some(event) => events.push(event),
                None => self.unknown += 1,
            }
        }
        events
    }

    fn sorted(self, meta: Meta, time: Timeline) -> TraceFile {
        // An end that is not the last is left over from something else.
        let end = self
            .end
            .filter(|(sequence, _)| Some(*sequence) > self.newest);
        let complete = end.is_some();
        let End { outcome, threads } = end.map(|(_, end)| end).unwrap_or_default();
        let ends = threads.0;
        let mut all: Vec<Thread> = Vec::new();
        for (index, blocks) in &self.threads {
            let Some((_, (last, _))) = blocks.last_key_value() else {
                continue;
            };
            let name = last.name.split(|&byte| byte == 0).next();
            let mut thread = Thread {
                tid: last.tid,
                name: String::from_utf8_lossy(name.unwrap_or_default()).into_owned(),
                vcpu: (last.vcpu != u32::MAX).then_some(last.vcpu),
                events: Vec::new(),
                lost: 0,
                losses: Vec::new(),
            };
            let records = |len: u32| u64::from(len) / (WORDS as u64 * 8);
            let mut made = last.first.saturating_add(records(last.len));
            made = made.saturating_add(last.lost);
            if let Some(end) = ends.get(*index as usize) {
                let all = end.written.saturating_add(end.lost);
                made = made.max(all.saturating_add(end.not_written));
            }
            for (header, events) in blocks.values() {
                // Whatever of `first` is not there was overwritten or damaged.
                let gone = header.first.saturating_sub(thread.events.len() as u64);
                thread.lose(header.anchor.ticks, gone.saturating_add(header.lost));
                thread.events.extend(events);
            }
            // A thread's events are over in this order, but for what another program
            // made of them; whoever uses them relies on it.
            thread.events.sort_by_key(Event::at);
            thread.lost = made.saturating_sub(thread.events.len() as u64);
            thread.lose(self.last.unwrap_or_default().ticks, thread.lost);
            all.push(thread);
        }
        // Threads of which nothing is left.
        for (index, end) in ends.into_iter().enumerate() {
            if !self.threads.contains_key(&(index as u32)) {
                let ThreadEnd {
                    tid, name, vcpu, ..
                } = end;
                let lost = end.written.saturating_add(end.lost);
                let lost = lost.saturating_add(end.not_written);
                let mut thread = Thread {
                    tid,
                    name,
                    vcpu,
                    events: Vec::new(),
                    lost,
                    losses: Vec::new(),
                };
                thread.lose(self.last.unwrap_or_default().ticks, lost);
                all.push(thread);
            }
        }
        all.sort_by_key(|thread| (thread.vcpu.is_none(), thread.vcpu, thread.tid));
        TraceFile {
            meta,
            outcome,
            complete,
            threads: all,
            skipped: self.skipped,
            unknown: self.unknown,
            time,
        }
    }
}
