//! A map at the socket: of a machine, or of a storm that has no machine. Nothing here
//! takes the map lock, or waits for a writer.

use std::collections::BTreeMap;

use super::model::{
    Backing, Change, Counters, Did, Hold, MapEntry, OpenSection, Range, Sections, Stage, Thread,
    Wait,
};
use crate::clock::{self, Rate};
use crate::machine::{Monitor, ThreadName};
use crate::memory::{self, GuestSpace};
use crate::mm::{AddrRange, AddressSpace, HoldKind, Holder, VmFlags, VmaInfo};
use crate::trace::event::What;

type Map = AddressSpace<memory::Backing>;

/// A range of the map. One that ends at 2^64 is told a byte short.
pub(super) fn range(range: AddrRange) -> Range {
    Range {
        start: range.start(),
        size: range.len().unwrap_or(u64::MAX),
    }
}

fn thread(name: &ThreadName) -> Thread {
    Thread {
        name: name.name.clone(),
        tid: name.tid,
    }
}

pub(super) fn hold(holder: &Holder) -> Hold {
    let kind = match holder.kind {
        HoldKind::Walk => "walk",
        HoldKind::Hold => "hold",
        HoldKind::Pin => "pin",
        HoldKind::Wait => "wait",
    };
    Hold {
        thread: holder.thread.clone(),
        addr: holder.addr,
        kind: kind.to_owned(),
    }
}

/// Who waits for the section that is open. (vCPUs are not known here.)
pub(super) fn waits(map: &Map, monitor: &Monitor) -> Vec<Wait> {
    let waiters = map.waiters();
    if waiters.is_empty() {
        return Vec::new();
    }
    let open = monitor.sections().open;
    let wait = |waiter: crate::mm::Waiter| {
        // One that began meanwhile is not the one that is waited for.
        let open = open.as_ref().filter(|open| open.number <= waiter.section);
        Wait {
            thread: waiter.thread,
            vcpu: None,
            addr: waiter.addr,
            section: open.map_or(waiter.section, |open| open.number),
            writer: open.map(|open| thread(&open.writer)),
            since_ns: None,
        }
    };
    waiters.into_iter().map(wait).collect()
}

/// The write sections of a map.
pub(super) fn sections(map: &Map, monitor: &Monitor, rate: Rate) -> Sections {
    let (seen, stats) = (monitor.sections(), map.stats());
    let now = clock::ticks();
    let ago = |ticks| rate.ns(now.saturating_sub(ticks));
    let open = seen.open.map(|open| OpenSection {
        section: open.number,
        stage: match open.drained {
            true => Stage::Applying,
            false => Stage::Draining,
        },
        writer: thread(&open.writer),
        since_ns: ago(open.since),
        held_by: {
            let holders = open.ranges.iter().flat_map(|range| map.holders(*range));
            let holds = holders.filter(|holder| holder.kind != HoldKind::Wait);
            holds.map(|holder| hold(&holder)).collect()
        },
        ranges: open.ranges.into_iter().map(range).collect(),
    });
    let last = seen.last.into_iter().map(|over| Change {
        section: over.number,
        did: match over.what {
            None => Did::GivenUp,
            Some(What::Map) => Did::Map,
            Some(What::Unmap) => Did::Unmap,
            Some(_) => Did::Change,
        },
        range: over.range.map(range),
        writer: thread(&over.writer),
        ago_ns: ago(over.ended),
        took_ns: rate.ns(over.took),
        drain_ns: rate.ns(over.drain),
        holders: u32::try_from(over.holders).unwrap_or(u32::MAX),
    });
    Sections {
        published: seen.published,
        given_up: seen.given_up,
        rounds: stats.drain_rounds,
        drained_readers: stats.drained_readers,
        open,
        last: last.collect(),
    }
}

/// The counters of a map.
pub(super) fn counters(map: &Map) -> Counters {
    let stats = map.stats();
    let counts = [
        ("lookup_success", stats.lookup_success),
        ("lookup_abort", stats.lookup_abort),
        ("lookup_miss", stats.lookup_miss),
        ("lookup_wait", stats.lookup_wait),
        ("lookup_retry", stats.lookup_retry),
        ("nested_admission", stats.nested_admission),
        ("sections", stats.sections),
        ("drains", stats.drains),
        ("drained_readers", stats.drained_readers),
        ("drain_rounds", stats.drain_rounds),
    ];
    let counts = counts.map(|(name, count)| (name.to_owned(), count));
    BTreeMap::from([("map".to_owned(), counts.into())])
}

/// The first `limit` VMAs that end after `from`, with neither slots nor hits.
pub(super) fn entries(
    map: &Map,
    monitor: Option<&Monitor>,
    rate: Rate,
    from: u64,
    limit: usize,
) -> Vec<MapEntry> {
    let space = map.range();
    let Some(rest) = AddrRange::inclusive(from.max(space.start()), space.last()) else {
        return Vec::new();
    };
    let mut vmas = map.vmas(rest);
    vmas.truncate(limit);
    let births = monitor.map(|monitor| {
        let of = |vma: &VmaInfo| (vma.range.start(), vma.generation);
        monitor.births(vmas.iter().map(of))
    });
    let now = clock::ticks();
    let mut holders: BTreeMap<u64, Vec<Hold>> = BTreeMap::new();
    for holder in map.holders(space) {
        holders.entry(holder.addr).or_default().push(hold(&holder));
    }
    let entry = |(n, vma): (usize, &VmaInfo)| {
        let born = births.as_ref().and_then(|births| births[n]);
        let told = range(vma.range);
        let (backing, name) = backing(map, vma);
        let inside = holders.range(vma.range.start()..=vma.range.last());
        MapEntry {
            start: told.start,
            size: told.size,
            flags: vma.flags.to_string(),
            backing,
            name,
            id: None,
            offset: vma.offset,
            slot: None,
            hits: None,
            holders: inside
                .flat_map(|(_, holds)| holds.iter().cloned())
                .collect(),
            section: vma.generation,
            age_ns: born.map(|born| rate.ns(now.saturating_sub(born))),
        }
    };
    vmas.iter().enumerate().map(entry).collect()
}

/// What stands behind a VMA: as the VMA says, if it can be had at once, or else as its
/// flags do.
fn backing(map: &Map, vma: &VmaInfo) -> (Backing, String) {
    let found = map.lock_vma_under_rcu(vma.range.start());
    let there = found.filter(|there| there.generation() == vma.generation);
    if let Some(there) = there {
        let payload = there.payload();
        let backing = match payload {
            memory::Backing::Ram(_) => Backing::Ram,
            memory::Backing::Lazy(_) => Backing::LazyRam,
            memory::Backing::Rom(_) => Backing::Rom,
            memory::Backing::Mmio(_) => Backing::Mmio,
        };
        return (backing, payload.name().to_owned());
    }
    let has = |flag| vma.flags.contains(flag);
    let (backing, name) = if has(VmFlags::IO) {
        (Backing::Mmio, "mmio")
    } else if has(GuestSpace::LAZY) {
        (Backing::LazyRam, "ram")
    } else if has(VmFlags::WRITE) {
        (Backing::Ram, "ram")
    } else {
        (Backing::Rom, "rom")
    };
    (backing, name.to_owned())
}
