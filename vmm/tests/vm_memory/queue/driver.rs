//! What a driver has written: rings, tables and buffers across the seams of memory.

use virtio_bindings::bindings::virtio_ring::{
    VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE,
};
use virtio_queue::desc::{RawDescriptor, split::Descriptor};
use vm_memory::{Bytes, GuestAddress, GuestMemory};

use crate::PAGE;
use crate::conformance::log::digest;

/// What the rings, the tables and the buffers below lie across the seams of.
pub(super) const REGIONS: [(u64, u64); 12] = [
    (0, PAGE),
    (PAGE, PAGE),
    (2 * PAGE, PAGE),
    (8 * PAGE, 2 * PAGE),
    (10 * PAGE, 2 * PAGE),
    (12 * PAGE, PAGE),
    (13 * PAGE, PAGE),
    (14 * PAGE, PAGE),
    (15 * PAGE, PAGE),
    (16 * PAGE, PAGE),
    // The mock's own queues, and where it has its indirect tables.
    (0x2000_0000, 4 * PAGE),
    (0x3000_0000, 2 * PAGE),
];

pub(super) const SIZE: u16 = 16;
pub(super) const TABLE: u64 = PAGE - 64;
pub(super) const AVAIL: u64 = 2 * PAGE - 10;
/// The first element lies across.
pub(super) const USED: u64 = 10 * PAGE - 8;
const INDIRECT: u64 = 15 * PAGE - 24;
pub(super) const HOLE: u64 = 17 * PAGE;

const NEXT: u16 = VRING_DESC_F_NEXT as u16;
pub(super) const WRITE: u16 = VRING_DESC_F_WRITE as u16;
const TABLE_OF: u16 = VRING_DESC_F_INDIRECT as u16;

/// The table: good chains, and each kind of bad one. The heads are in `HEADS`.
fn descriptors() -> [Descriptor; SIZE as usize] {
    let none = Descriptor::new(0, 0, 0, 0);
    [
        // A request of three parts, each but the last across a seam.
        Descriptor::new(13 * PAGE - 8, 16, NEXT, 1),
        Descriptor::new(14 * PAGE - 100, 200, NEXT | WRITE, 2),
        Descriptor::new(14 * PAGE + 500, 1, WRITE, 0),
        // One that is in another table, which lies across a seam too.
        Descriptor::new(INDIRECT, 48, TABLE_OF, 0),
        // Goes on past the end of the table.
        Descriptor::new(12 * PAGE, 8, NEXT, 20),
        // Goes round.
        Descriptor::new(12 * PAGE, 8, NEXT, 6),
        Descriptor::new(12 * PAGE + 8, 8, NEXT, 5),
        // Where no memory is.
        Descriptor::new(HOLE + PAGE, 10, WRITE, 0),
        // More than 2^32 bytes.
        Descriptor::new(12 * PAGE, u32::MAX, NEXT, 9),
        Descriptor::new(12 * PAGE, 10, 0, 0),
        // Tables that are none: of half a descriptor, one in another, and one nowhere.
        Descriptor::new(INDIRECT, 17, TABLE_OF, 0),
        Descriptor::new(12 * PAGE + 0x100, 16, TABLE_OF, 0),
        Descriptor::new(HOLE, 32, TABLE_OF, 0),
        // Into a hole, after what is there.
        Descriptor::new(HOLE - 10, 20, NEXT, 14),
        Descriptor::new(HOLE - 10, 20, WRITE, 0),
        none,
    ]
}

pub(super) const HEADS: [u16; 11] = [0, 3, 4, 5, 7, 8, 10, 11, 12, 13, 99];

/// What a driver has written.
pub(super) fn drive(memory: &impl GuestMemory) {
    let write = |i: usize, at: u64, descriptor: Descriptor| {
        let at = GuestAddress(at + 16 * i as u64);
        let raw = RawDescriptor::from(descriptor);
        memory.write_obj(raw, at).unwrap();
    };
    for (i, descriptor) in descriptors().into_iter().enumerate() {
        write(i, TABLE, descriptor);
    }
    let indirect = [
        Descriptor::new(13 * PAGE - 8, 16, NEXT, 1),
        Descriptor::new(16 * PAGE - 3, 6, NEXT, 2),
        Descriptor::new(16 * PAGE + 100, 10, WRITE, 0),
    ];
    for (i, descriptor) in indirect.into_iter().enumerate() {
        write(i, INDIRECT, descriptor);
    }
    let nested = Descriptor::new(INDIRECT, 48, TABLE_OF, 0);
    write(0, 12 * PAGE + 0x100, nested);
    let data: Vec<u8> = (0..64).map(|i| i * 3 + 1).collect();
    for at in [13 * PAGE - 8, 16 * PAGE - 3, HOLE - 10] {
        let data = &data[..if at == HOLE - 10 { 10 } else { 16 }];
        memory.write_slice(data, GuestAddress(at)).unwrap();
    }
    let put = |offset: u64, value: u16| {
        let at = GuestAddress(AVAIL + offset);
        memory.write_obj(value.to_le(), at).unwrap();
    };
    for (i, head) in HEADS.into_iter().enumerate() {
        put(4 + 2 * i as u64, head);
    }
    put(2, HEADS.len() as u16);
}

/// What is in all the memory.
pub(super) fn contents(memory: &impl GuestMemory) -> u64 {
    let mut all = Vec::new();
    for (base, size) in REGIONS {
        let mut bytes = vec![0; size as usize];
        memory.read_slice(&mut bytes, GuestAddress(base)).unwrap();
        all.extend(bytes);
    }
    digest(&all).1
}
