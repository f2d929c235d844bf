//! Models of the protocol, run by loom on the real code.
//!
//!     RUSTFLAGS="--cfg loom" cargo test --release -p gracefault \
//!         --no-default-features --lib loom
//!
//! By default at most three preemptions are tried in each execution, so that all
//! models together take minutes; `LOOM_MAX_PREEMPTIONS=4` (or more) looks further
//! and takes hours. Nodes have four children under loom and records two entries.
//!
//! What the models rely on: [`Life`](super::sync::Life) fails a model when a node,
//! a slot or a VMA is used without an order between that use and its making or
//! its end; a thread that sleeps for ever is a deadlock, which loom reports; and a
//! drain that never ends runs into loom's limit.

mod entries;
mod nest;
mod pair;
mod pin_sets;
mod pins;
mod strategies;
mod wait;
mod writers_merge;

use loom::sync::Arc;
use loom::thread;

use super::core::Pace;
use super::{
    AddrRange, AddressSpace, LookupPath, Payload, Strategy, VmFlags, VmaReadGuard, WaitOptions,
};

type Space = Arc<AddressSpace<u32>>;

impl Payload for u32 {}

/// Two VMAs in most models: one at [`A`], one at [`B`], ten addresses each.
const A: u64 = 0;
const B: u64 = 10;
const RAM: VmFlags = VmFlags::READ;
const ROM: VmFlags = VmFlags::EXEC;

fn range(start: u64, len: u64) -> AddrRange {
    AddrRange::new(start, len).unwrap()
}

fn a() -> AddrRange {
    range(A, 10)
}

fn b() -> AddrRange {
    range(B, 10)
}

/// A space whose drains last one round, with these VMAs.
fn space(vmas: &[AddrRange]) -> Space {
    space_at(vmas, 0)
}

fn space_at(vmas: &[AddrRange], seq: u64) -> Space {
    space_by(Strategy::Native, vmas, seq)
}

fn space_by(strategy: Strategy, vmas: &[AddrRange], seq: u64) -> Space {
    let mm = AddressSpace::starting_at("model", range(0, 100), strategy, seq, pace(1));
    let mut section = mm.mmap_write_lock().unwrap();
    for vma in vmas {
        section.map(*vma, RAM, 0, 7).unwrap();
    }
    section.lock().unwrap().publish();
    Arc::new(mm)
}

/// Loom's clock stands still: rounds of no length end after every scan, others
/// never.
fn pace(round_seconds: u64) -> Pace {
    let round = std::time::Duration::from_secs(round_seconds);
    Pace {
        round,
        ..Pace::default()
    }
}

fn model(f: impl Fn() + Sync + Send + 'static) {
    model_bound(3, f)
}

fn model_bound(bound: usize, f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(bound);
    builder.max_branches = 20_000;
    builder.check(f);
}

fn lookup(mm: &Space, addr: u64) -> Option<VmaReadGuard<'_, u32>> {
    mm.lock_vma_under_rcu_wait(addr).unwrap()
}

/// A lookup that says whether it slept and whether it was let in.
fn lookup_path(mm: &Space, addr: u64) -> (Option<VmaReadGuard<'_, u32>>, LookupPath) {
    let mut path = LookupPath::default();
    let guard = mm
        .lock_vma_under_rcu_wait_with(addr, WaitOptions::default(), &mut path)
        .unwrap();
    (guard, path)
}

/// Looks at what is held, twice: it must be there, and the same.
fn use_it(guard: &VmaReadGuard<'_, u32>) {
    assert_eq!(*guard.payload(), 7);
    let generation = guard.generation();
    thread::yield_now();
    assert_eq!(*guard.payload(), 7);
    assert_eq!(guard.generation(), generation);
}

/// Gives everything in `range` other flags, so that other VMAs take its place.
fn replace(mm: &Space, range: AddrRange, flags: VmFlags) {
    let mut section = mm.mmap_write_lock().unwrap();
    section.protect(range, flags).unwrap();
    let published = section.lock().unwrap().publish();
    assert!(published.replaced.iter().all(|vma| *vma.payload() == 7));
}

fn unmap(mm: &Space, range: AddrRange) {
    let published = mm.unmap(range, None).unwrap();
    assert!(published.removed.iter().all(|vma| *vma.payload() == 7));
}
