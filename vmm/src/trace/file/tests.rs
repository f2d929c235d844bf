//! Files that are whole, cut, damaged, hostile, or something else.

use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::prelude::*;

use super::super::event::tests::event;
use super::super::event::{Change, Event, Exit, Round, Section, Space, Wait, What};
use super::super::record::OnFull;
use super::super::replay::{Pace, replay};
use super::super::report::{By, Filter, SortKey, exits, sections, waits};
use super::super::{ExitKind, export, html};
use super::format::{BLOCK_HEADER, HEADER};
use super::meta::Threads;
use super::*;
use crate::clock::Anchor;
use crate::memory::Served;

/// A file with these events of one thread in each list, in blocks of `block` events.
fn written(
    threads: &[Vec<Event>],
    block: usize,
    size: u64,
    on_full: OnFull,
    end: bool,
) -> (Vec<u8>, Threads) {
    let meta = Meta {
        gracefault: "test".to_owned(),
        on_full,
        machine: Machine {
            vcpus: 2,
            hotplug: Some(Region {
                start: 0x1_0000_0000,
                block: 0x20_0000,
                blocks: 4,
            }),
            ..Machine::default()
        },
        map: vec![MappedAtStart {
            space: "memory".to_owned(),
            name: "test".to_owned(),
            start: 0xd000_0000,
            last: 0xd000_0fff,
            flags: 0b1011,
            ..MappedAtStart::default()
        }],
        ..Meta::default()
    };
    let mut file = tempfile::tempfile().unwrap();
    let mut output = Output::create(file.try_clone().unwrap(), &meta, size, on_full).unwrap();
    let mut ends = Threads::default();
    for (n, _) in threads.iter().enumerate() {
        let vcpu = (n < 2).then_some(n as u32);
        ends.add(ThreadEnd::new(100 + n as u32, format!("thread {n}"), vcpu));
    }
    let longest = threads.iter().map(Vec::len).max().unwrap_or(0);
    for part in 0..longest.div_ceil(block) {
        for (n, events) in threads.iter().enumerate() {
            let mut bytes = Vec::new();
            let some = events.iter().skip(part * block).take(block);
            let mut records = 0;
            for event in some {
                event
                    .encode()
                    .iter()
                    .for_each(|word| bytes.extend(word.to_le_bytes()));
                records += 1;
            }
            if records == 0 {
                continue;
            }
            let of = BlockOf {
                thread: &ends[n],
                index: n as u32,
                anchor: Anchor::now(),
            };
            match output.records(&of, &bytes).unwrap() {
                true => ends[n].written += records,
                false => ends[n].not_written += records,
            }
        }
    }
    if end {
        let outcome = Outcome {
            verdict: "passed".to_owned(),
            ..Outcome::default()
        };
        output.end(&ends, Some(outcome)).unwrap();
    }
    let mut bytes = Vec::new();
    std::io::Seek::rewind(&mut file).unwrap();
    file.read_to_end(&mut bytes).unwrap();
    (bytes, ends)
}

fn exit(n: u64, waits: bool) -> Event {
    let start = 1_000 * n;
    Event::Exit(Exit {
        kind: ExitKind::MmioRead,
        served: Some(Served::Device),
        fragment: false,
        failed: false,
        nested: false,
        len: 8,
        piece: 0,
        vcpu: 0,
        start,
        looked_up: start + 60,
        end: start + 90,
        addr: 0xd000_0000 + n,
        vma: Some(0xd000_0000),
        wait: waits.then_some(Wait {
            section: 2 * n + 1,
            from: start + 10,
            until: start + 50,
        }),
        data: n,
    })
}

fn section(n: u64) -> [Event; 3] {
    let start = 1_000 * n;
    let section = Section {
        space: Space::Memory,
        what: What::Map,
        published: true,
        rounds: 1,
        holders: 0,
        number: 2 * n + 1,
        opened: start,
        planned: start + 5,
        drained: start + 20,
        applied: start + 30,
        ended: start + 40,
        start: 0x1_0000_0000,
        last: 0x1_001f_ffff,
        added: 1,
        removed: 0,
    };
    let change = Change {
        space: Space::Memory,
        added: true,
        flags: 7,
        section: section.number,
        at: section.ended,
        start: section.start,
        last: section.last,
        offset: 0,
        generation: section.number,
    };
    let round = Round {
        space: Space::Memory,
        section: 5,
        at: section.ended,
    };
    [
        Event::Section(section),
        Event::Change(change),
        Event::Round(round),
    ]
}

fn small() -> Vec<Vec<Event>> {
    vec![
        (1..8).map(|n| exit(n, n == 3)).collect(),
        (1..5).map(|n| exit(n, false)).collect(),
        (3..5).flat_map(section).collect(),
    ]
}

/// All that is made of a trace.
fn use_it(trace: &TraceFile) {
    let filter = Filter::default();
    for by in [By::Reason, By::Mmio, By::Port] {
        exits(trace, by, &filter, SortKey::Time);
    }
    waits(trace, &filter, SortKey::Max);
    sections(trace, &filter, SortKey::Sample);
    let mut out = Vec::new();
    export::jsonl::write(trace, &filter, &mut out).unwrap();
    export::openmetrics::write(trace, &filter, &mut out).unwrap();
    #[cfg(feature = "perfetto")]
    export::perfetto::write(trace, &filter, &mut out).unwrap();
    html::page(trace, &filter);
    // It may refuse to map what the trace says was mapped.
    let _ = replay(trace, Pace::Fast);
    trace.warnings();
}

fn counts(trace: &TraceFile) -> Vec<usize> {
    let threads = trace.threads.iter();
    threads.map(|thread| thread.events.len()).collect()
}

#[test]
fn what_is_written_is_read() {
    let events = small();
    let (bytes, ends) = written(&events, 3, 1 << 20, OnFull::Drop, true);
    let trace = TraceFile::parse(&bytes).unwrap();
    assert!(trace.complete && trace.skipped == 0 && trace.unknown == 0);
    assert_eq!(trace.outcome.as_ref().unwrap().verdict, "passed");
    for (n, thread) in trace.threads.iter().enumerate() {
        assert_eq!((thread.tid, thread.lost), (ends[n].tid, 0));
        assert_eq!(thread.name, ends[n].name);
        assert_eq!(thread.events, events[n], "{n}");
    }
    assert_eq!(trace.warnings(), Vec::<String>::new());
    use_it(&trace);
}

#[test]
fn a_file_that_is_full_keeps_what_it_was_asked_to_and_counts_the_rest() {
    let many: Vec<Event> = (0..5_000).map(|n| exit(n, false)).collect();
    for on_full in [OnFull::Drop, OnFull::Overwrite] {
        let (bytes, _) = written(std::slice::from_ref(&many), 50, 0, on_full, true);
        let trace = TraceFile::parse(&bytes).unwrap();
        let [thread] = &trace.threads[..] else {
            panic!("one thread");
        };
        let kept = thread.events.len();
        assert!(kept > 1_000 && kept < 4_500, "{kept}");
        assert_eq!(kept as u64 + thread.lost, 5_000, "{on_full:?}");
        assert_eq!(thread.losses.last().unwrap().1, thread.lost);
        let expected = match on_full {
            OnFull::Drop => &many[..kept],
            OnFull::Overwrite => &many[5_000 - kept..],
        };
        assert!(thread.events == expected && trace.complete);
        // Without its end it knows of no loss after the last block.
        let (bytes, _) = written(std::slice::from_ref(&many), 50, 0, on_full, false);
        let trace = TraceFile::parse(&bytes).unwrap();
        assert!(!trace.complete);
        assert!(trace.warnings()[0].contains("no end"));
    }
}

/// A crash at any moment leaves all whole blocks, and an error only within the header.
#[test]
fn cut_at_every_length() {
    let (bytes, _) = written(&small(), 2, 1 << 20, OnFull::Drop, true);
    let header = bytes.windows(4).position(|w| w == b"GFTB").unwrap();
    let whole: usize = counts(&TraceFile::parse(&bytes).unwrap()).iter().sum();
    let mut before = 0;
    for len in 0..bytes.len() {
        match TraceFile::parse(&bytes[..len]) {
            Ok(trace) => {
                assert!(len >= header);
                let there: usize = counts(&trace).iter().sum();
                assert!(there >= before && there <= whole && !trace.complete);
                before = there;
            }
            Err(_) => assert!(len < header, "{len} bytes"),
        }
    }
    assert_eq!(before, whole);
}

#[test]
fn every_byte_of_the_header_changed() {
    let (bytes, _) = written(&small(), 2, 1 << 20, OnFull::Drop, true);
    let header = bytes.windows(4).position(|w| w == b"GFTB").unwrap();
    assert!(header > HEADER);
    for at in 0..header {
        for flip in [1, 0x80, 0xff] {
            let mut bytes = bytes.clone();
            bytes[at] ^= flip;
            assert!(TraceFile::parse(&bytes).is_err(), "byte {at}");
        }
    }
    // Of the blocks, each costs what it has, and nothing else.
    let whole = counts(&TraceFile::parse(&bytes).unwrap());
    for at in header..bytes.len() {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x10;
        let trace = TraceFile::parse(&bytes).unwrap();
        let lost: usize = whole.iter().sum::<usize>() - counts(&trace).iter().sum::<usize>();
        // The few bytes that fill the block's header up say nothing.
        assert!(lost <= 2, "byte {at}: {lost}");
        assert!(lost == 0 || trace.skipped as usize >= BLOCK_HEADER);
        assert!(lost == 0 || !trace.complete || trace.lost() == lost as u64);
    }
}

#[test]
fn foreign_files_are_named() {
    let error = |bytes: &[u8]| TraceFile::parse(bytes).unwrap_err().to_string();
    assert!(error(b"").contains("no trace"));
    assert!(error(b"\x7fELF and so on").contains("no trace"));
    assert!(error(b"\x89GFT\n\x1a\n and so on").contains("as binary"));
    let (mut bytes, _) = written(&small(), 2, 1 << 20, OnFull::Drop, true);
    bytes[8] = 9;
    assert!(error(&bytes).contains("version 9"), "{}", error(&bytes));
    assert!(error(&bytes[..20]).contains("within its header"));
}

/// What a file claims to have lost adds up to more than there are numbers.
#[test]
fn claims_that_overflow() {
    let (mut bytes, _) = written(&small(), 8, 1 << 20, OnFull::Drop, false);
    let blocks: Vec<usize> = (0..bytes.len() - 4)
        .filter(|at| bytes[*at..at + 4] == *b"GFTB")
        .collect();
    for at in blocks {
        bytes[at + 72..at + 80].fill(0xff);
    }
    mend(&mut bytes);
    let trace = TraceFile::parse(&bytes).unwrap();
    assert_eq!((trace.threads.len(), trace.lost()), (3, u64::MAX));
    use_it(&trace);
}

/// Makes all checksums right, so that what is behind them is reached.
fn mend(bytes: &mut [u8]) {
    if bytes.len() < HEADER {
        return;
    }
    let u32_at = |bytes: &[u8], at: usize| {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
    };
    let json = HEADER + u32_at(bytes, 40).min(bytes.len() - HEADER);
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[..44]);
    crc.update(&bytes[HEADER..json]);
    bytes[44..48].copy_from_slice(&crc.finalize().to_le_bytes());
    let mut at = 0;
    while let Some(found) = bytes[at..].windows(4).position(|w| w == b"GFTB") {
        at += found;
        if at + BLOCK_HEADER > bytes.len() {
            return;
        }
        let payload = at + BLOCK_HEADER;
        let end = (payload + u32_at(bytes, at + 24)).min(bytes.len());
        let crc = crc32fast::hash(&bytes[payload..end]);
        bytes[at + 28..at + 32].copy_from_slice(&crc.to_le_bytes());
        let crc = crc32fast::hash(&bytes[at..at + 104]);
        bytes[at + 104..at + 108].copy_from_slice(&crc.to_le_bytes());
        at += 4;
    }
}

/// `GRACEFAULT_MUTATIONS` says how many; half of them have right checksums again, and
/// some of those are put to all uses there are.
#[test]
fn a_million_mutations() {
    let asked = std::env::var("GRACEFAULT_MUTATIONS").ok();
    let usual = if cfg!(debug_assertions) {
        100_000
    } else {
        1_000_000
    };
    let mutations: u64 = asked.map_or(usual, |n| n.parse().expect("a number"));
    let (bytes, _) = written(&small(), 3, 1 << 20, OnFull::Drop, true);
    let threads = 2;
    let run = |thread: u64| {
        let mut random = fastrand::Rng::with_seed(7 + thread);
        let mut parsed = 0_u64;
        for n in 0..mutations / threads {
            let mut mutant = bytes.clone();
            for _ in 0..random.u32(1..5) {
                mutate(&mut mutant, &mut random);
            }
            if n % 2 == 0 {
                mend(&mut mutant);
            }
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                let Ok(trace) = TraceFile::parse(&mutant) else {
                    return false;
                };
                if n % 4096 == 0 {
                    use_it(&trace);
                }
                true
            }));
            parsed += u64::from(outcome.unwrap_or_else(|_| panic!("seed {thread}, {n}")));
        }
        parsed
    };
    let parsed: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|t| scope.spawn(move || run(t))).collect();
        threads.into_iter().map(|t| t.join().unwrap()).sum()
    });
    // Most changes hit a block, and leave the rest to be read.
    assert!(parsed > mutations / 10, "{parsed}");
}

fn mutate(bytes: &mut Vec<u8>, random: &mut fastrand::Rng) {
    if bytes.is_empty() {
        return bytes.push(random.u8(..));
    }
    let at = random.usize(0..bytes.len());
    match random.u32(0..10) {
        0..5 => bytes[at] = random.u8(..),
        5 => bytes[at] = *random.choice([0, 1, 0x7f, 0x80, 0xff].iter()).unwrap(),
        6 => {
            // A number that overflows something.
            let end = (at + 8).min(bytes.len());
            bytes[at..end].fill(0xff);
        }
        7 => bytes.truncate(at),
        8 => {
            let len = random.usize(0..200).min(bytes.len() - at);
            bytes.drain(at..at + len);
        }
        _ => {
            let len = random.usize(0..200).min(bytes.len() - at);
            let part = bytes[at..at + len].to_vec();
            let to = random.usize(0..=bytes.len());
            bytes.splice(to..to, part);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_events_are_read_again_and_used(mut events in prop::collection::vec(event(), 0..40)) {
        let (bytes, _) = written(std::slice::from_ref(&events), 7, 1 << 20, OnFull::Drop, true);
        let trace = TraceFile::parse(&bytes).unwrap();
        events.sort_by_key(Event::at);
        let found = trace.threads.first().map(|thread| thread.events.clone());
        prop_assert_eq!(found.unwrap_or_default(), events);
        use_it(&trace);
    }

    #[test]
    fn any_bytes_are_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(TraceFile::parse(&bytes).is_err());
    }
}
