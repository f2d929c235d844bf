//! Promise 3: what a lookup writes is on cache lines of its own thread's.

use std::collections::BTreeSet;
use std::mem::{align_of, size_of};

use super::super::record::Record;
use super::*;

/// Two lines, since processors fetch them in pairs.
const LINES: usize = 128;

/// Records begin and end with such a pair, so no two share one, nor does one share it
/// with anything else; and all that a lookup writes, the entries included, is inside.
#[test]
fn records_share_no_line() {
    assert_eq!(
        (align_of::<Record>(), size_of::<Record>() % LINES),
        (LINES, 0)
    );
    let mm = space_with([1, 2]);
    let barrier = std::sync::Barrier::new(4);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let held = [1, 2].map(|number| mm.lock_vma_under_rcu(at(number)));
                assert!(held.iter().all(Option::is_some));
                barrier.wait();
                drop(held);
            });
        }
    });
    let mut lines = BTreeSet::new();
    let records: Vec<_> = mm.core.registry.records().collect();
    for record in &records {
        let start = std::ptr::from_ref::<Record>(record).addr();
        let inside = start..start + size_of::<Record>();
        record.each_entry(|entry| {
            assert!(inside.contains(&std::ptr::from_ref(entry).addr()));
        });
        assert!(inside.step_by(LINES).all(|line| lines.insert(line / LINES)));
    }
    assert_eq!(records.len(), 5, "this thread's and four");
}

/// What every lookup loads of the space is on no line that any lookup writes, and none
/// that a writer writes while it waits or counts.
#[test]
fn what_lookups_load_is_apart_from_what_writers_count() {
    let mm = space();
    let line = |at: usize| at / LINES;
    let (seq, writer) = (&raw const mm.core.seq, &raw const mm.core.writer);
    assert_ne!(line(seq.addr()), line(writer.addr()));
    assert_eq!(writer.addr() % LINES, 0);
    assert_eq!(line(seq.addr()), line(std::ptr::from_ref(&*mm.core).addr()));
}
