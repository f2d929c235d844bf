//! What an observer is told.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use super::super::{LookupPath, Observer, SectionSeen, VmaInfo, WaitOptions};
use super::*;

/// Whose clock counts the looks at it.
#[derive(Default)]
struct Notebook {
    clock: AtomicU64,
    sections: Mutex<Vec<Seen>>,
    rounds: Mutex<Vec<(u64, u64)>>,
}

/// A copy of what was told.
struct Seen {
    number: u64,
    rounds: u64,
    times: [u64; 5],
    published: bool,
    holders: usize,
    removed: Vec<VmaInfo>,
    added: Vec<VmaInfo>,
}

impl Observer for Notebook {
    fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn section(&self, seen: &SectionSeen<'_>) {
        self.sections.lock().unwrap().push(Seen {
            number: seen.number,
            rounds: seen.rounds,
            times: [
                seen.opened,
                seen.planned,
                seen.drained,
                seen.applied,
                seen.ended,
            ],
            published: seen.published,
            holders: seen.holders,
            removed: seen.removed.to_vec(),
            added: seen.added.to_vec(),
        });
    }

    fn round(&self, seq: u64, at: u64) {
        self.rounds.lock().unwrap().push((seq, at));
    }
}

fn observed(mm: &Space) -> Arc<Notebook> {
    let notebook = Arc::new(Notebook::default());
    assert!(mm.observe(notebook.clone()).is_ok());
    notebook
}

fn starts(vmas: &[VmaInfo]) -> Vec<u64> {
    vmas.iter().map(|vma| vma.range.start() >> 12).collect()
}

#[test]
fn every_section_is_told_with_its_changes_and_times_in_order() {
    let mm = space_with([1, 2]);
    let notes = observed(&mm);
    mm.map(page(7), ROM, 3, Tag(7)).unwrap();
    mm.unmap(range(at(1), 0x2000), None).unwrap();
    let published = mm.unmap(range(at(7), 0x800), None).unwrap();

    let seen = notes.sections.lock().unwrap();
    assert_eq!(seen.len(), 3);
    for section in &*seen {
        assert!(section.published && section.rounds == 1 && section.holders == 0);
        assert!(section.times.is_sorted() && section.times[0] > 0);
    }
    assert_eq!(starts(&seen[0].added), [7]);
    assert_eq!((seen[0].added[0].flags, seen[0].added[0].offset), (ROM, 3));
    assert!(seen[0].removed.is_empty());
    assert_eq!(starts(&seen[1].removed), [1, 2]);
    assert!(seen[1].added.is_empty());
    assert_eq!(seen[2].number, published.number);
    assert_eq!(seen[2].removed[0].range, page(7));
    assert_eq!(seen[2].added[0].range, range(at(7) + 0x800, 0x800));
    assert!(mm.observe(notes.clone()).is_err());
}

#[test]
fn what_is_given_up_is_told_as_that() {
    let mm = space_with([1]);
    let notes = observed(&mm);
    let guard = mm.lock_vma_under_rcu(at(1)).unwrap();
    thread::scope(|scope| {
        let unmap = || mm.unmap(page(1), Some(Instant::now())).map(drop);
        scope.spawn(unmap).join().unwrap().unwrap_err();
    });
    drop(guard);
    drop(mm.mmap_write_lock().unwrap());
    let seen = notes.sections.lock().unwrap();
    let [timed_out, empty] = &seen[..] else {
        panic!("two sections");
    };
    assert!(!timed_out.published && timed_out.holders == 1 && timed_out.rounds == 1);
    assert!(timed_out.removed.is_empty() && timed_out.added.is_empty());
    let [_, planned, drained, applied, ended] = timed_out.times;
    assert!(planned < ended && (drained, applied) == (0, 0));
    assert_eq!((empty.rounds, empty.times[1]), (0, 0));
}

/// Whoever waited is awake after the section has ended, on the same clock, and names
/// a number of that section's, also where a long drain had several.
#[test]
fn a_wait_lies_inside_its_section() {
    let mm = space_with([1]);
    let notes = observed(&mm);
    let guard = mm.lock_vma_under_rcu(at(1)).unwrap();
    let path = thread::scope(|scope| {
        let writer = scope.spawn(|| mm.unmap(page(1), None).unwrap());
        let locked = || mm.lock_vma_under_rcu(at(1)).is_none();
        until(|| !writer.is_finished() && locked());
        let reader = scope.spawn(|| {
            let mut path = LookupPath::default();
            let found = mm
                .lock_vma_under_rcu_wait_with(at(1), WaitOptions::default(), &mut path)
                .unwrap();
            drop(found);
            path
        });
        until(|| mm.stats().lookup_wait > 0);
        until(|| mm.stats().drain_rounds > 0);
        drop(guard);
        writer.join().unwrap();
        reader.join().unwrap()
    });
    let waited = path.waited.unwrap();
    let seen = notes.sections.lock().unwrap();
    let rounds = notes.rounds.lock().unwrap();
    let section = &seen[0];
    assert_eq!(rounds.len() as u64, section.rounds - 1);
    let released = rounds
        .iter()
        .find(|(seq, _)| *seq == waited.section)
        .map_or(section.times[4], |(_, at)| *at);
    let last = section.number + 2 * (section.rounds - 1);
    assert!((section.number..=last).contains(&waited.section));
    assert!(waited.from < waited.until && released < waited.until);
}
