//! virtio-queue, all of it that takes memory: one body, run on `vm-memory`'s types and on
//! ours, with everything across seams. What each call came to is compared.

#[path = "queue/chain.rs"]
mod chain;
#[path = "queue/driver.rs"]
mod driver;
#[path = "queue/mock.rs"]
mod mock;

use std::num::Wrapping;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use gracefault::memory::vm_memory::{GuestDma, GuestRam};
use virtio_queue::{
    AvailIter, DescriptorChain, Error, Queue, QueueOwnedT, QueueState, QueueSync, QueueT,
};
use vm_memory::{
    Bytes, GuestAddress, GuestAddressSpace, GuestMemory, GuestMemoryAtomic, GuestMemoryMmap,
};

use super::conformance::log::Log;
use super::{ram, theirs};
use chain::chain_of;
use driver::{AVAIL, HEADS, HOLE, REGIONS, SIZE, TABLE, USED, contents, drive};
use mock::with_mock;

use crate::PAGE;

fn configure(queue: &mut impl QueueT) {
    let halves = |at: u64| (Some(at as u32), Some((at >> 32) as u32));
    let (low, high) = halves(TABLE);
    queue.set_desc_table_address(low, high);
    let (low, high) = halves(AVAIL);
    queue.set_avail_ring_address(low, high);
    let (low, high) = halves(USED);
    queue.set_used_ring_address(low, high);
    queue.set_size(SIZE);
    queue.set_ready(true);
}

/// Every method of `QueueT` and `QueueOwnedT`, by whichever queue.
fn with_queue<Q: QueueT, A: GuestAddressSpace>(space: &A) -> Log {
    let mut log = Log::default();
    let memory = space.memory();
    let memory = &*memory;
    drive(memory);
    for size in [0, 3, u16::MAX] {
        log.note("new", (size, Q::new(size).map(|_| ())));
    }
    let mut queue = Q::new(SIZE).unwrap();
    log.note("is_valid before", queue.is_valid(memory));
    log.note("pop before", queue.pop_descriptor_chain(memory).is_some());
    configure(&mut queue);
    log.note("is_valid", queue.is_valid(memory));
    // What is not aligned is not taken.
    queue.set_desc_table_address(Some(8), None);
    queue.set_avail_ring_address(Some(1), None);
    queue.set_used_ring_address(Some(2), None);
    queue.set_size(5);
    let rings = |queue: &Q| (queue.desc_table(), queue.avail_ring(), queue.used_ring());
    log.note("rings", (rings(&queue), queue.size(), queue.max_size()));

    rings_that_are_nowhere::<Q>(memory, &mut log);
    notifications(&mut queue, memory, &mut log);
    for _ in 0..HEADS.len() + 1 {
        let chain = queue.pop_descriptor_chain(space.memory());
        log.note("next_avail", queue.next_avail());
        let Some(chain) = chain else {
            log.note("no more", ());
            break;
        };
        let head = chain.head_index();
        log.note("chain", head);
        let used = chain_of::<A>(&chain, memory, &mut log);
        log.note("add_used", queue.add_used(memory, head, used));
        let needs = queue.needs_notification(memory);
        log.note("needs_notification", needs);
        log.note("next_used", queue.next_used());
        log.note("memory", contents(memory));
    }
    // Once more, by the queue inside.
    queue.set_next_avail(0);
    queue.set_next_used(HEADS.len() as u16 - 1);
    owned(&mut queue.lock(), space, &mut log);
    log.note("memory", contents(memory));
    queue.reset();
    log.note("reset", (rings(&queue), queue.ready(), queue.next_avail()));
    log
}

/// Everything that says where the rings are fails as it does there.
fn rings_that_are_nowhere<Q: QueueT>(memory: &impl GuestMemory, log: &mut Log) {
    for at in [HOLE, HOLE - 16, HOLE + 4 * PAGE, u64::MAX - 15] {
        for ring in 0..3 {
            let mut queue = Q::new(SIZE).unwrap();
            configure(&mut queue);
            let (low, high) = (Some(at as u32), Some((at >> 32) as u32));
            match ring {
                0 => queue.set_desc_table_address(low, high),
                1 => queue.set_avail_ring_address(low, high),
                _ => queue.set_used_ring_address(low, high),
            }
            queue.set_event_idx(true);
            let at = (at, ring);
            log.note("is_valid", (at, queue.is_valid(memory)));
            let avail = queue.avail_idx(memory, Ordering::Acquire);
            log.note("avail_idx", (at, avail));
            let used = queue.used_idx(memory, Ordering::Acquire);
            log.note("used_idx", (at, used));
            let enabled = queue.enable_notification(memory);
            log.note("enable_notification", (at, enabled));
            let needs = queue.needs_notification(memory);
            log.note("needs_notification", (at, needs));
            queue.set_event_idx(false);
            let disabled = queue.disable_notification(memory);
            log.note("disable_notification", (at, disabled));
            queue.set_next_avail(HEADS.len() as u16);
            let chain = queue.pop_descriptor_chain(memory);
            log.note("pop", (at, chain.map(|chain| chain.head_index())));
            // Well inside where the used ring is there; far into it where it is not.
            queue.set_next_used(SIZE - 1);
            log.note("add_used", (at, queue.add_used(memory, 0, 1)));
        }
    }
    drive(memory);
}

fn notifications<Q: QueueT>(queue: &mut Q, memory: &impl GuestMemory, log: &mut Log) {
    let flags = |memory| Bytes::<GuestAddress>::read_obj::<u16>(memory, GuestAddress(USED));
    let event = GuestAddress(USED + 4 + 8 * u64::from(SIZE));
    let wants = GuestAddress(AVAIL + 4 + 2 * u64::from(SIZE));
    for event_idx in [false, true] {
        queue.set_event_idx(event_idx);
        log.note("event_idx", queue.event_idx_enabled());
        log.note("disable", queue.disable_notification(memory));
        log.note("flags", flags(memory).unwrap());
        log.note("enable", queue.enable_notification(memory));
        log.note("flags", flags(memory).unwrap());
        log.note("avail event", memory.read_obj::<u16>(event).unwrap());
        for used_event in [0_u16, 1, 5] {
            memory.write_obj(used_event, wants).unwrap();
            log.note("add_used", queue.add_used(memory, 1, used_event.into()));
            log.note("needs", queue.needs_notification(memory));
            log.note("needs again", queue.needs_notification(memory));
        }
        let none = queue.add_used(memory, SIZE, 0);
        log.note("add_used of none", none);
        for order in [Ordering::Relaxed, Ordering::Acquire, Ordering::SeqCst] {
            log.note("avail_idx", queue.avail_idx(memory, order));
            log.note("used_idx", queue.used_idx(memory, order));
        }
        log.note("memory", contents(memory));
    }
    queue.set_next_used(0);
}

fn owned<A: GuestAddressSpace>(queue: &mut Queue, space: &A, log: &mut Log) {
    let mut heads = Vec::new();
    let mut iter: AvailIter<'_, A::T> = queue.iter(space.memory()).unwrap();
    heads.extend(iter.next().map(|chain| chain.head_index()));
    iter.go_to_previous_position();
    heads.extend(iter.by_ref().map(|chain| chain.head_index()));
    log.note("heads", heads);
    queue.go_to_previous_position();
    let mut last = queue.iter(space.memory()).unwrap();
    log.note(
        "the last again",
        last.next().map(|chain| chain.head_index()),
    );

    // What the driver says is more than there can be.
    let index = GuestAddress(AVAIL + 2);
    let memory = space.memory();
    memory
        .write_obj(queue.next_avail() + SIZE + 1, index)
        .unwrap();
    log.note("too many", queue.iter(space.memory()).map(|_| ()));
    memory.write_obj(HEADS.len() as u16, index).unwrap();

    // Saved, and restored.
    let state: QueueState = queue.state();
    log.note("state", state);
    let mut restored = Queue::try_from(state).unwrap();
    log.note("restored", (restored.is_valid(&*memory), &restored));
    restored.set_next_avail(0);
    let count = restored.iter(space.memory()).unwrap().count();
    log.note("restored", count);
    for wrong in [
        QueueState {
            max_size: 3,
            ..state
        },
        QueueState { size: 3, ..state },
        QueueState {
            desc_table: 8,
            ..state
        },
        QueueState {
            avail_ring: 1,
            ..state
        },
        QueueState {
            used_ring: 2,
            ..state
        },
    ] {
        log.note("restored", Queue::try_from(wrong));
    }
    log.note("try", restored.try_set_size(5));
    log.note("try", restored.try_set_desc_table_address(GuestAddress(8)));
    log.note("try", restored.try_set_avail_ring_address(GuestAddress(1)));
    log.note("try", restored.try_set_used_ring_address(GuestAddress(2)));
    restored.set_ready(false);
    log.note("not ready", restored.iter(space.memory()).map(|_| ()));
    // One that threads share, made of it.
    let shared = QueueSync::from(Queue::try_from(state).unwrap());
    log.note("shared", shared.is_valid(&*memory));
    let shared = QueueSync::from(Arc::new(Mutex::new(restored)));
    log.note("shared", shared.used_idx(&*memory, Ordering::Acquire));
}

/// What is compared has to be what is meant.
fn sanity<A: GuestAddressSpace>(space: &A) {
    let memory = space.memory();
    drive(&*memory);
    let mut queue = Queue::new(SIZE).unwrap();
    configure(&mut queue);
    assert!(queue.is_valid(&*memory));
    let lengths = |chain: DescriptorChain<A::T>| chain.map(|d| d.len()).collect::<Vec<_>>();
    let chains: Vec<_> = queue.iter(space.memory()).unwrap().map(lengths).collect();
    assert_eq!(chains[0], [16, 200, 1]);
    assert_eq!(chains[1], [16, 6, 10], "by the other table");
    assert_eq!(chains[3].len(), SIZE as usize, "round, but not for ever");
    for (i, len) in [(2, 1), (5, 1), (6, 0), (7, 0), (8, 0), (10, 0)] {
        assert_eq!(chains[i].len(), len, "chain {i}");
    }
    let index = queue.avail_idx(&*memory, Ordering::Acquire);
    assert_eq!(index, Ok::<_, Error>(Wrapping(HEADS.len() as u16)));
}

fn compare(run: impl Fn(Which<'_>) -> Log) {
    let theirs = run(Which::Theirs(&theirs(&REGIONS)));
    assert!(theirs.len() > 10, "{} lines", theirs.len());
    run(Which::Ram(&ram(&REGIONS))).assert_same(&theirs);
    run(Which::Dma(&ram(&REGIONS).dma())).assert_same(&theirs);
}

enum Which<'a> {
    Theirs(&'a GuestMemoryAtomic<GuestMemoryMmap>),
    Ram(&'a GuestRam),
    Dma(&'a GuestDma),
}

#[test]
fn queues_do_the_same() {
    compare(|space| match space {
        Which::Theirs(space) => with_queue::<Queue, _>(space),
        Which::Ram(space) => with_queue::<Queue, _>(space),
        Which::Dma(space) => with_queue::<Queue, _>(space),
    });
}

#[test]
fn shared_queues_do_the_same() {
    compare(|space| match space {
        Which::Theirs(space) => with_queue::<QueueSync, _>(space),
        Which::Ram(space) => with_queue::<QueueSync, _>(space),
        Which::Dma(space) => with_queue::<QueueSync, _>(space),
    });
}

#[test]
fn the_mock_driver_does_the_same() {
    compare(|space| match space {
        Which::Theirs(space) => with_mock(space),
        Which::Ram(space) => with_mock(space),
        Which::Dma(space) => with_mock(space),
    });
}

#[test]
fn the_chains_are_what_they_are_meant_to_be() {
    sanity(&theirs(&REGIONS));
    sanity(&ram(&REGIONS).dma());
}
