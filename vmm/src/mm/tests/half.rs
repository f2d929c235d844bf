//! Sections that a panic has left half planned.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::super::{WriteError, WriteSection};
use super::*;

thread_local! {
    /// Which call from now on panics: 1 for the next one, 0 for none.
    static PANICS: Cell<u32> = const { Cell::new(0) };
}

/// Past the hook, which would print it.
fn may_panic() {
    let left = PANICS.get();
    PANICS.set(left.saturating_sub(1));
    if left == 1 {
        resume_unwind(Box::new("a payload's"));
    }
}

/// The copying of which may panic.
struct Brittle;

impl Payload for Brittle {}

impl Clone for Brittle {
    fn clone(&self) -> Self {
        may_panic();
        Self
    }
}

type Step = fn(&mut WriteSection<'_, Brittle>) -> Result<(), WriteError>;

/// Each makes copies, for it takes the middle out of a VMA, or more.
const STEPS: [Step; 4] = [
    |section| section.unmap(range(at(1) + 0x400, 0x800)),
    |section| section.protect(range(at(1) + 0x400, 0x800), ROM),
    |section| section.split(at(1) + 0x400),
    |section| section.relocate(range(at(1) + 0x400, at(1)), at(5)),
];

/// A step panics somewhere in the middle and the caller catches that: nothing of the
/// section can be published, nor planned any further, and nothing has changed.
#[test]
fn what_is_half_planned_is_not_published() {
    let mut caught = 0;
    for step in STEPS {
        for copy in 1.. {
            let mm = AddressSpace::new("half", range(0, 1 << 20));
            mm.map(page(1), RAM, at(1), Brittle).unwrap();
            mm.map(page(2), RAM, at(2), Brittle).unwrap();
            let before = mm.vmas(mm.range());
            let mut section = mm.mmap_write_lock().unwrap();
            PANICS.set(copy);
            let ended = catch_unwind(AssertUnwindSafe(|| step(&mut section)));
            PANICS.set(0);
            if ended.is_ok_and(|done| done.is_ok()) {
                break;
            }
            caught += 1;
            assert_eq!(
                section.map(page(8), RAM, 0, Brittle),
                Err(WriteError::HalfPlanned)
            );
            assert_eq!(section.unmap(page(1)), Err(WriteError::HalfPlanned));
            let locked = section.lock().map(|drained| drop(drained.publish()));
            assert_eq!(locked, Err(WriteError::HalfPlanned));
            assert_eq!(mm.vmas(mm.range()), before);
            // The next section is as good as any.
            step(&mut mm.mmap_write_lock().unwrap()).unwrap();
        }
    }
    assert!(caught > STEPS.len(), "each of them makes copies");
}

/// What is refused changes nothing, so its section goes on.
#[test]
fn what_is_refused_spoils_nothing() {
    let mm = space_with([1]);
    let mut section = mm.mmap_write_lock().unwrap();
    for refused in [
        section.map(page(1), RAM, 0, Tag(2)),
        section.unmap(page(3)),
        section.protect(range(at(1), 0x2000), ROM),
        section.split(at(3)),
        section.relocate(page(1), 1 << 40),
    ] {
        assert!(!matches!(refused, Ok(()) | Err(WriteError::HalfPlanned)));
    }
    section.unmap(page(1)).unwrap();
    assert_eq!(section.lock().unwrap().publish().removed.len(), 1);
}
