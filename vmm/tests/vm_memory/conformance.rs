//! One body of checks, run on `GuestMemoryAtomic<GuestMemoryMmap>`, on `GuestRam` and on
//! `GuestDma`: each writes down what every access came to, and the three are compared.
//! Every method of the traits is called: that is checked too.

#[path = "conformance/backend.rs"]
mod backend;
#[path = "conformance/dirty.rs"]
mod dirty;
#[path = "conformance/log.rs"]
pub(crate) mod log;
#[path = "conformance/memory.rs"]
mod memory;
#[path = "conformance/region.rs"]
mod region;
#[path = "conformance/scene.rs"]
mod scene;

use gracefault::memory::vm_memory::GuestRam;
use vm_memory::{
    Bytes, GuestAddress, GuestAddressSpace, GuestMemory, GuestMemoryBackend, GuestMemoryMmap,
};

use super::{by_hand, ram, theirs};
use crate::PAGE;
use log::Log;
use region::InRegion;
use scene::{LENGTHS, ODD, PAGES, Scene, fill, sum};

/// Every access to every border, with memory in a known state before each write.
fn checks<A: GuestAddressSpace>(scene: Scene, space: &A) -> Log {
    let mut log = Log::default();
    let memory = space.memory();
    let memory = &*memory;
    fill(memory, scene.0);
    let untouched = sum(memory, scene.0);
    let physical = memory.physical_memory();
    log.add("GuestMemory::physical_memory", (), physical.is_some());
    let physical = physical.expect("both have it");
    for addr in scene.addresses() {
        for len in LENGTHS {
            memory::ranges(scene, memory, &mut log, addr, len);
            memory::slices(memory, &mut log, addr, len);
            memory::streams(scene, memory, &mut log, addr, len);
        }
        memory::files(scene, memory, &mut log, addr);
        memory::objects(scene, memory, &mut log, addr);
        memory::atomics(scene, memory, &mut log, addr);
        backend::address(physical, &mut log, addr);
    }
    backend::whole(physical, &mut log);
    for region in physical.iter() {
        let there = InRegion {
            scene,
            memory,
            region,
        };
        there.checks(&mut log);
    }
    assert_eq!(sum(memory, scene.0), untouched, "all of it is restored");
    log
}

fn all(scene: Scene, ours: &GuestRam) {
    let theirs = checks(scene, &theirs(scene.0));
    assert!(theirs.len() > 100_000, "{} checks", theirs.len());
    for methods in [memory::METHODS, backend::METHODS, region::METHODS] {
        assert_eq!(theirs.not_called(methods), [""; 0]);
    }
    checks(scene, ours).assert_same(&theirs);
    checks(scene, &ours.dma()).assert_same(&theirs);
}

#[test]
fn seams_at_pages() {
    all(PAGES, &ram(PAGES.0));
}

/// Regions that are added by `insert_region` begin at a page; the map takes any.
#[test]
fn seams_that_are_at_no_page() {
    all(ODD, &by_hand(ODD.0));
}

/// What they can be used for, beside what they do.
#[test]
fn handles_go_where_theirs_go() {
    fn goes<A: GuestAddressSpace<T: Send + Sync> + Send + Sync + 'static>(space: &A) {
        let clone = space.clone();
        let (first, second) = (space.memory(), clone.memory());
        let third = first.clone();
        std::thread::scope(|s| {
            s.spawn(|| first.read_obj::<u64>(GuestAddress(PAGE)).unwrap());
            s.spawn(|| first.read_obj::<u64>(GuestAddress(PAGE)).unwrap());
        });
        let there = std::thread::spawn(move || clone.memory().read_obj::<u64>(GuestAddress(0)));
        there.join().unwrap().unwrap();
        drop(first);
        second.write_obj(5_u64, GuestAddress(8)).unwrap();
        assert_eq!(third.read_obj::<u64>(GuestAddress(8)).unwrap(), 5);
    }
    goes(&theirs(PAGES.0));
    goes(&ram(PAGES.0));
    goes(&ram(PAGES.0).dma());
}

/// A view is an address space by itself where a reference, an `Rc` or an `Arc` of it is
/// taken for one.
#[test]
fn views_are_address_spaces() {
    fn reads<A: GuestAddressSpace>(space: &A) -> u64 {
        space.memory().read_obj(GuestAddress(8)).unwrap()
    }
    fn all_ways<M: GuestMemory + Clone>(memory: &M) {
        memory.write_obj(5_u64, GuestAddress(8)).unwrap();
        assert_eq!(reads(&memory), 5);
        assert_eq!(reads(&std::rc::Rc::new(memory.clone())), 5);
        assert_eq!(reads(&std::sync::Arc::new(memory.clone())), 5);
    }
    let theirs: &GuestMemoryMmap = &theirs(PAGES.0).memory();
    all_ways(theirs);
    all_ways(&*ram(PAGES.0).memory());
    all_ways(&*ram(PAGES.0).dma().memory());
}
