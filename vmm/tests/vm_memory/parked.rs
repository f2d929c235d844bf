//! A chain that is parked: what it pins, and what it does not.

use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use gracefault::memory::Backing;
use gracefault::memory::vm_memory::{GuestRam, RegionError};
use gracefault::mm::{AddrRange, DrainReport, LockOptions, MmStats, OnSlow, Published, WriteError};
use virtio_bindings::bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::desc::{RawDescriptor, split::Descriptor};
use virtio_queue::mock::MockSplitQueue;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

use super::{PAGE, memory, ram};

/// Plugged blocks behind the queue's memory.
const BLOCKS: [u64; 3] = [16 * PAGE, 17 * PAGE, 18 * PAGE];

fn soon() -> Option<Instant> {
    Some(Instant::now() + Duration::from_millis(50))
}

fn names(drain: &DrainReport) -> Vec<String> {
    let holders = drain.holders.iter();
    holders.map(|holder| holder.thread.clone()).collect()
}

/// A thread that unmaps, and the names of those that it has to wait for, told as soon as
/// it has found them.
fn unmap_telling(
    ram: &GuestRam,
    range: AddrRange,
) -> (JoinHandle<Published<Backing>>, Receiver<Vec<String>>) {
    let space = ram.space().clone();
    let (found, holders) = mpsc::channel();
    let writer = thread::spawn(move || {
        let mut section = space.mm().mmap_write_lock().unwrap();
        section.unmap(range).unwrap();
        // Nobody may be listening any more.
        let mut tell = |report: &DrainReport| _ = found.send(names(report));
        let options = LockOptions {
            on_slow: Some(OnSlow {
                after: Duration::ZERO,
                call: &mut tell,
            }),
            ..LockOptions::default()
        };
        section.lock_with(options).unwrap().publish()
    });
    (writer, holders)
}

/// A chain of one buffer that crosses from the first block into the second is parked on
/// another thread. Removing either fails by its deadline and names the thread; the third
/// goes at once, which is to say that its drain finds nobody and begins no second round;
/// and the first two when the chain is done.
#[test]
fn it_holds_its_regions_and_no_other() {
    let ram = ram(&[
        (0, 16 * PAGE),
        (BLOCKS[0], PAGE),
        (BLOCKS[1], PAGE),
        (BLOCKS[2], PAGE),
    ]);
    let dma = ram.dma();
    let driver = dma.memory();
    let mock = MockSplitQueue::new(&*driver, 16);
    let head = Descriptor::new(BLOCKS[1] - 256, 512, VRING_DESC_F_WRITE as u16, 0);
    let mut queue: Queue = mock.create_queue().unwrap();
    mock.add_desc_chains(&[RawDescriptor::from(head)], 0)
        .unwrap();

    let (parked, is_parked) = mpsc::channel();
    let (done, disk) = mpsc::channel::<()>();
    let device = dma.clone();
    let worker = thread::Builder::new().name("disk".into()).spawn(move || {
        let chain = queue.pop_descriptor_chain(device.memory()).unwrap();
        let memory = device.memory();
        let mut writer = chain.clone().writer(&memory).unwrap();
        parked.send(()).unwrap();
        disk.recv().unwrap();
        std::io::Write::write_all(&mut writer, &[0x5a; 512]).unwrap();
    });
    let worker = worker.unwrap();
    is_parked.recv().unwrap();

    for block in &BLOCKS[..2] {
        let error = ram
            .remove_region(GuestAddress(*block), PAGE, soon())
            .unwrap_err();
        let RegionError::Write(WriteError::TimedOut { report: drain }) = error else {
            panic!("{error}");
        };
        assert_eq!(drain.holders.len(), 1, "{drain}");
        assert_eq!(drain.holders[0].thread, "disk");
    }
    let before = ram.space().mm().stats();
    let late = Instant::now() + Duration::from_secs(60);
    let gone = ram
        .remove_region(GuestAddress(BLOCKS[2]), PAGE, Some(late))
        .unwrap();
    assert!(gone.drain.holders.is_empty(), "{}", gone.drain);
    let after = ram.space().mm().stats();
    let waits = |stats: MmStats| (stats.drains, stats.drained_readers, stats.drain_rounds);
    assert_eq!(waits(after), waits(before), "it waited for nothing");
    ram.insert_region(GuestAddress(BLOCKS[2]), memory(PAGE))
        .unwrap();

    // One that waits for it.
    let (writer, holders) = unmap_telling(&ram, AddrRange::new(BLOCKS[0], PAGE).unwrap());
    assert_eq!(holders.recv().unwrap(), ["disk"]);
    assert!(!writer.is_finished());
    done.send(()).unwrap();
    worker.join().unwrap();
    let gone = writer.join().unwrap();
    assert_eq!(names(&gone.drain), ["disk"]);
    let gone = gone.removed[0].payload().memory().unwrap();
    let mut bytes = [0; 256];
    gone.read(PAGE - 256, &mut bytes).unwrap();
    assert_eq!(bytes, [0x5a; 256], "written before it went");
    ram.remove_region(GuestAddress(BLOCKS[1]), PAGE, soon())
        .unwrap();
}

/// A chain that has one of two blocks that are unplugged together asks for the other:
/// it gets it, since the unplug waits for the chain anyway.
#[test]
fn it_gets_the_second_of_two_that_go_together() {
    let (mut admissions, mut waits) = (0, 0);
    for _ in 0..50 {
        let ram = ram(&[(0, PAGE), (BLOCKS[0], PAGE), (BLOCKS[1], PAGE)]);
        let memory = ram.dma().memory();
        memory.write_obj(1_u32, GuestAddress(BLOCKS[0])).unwrap();
        let both = AddrRange::new(BLOCKS[0], 2 * PAGE).unwrap();
        let (writer, holders) = unmap_telling(&ram, both);
        // It has found who has the first, and waits.
        assert_eq!(holders.recv().unwrap().len(), 1);
        while ram.space().mm().lock_vma_under_rcu(BLOCKS[1]).is_some() {
            thread::yield_now();
        }
        let begun = ram.space().mm().stats();
        memory.write_obj(2_u32, GuestAddress(BLOCKS[1])).unwrap();
        // Across the border too.
        memory
            .write_slice(&[3; 64], GuestAddress(BLOCKS[1] - 32))
            .unwrap();
        let stats = ram.space().mm().stats();
        admissions += stats.nested_admission - begun.nested_admission;
        waits += stats.lookup_wait - begun.lookup_wait;
        drop(memory);
        let gone = writer.join().unwrap();
        assert_eq!(gone.removed.len(), 2);
        assert!(!gone.drain.holders.is_empty());
    }
    // One that looks while a round of the drain ends has nothing left to wait for.
    assert!(admissions > waits, "{admissions} let in, {waits} slept");
}

/// Chains with several buffers are read and written across seams.
#[test]
fn chains_cross_seams() {
    let ram = ram(&[
        (0, 16 * PAGE),
        (BLOCKS[0], PAGE),
        (BLOCKS[1], PAGE),
        (BLOCKS[2], PAGE),
    ]);
    let dma = ram.dma();
    let driver = dma.memory();
    let mock = MockSplitQueue::new(&*driver, 16);
    let mut queue: Queue = mock.create_queue().unwrap();
    let next = VRING_DESC_F_NEXT as u16;
    let write = VRING_DESC_F_WRITE as u16;
    let from = Descriptor::new(BLOCKS[0] - 100, 200, next, 1);
    // All of one block, and some of both beside it.
    let to = Descriptor::new(BLOCKS[1] - 8, (PAGE + 16) as u32, write, 0);
    mock.add_desc_chains(&[from, to].map(RawDescriptor::from), 0)
        .unwrap();
    driver
        .write_slice(&[7; 200], GuestAddress(BLOCKS[0] - 100))
        .unwrap();

    let memory = dma.memory();
    let chain = queue.iter(dma.memory()).unwrap().next().unwrap();
    let mut reader = chain.clone().reader(&memory).unwrap();
    let mut data = [0; 200];
    std::io::Read::read_exact(&mut reader, &mut data).unwrap();
    assert_eq!(data, [7; 200]);
    let mut writer = chain.clone().writer(&memory).unwrap();
    assert_eq!(writer.available_bytes(), PAGE as usize + 16);
    let data: Vec<u8> = (0..PAGE + 16).map(|i| i as u8 ^ 0x33).collect();
    std::io::Write::write_all(&mut writer, &data).unwrap();
    queue
        .add_used(&*memory, chain.head_index(), data.len() as u32)
        .unwrap();
    assert_eq!(mock.used().idx().load(), 1);
    let mut back = vec![0; data.len()];
    driver
        .read_slice(&mut back, GuestAddress(BLOCKS[1] - 8))
        .unwrap();
    assert_eq!(back, data);
}
