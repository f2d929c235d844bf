//! All that may happen in one space at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use shuttle::thread::{self, JoinHandle};

use super::super::{
    Drained, KillFlag, LookupError, LookupPath, MmStats, VmaPin, WaitOptions, WriteError,
};
use super::pages::{ALWAYS, Held, PAGE, PAGES, Pages, Part, RAM, ROM, pages};
use super::*;

/// One order of things: the map and who is called back.
struct World {
    pages: Pages,
    kill: KillFlag,
    nests: bool,
    /// Whether who has a pin may look up by it.
    presents: bool,
}

/// What must have happened in some order or other.
#[derive(Default)]
struct Seen {
    waits: AtomicU64,
    nested: AtomicU64,
    drains: AtomicU64,
    rounds: AtomicU64,
    merges: AtomicU64,
    kills: AtomicU64,
    given_up: AtomicU64,
    instead: AtomicU64,
}

impl Seen {
    fn add(&self, stats: MmStats) {
        self.waits.fetch_add(stats.lookup_wait, Ordering::Relaxed);
        let nested = stats.nested_admission;
        self.nested.fetch_add(nested, Ordering::Relaxed);
        self.drains.fetch_add(stats.drains, Ordering::Relaxed);
        self.rounds.fetch_add(stats.drain_rounds, Ordering::Relaxed);
    }
}

impl World {
    /// Looks up, by one of the ways that there are; `None` if that was called back.
    fn find(&self, seen: &Seen) -> Option<Held<'_>> {
        let addr = random(PAGES + 2) * PAGE + random(PAGE);
        let mut path = LookupPath::default();
        let options = WaitOptions {
            deadline: None,
            kill: once_in(3).then_some(&self.kill),
        };
        let mm = &self.pages.mm;
        let may_abort = once_in(4);
        let found = match random(3) {
            _ if may_abort => mm.lock_vma_under_rcu(addr),
            0 => mm.lock_vma_under_rcu_wait(addr).unwrap(),
            _ => match mm.lock_vma_under_rcu_wait_with(addr, options, &mut path) {
                Ok(found) => found,
                Err(error) => {
                    assert_eq!(error, LookupError::Killed);
                    seen.kills.fetch_add(1, Ordering::Relaxed);
                    return None;
                }
            },
        };
        let always = addr < ALWAYS * PAGE && !may_abort;
        assert!(found.is_some() || !always, "{addr} is always mapped");
        // What is moved may reach one page further.
        assert!(found.is_none() || addr < (PAGES + 1) * PAGE, "never mapped");
        found.map(|guard| Held::new(&self.pages, addr, guard))
    }

    /// Holds several, gives them up in any order, and leaves pins behind.
    fn read(self: &Arc<Self>, seen: &Seen) -> Vec<JoinHandle<()>> {
        let mut left = Vec::new();
        for _ in 0..3 {
            let most = if self.nests { 3 } else { 1 };
            let mut held: Vec<_> = (0..=random(most)).filter_map(|_| self.find(seen)).collect();
            thread::yield_now();
            while !held.is_empty() {
                held.iter().for_each(|held| held.check(&self.pages));
                let one = held.swap_remove(random(held.len() as u64) as usize);
                if once_in(3) {
                    left.push(self.leave(one));
                }
            }
        }
        left
    }

    /// Makes a pin of it, and has another thread give it up.
    fn leave(self: &Arc<Self>, held: Held<'_>) -> JoinHandle<()> {
        let Held { guard, look } = held;
        let pin = guard.pin();
        let this = self.clone();
        thread::spawn(move || {
            assert_eq!(this.pages.look(look.addr, &pin), look);
            let copy = once_in(2).then(|| pin.clone());
            drop(pin);
            thread::yield_now();
            if let Some(copy) = copy {
                assert_eq!(this.pages.look(look.addr, &copy), look);
            }
        })
    }

    /// Both sides of a border that comes and goes: neither is ever missed, and they
    /// are of one age.
    fn cross(&self) {
        let order = if once_in(2) { [0, 1] } else { [1, 0] };
        let addrs = order.map(|page| page * PAGE + random(PAGE));
        let held = addrs.map(|addr| {
            let found = self.pages.mm.lock_vma_under_rcu_wait(addr).unwrap();
            Held::new(&self.pages, addr, found.expect("always mapped"))
        });
        assert_eq!(held[0].look.flags, held[1].look.flags, "one old, one new");
        let [first, second] = held;
        first.check(&self.pages);
        drop(first);
        second.check(&self.pages);
    }

    /// Holds a pin, and wants another VMA that the same writer may want.
    fn present(&self) {
        let Some(guard) = self.pages.mm.lock_vma_under_rcu(random(PAGES) * PAGE) else {
            return;
        };
        let addr = guard.range().start();
        let pin: VmaPin<Part> = guard.pin();
        let look = self.pages.look(addr, &pin);
        let other = random(ALWAYS) * PAGE;
        let mut path = LookupPath::default();
        let options = WaitOptions::default();
        let (inner, inner_look) = {
            let found = pin.lock_vma_under_rcu_wait_with(other, options, &mut path);
            let found = found.unwrap().expect("always mapped");
            let held = Held::new(&self.pages, other, found);
            assert_eq!(self.pages.look(addr, &pin), look);
            held.check(&self.pages);
            let Held { guard, look } = held;
            (guard.pin(), look)
        };
        // The outer one goes first.
        drop(pin);
        thread::yield_now();
        assert_eq!(self.pages.look(other, &inner), inner_look);
    }

    /// A bare walk: one version.
    fn walk(&self) {
        let all = self.pages.mm.vmas(self.pages.mm.range());
        assert!(all.is_sorted_by(|l, r| l.range.last() < r.range.start()));
        let first = all.iter().filter(|vma| vma.range.start() < ALWAYS * PAGE);
        let (mut end, mut flags) = (0, Vec::new());
        for vma in first {
            assert_eq!(vma.range.start(), end, "a hole");
            end = vma.range.last() + 1;
            flags.push(vma.flags);
        }
        assert!(end >= ALWAYS * PAGE);
        flags.dedup();
        assert_eq!(flags.len(), 1, "one old, one new");
    }

    /// Plans, locks, and publishes or gives up.
    fn write(&self, seen: &Seen) {
        let mut section = self.pages.mm.mmap_write_lock().unwrap();
        for _ in 0..=random(2) {
            // What is refused is left out.
            let _ = self.step(&mut section);
        }
        let drained = section.lock().unwrap();
        self.pages.change(&drained);
        thread::yield_now();
        if once_in(6) {
            seen.given_up.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if once_in(6) {
            seen.instead.fetch_add(1, Ordering::Relaxed);
            self.publish_instead(drained);
            return;
        }
        let done = drained.publish();
        let parts = done.replaced.windows(2);
        let merged = parts.filter(|two| two[0].goes_on_as(&two[1])).count();
        seen.merges.fetch_add(merged as u64, Ordering::Relaxed);
    }

    /// Has some of what is locked made anew as it is, but for the payload, in place of
    /// what was planned.
    fn publish_instead(&self, drained: Drained<'_, Part>) {
        let removed = drained.removed().count();
        let mut anew = Vec::new();
        let done = drained.publish_instead(|vma| {
            let part = once_in(2).then(|| self.pages.part(random(3)))?;
            anew.push(vma.range());
            Some((vma.flags(), part))
        });
        assert!(done.removed.is_empty(), "{removed} were planned to be");
        assert!(done.replaced.iter().map(|vma| vma.range()).eq(anew));
    }

    fn step(&self, section: &mut super::super::WriteSection<'_, Part>) -> Result<(), WriteError> {
        let first = ALWAYS + random(PAGES - ALWAYS);
        let some = pages(first, PAGES.min(first + 1 + random(2)));
        let flags = if once_in(2) { RAM } else { ROM };
        match random(7) {
            // The pair, or more than that.
            0 | 1 => section.protect(pages(0, ALWAYS + random(2)), flags),
            2 => section.split(random(PAGES * PAGE)),
            3 => section.protect(some, flags),
            4 => section.unmap(some),
            5 => section.map(some, flags, some.start(), self.pages.part(1)),
            _ => section.relocate(some, (ALWAYS + random(PAGES - ALWAYS)) * PAGE),
        }
    }
}

/// Readers that nest, pin, are called back, exit and leave their records to others,
/// beside two writers who split, merge, move, remove and give up.
fn everything(strategy: Strategy, seen: &Arc<Seen>) {
    // Near the counter's end, one in two.
    let seq = if once_in(2) { 0 } else { u64::MAX - 11 };
    let able = strategy.capabilities();
    let world = Arc::new(World {
        pages: Pages::new(strategy, seq, pace(random(2))),
        kill: KillFlag::new(),
        nests: able.nests,
        presents: able.nests && able.is_killable,
    });
    let spawn = |f: fn(&Arc<World>, &Seen)| {
        let (world, seen) = (world.clone(), seen.clone());
        thread::spawn(move || f(&world, &seen))
    };
    let mut threads = Vec::new();
    for _ in 0..2 {
        threads.push(spawn(|world, seen| (0..4).for_each(|_| world.write(seen))));
        threads.push(spawn(|world, seen| {
            let left = world.read(seen);
            left.into_iter().for_each(|thread| thread.join().unwrap());
        }));
    }
    threads.push(spawn(|world, _| {
        world.walk();
        if world.nests {
            world.cross();
        }
        world.walk();
        world.kill.raise();
    }));
    threads.push(spawn(|world, _| {
        if world.presents {
            world.present();
        }
        // A thread that comes when others go.
        let world = world.clone();
        let next = thread::spawn(move || {
            let held = world.pages.mm.lock_next_vma(random(PAGE)).unwrap();
            assert!(held.expect("always mapped").range().start() < PAGE);
        });
        next.join().unwrap();
    }));
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    seen.add(world.pages.mm.stats());
    let world = Arc::into_inner(world).expect("all threads are gone");
    world.pages.end();
}

fn check_everything(strategy: Strategy) {
    let seen = Arc::new(Seen::default());
    let there = seen.clone();
    check(move || everything(strategy, &there));
    let Seen {
        waits,
        nested,
        drains,
        rounds,
        merges,
        kills,
        given_up,
        instead,
    } = Arc::into_inner(seen).expect("the model is over");
    let mut counts = vec![waits, drains, rounds, merges, kills, given_up, instead];
    counts.extend(strategy.capabilities().nests.then_some(nested));
    let counts: Vec<_> = counts.into_iter().map(AtomicU64::into_inner).collect();
    println!(
        "{strategy}: waits, drains, rounds, merges, kills, given up, instead, nested: {counts:?}"
    );
    assert!(counts.iter().all(|count| *count > 0), "vacuous");
}

#[test]
fn shuttle_everything() {
    check_everything(Strategy::Native);
}

#[test]
fn shuttle_everything_by_retry() {
    check_everything(Strategy::Retry);
}

#[test]
fn shuttle_everything_by_pin() {
    check_everything(Strategy::Pin);
}

#[test]
fn shuttle_everything_by_refcount() {
    check_everything(Strategy::Refcount);
}

#[test]
fn shuttle_everything_by_rwlock() {
    check_everything(Strategy::Rwlock);
}
