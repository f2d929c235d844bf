//! Readers and writers without rest, and oracles.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use super::super::Vma;
use super::*;

/// A payload that says whether it is still mapped.
#[derive(Clone)]
struct Live(Arc<AtomicBool>);

impl Payload for Live {}

const PAGES: u64 = 64;

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn fresh() -> Live {
    Live(Arc::new(AtomicBool::new(true)))
}

/// Even pages come and go, odd ones stay (with changing flags), nothing is ever
/// past the last. What is held is alive at both ends of the hold.
#[test]
fn storm() {
    let mm = Arc::new(AddressSpace::<Live>::new("storm", range(0, 1 << 30)));
    for number in 0..PAGES {
        mm.map(page(number), RAM, 0, fresh()).unwrap();
    }
    let stop = AtomicBool::new(false);
    let held = AtomicU64::new(0);
    thread::scope(|scope| {
        for seed in 1..=2_u64 {
            let (mm, stop, held) = (&mm, &stop, &held);
            scope.spawn(move || {
                let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                while !stop.load(Ordering::Relaxed) {
                    let number = random(&mut state) % (PAGES + 8);
                    let guard = mm.lock_vma_under_rcu_wait(at(number)).unwrap();
                    assert!(number.is_multiple_of(2) || number >= PAGES || guard.is_some());
                    assert!(number < PAGES || guard.is_none());
                    let Some(vma) = guard else { continue };
                    let check = |vma: &Vma<Live>| {
                        assert!(vma.range().contains(at(number)));
                        assert!(vma.payload().0.load(Ordering::Relaxed));
                        vma.generation()
                    };
                    let before = check(&vma);
                    if random(&mut state).is_multiple_of(64) {
                        thread::yield_now();
                        let other = random(&mut state) % PAGES;
                        drop(mm.lock_vma_under_rcu_wait(at(other)).unwrap());
                    }
                    assert_eq!(check(&vma), before);
                    held.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut state = 77;
        for _ in 0..4000 {
            let number = random(&mut state) % PAGES;
            if number % 2 == 1 {
                let flags = if random(&mut state).is_multiple_of(2) {
                    RAM
                } else {
                    ROM
                };
                let pages = range(at(number), 0x1000);
                let mut section = mm.mmap_write_lock().unwrap();
                section.protect(pages, flags).unwrap();
                section.lock().unwrap().publish();
                continue;
            }
            match mm.unmap(page(number), None) {
                Ok(done) => done.removed.iter().for_each(|vma| {
                    vma.payload().0.store(false, Ordering::Relaxed);
                }),
                Err(_) => mm.map(page(number), RAM, 0, fresh()).unwrap(),
            }
        }
        until(|| held.load(Ordering::Relaxed) > 1000);
        stop.store(true, Ordering::Relaxed);
    });
    let stats = mm.stats();
    assert!(stats.lookup_success > 0 && stats.sections > 0);
    mm.unmap(range(0, 1 << 30), None).unwrap();
    assert_eq!(mm.core.retired(), 0, "nothing is left to free");
}

/// One leaf, many leaves, and back, with a reader who must never miss.
#[test]
fn the_tree_grows_and_shrinks_under_a_reader() {
    let mm = space_with([0]);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                assert!(mm.lock_vma_under_rcu_wait(5).unwrap().is_some());
            }
        });
        for _ in 0..5 {
            for number in 1..600 {
                mm.map(page(number), RAM, 0, Tag(number)).unwrap();
            }
            mm.unmap(range(at(1), at(600)), None).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
}
